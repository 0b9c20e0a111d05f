"""Leaving on request: after the step that runs, with everything saved."""

import signal
import sys
from types import FrameType

# sysexits.h EX_TEMPFAIL: nothing is wrong, run the same command again.
STOPPED = 75


class StopRequest:
  """True from the first SIGTERM or Ctrl-C on; a second Ctrl-C leaves at once.

  A context manager, in the main thread, that puts the old handlers back.
  """

  def __init__(self) -> None:
    self._name = ''
    self._old: dict[signal.Signals, object] = {}

  def __bool__(self) -> bool:
    return bool(self._name)

  def __enter__(self) -> 'StopRequest':
    for number in (signal.SIGTERM, signal.SIGINT):
      self._old[number] = signal.signal(number, self._handle)
    return self

  def __exit__(self, *_) -> None:
    for number, handler in self._old.items():
      signal.signal(number, handler)  # type: ignore[arg-type]

  def _handle(self, number: int, _: FrameType | None) -> None:
    if self._name and number == signal.SIGINT:
      # The default action: no cleaning up, as asked for.
      signal.signal(number, signal.SIG_DFL)
      signal.raise_signal(number)
    self._name = signal.Signals(number).name
    print(
      f'\n{self._name}: saving after this step, then leaving '
      '(Ctrl-C again leaves at once)',
      file=sys.stderr,
      flush=True,
    )
