"""Leaving on request: after the step that runs, with everything saved."""

import signal
import sys
from types import FrameType

import jax
from jax.experimental import multihost_utils

# sysexits.h EX_TEMPFAIL: nothing is wrong, run the same command again.
STOPPED = 75


def leave_on_sigterm() -> None:
  """Has SIGTERM end this process, where there is nothing to save.

  JAX's handler, which several processes have, waits for a `StopRequest`.
  """
  signal.signal(signal.SIGTERM, signal.SIG_DFL)


class StopRequest:
  """Made by SIGTERM or Ctrl-C; a second Ctrl-C leaves at once.

  A context manager, in the main thread, that puts the old handlers back. Of
  several processes it is enough to ask one: all leave after the same step.
  """

  def __init__(self) -> None:
    self._alone = jax.process_count() == 1
    self._name = ''
    self._old: dict[signal.Signals, object] = {}

  def due(self, step: int) -> bool:
    """Whether to leave after this step; to be called after each."""
    if self._alone:
      return bool(self._name)
    due = multihost_utils.reached_preemption_sync_point(step)
    if due and jax.process_index() == 0:
      _say(f'asked to stop: saving after step {step}, then all leave')
    return due

  def __enter__(self) -> 'StopRequest':
    numbers = [signal.SIGINT]
    if self._alone:
      numbers.append(signal.SIGTERM)  # else JAX's, which tells the others
    for number in numbers:
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
    _say(
      f'{self._name}: saving after this step, then leaving '
      '(Ctrl-C again leaves at once)'
    )
    if not self._alone:
      signal.raise_signal(signal.SIGTERM)


def _say(message: str) -> None:
  print(f'\n{message}', file=sys.stderr, flush=True)
