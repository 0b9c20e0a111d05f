"""How fast the steps of a run are, and a trace of some of them."""

import contextlib
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
from etils import epath

from alexnet_jax.runtime import files

_LOOK = 0.001  # seconds between two looks at a step that is under way


class Meter:
  """Images per second, and the share of the time in which no step was under
  way for want of a batch.

  A step counts once it is done, not when it is handed to the devices.
  """

  def __init__(self) -> None:
    self.restart()

  def restart(self) -> None:
    """Starts to measure; between steps something else took time."""
    self._start, self._images, self._waited = time.perf_counter(), 0, 0.0
    self._running: Any = None  # the step under way: what it makes, its images

  def step(self, made: Any, images: int) -> None:
    """Takes note of a step that was begun, once the one before is done.

    So one step runs while the next is made ready; more would only hold memory
    and delay a request to stop.

    Args:
      made: arrays that the step makes.
      images: of its batch.
    """
    self._finish()
    self._running = made, images

  @property
  def rate(self) -> float:
    """Images per second since the last row; 0 before a step is done."""
    return self._images / (time.perf_counter() - self._start)

  def wait(self, ready: Callable[[float], bool]) -> None:
    """Waits for a batch, and counts the time that no step is under way.

    Args:
      ready: waits at most so many seconds for the batch to be on the devices,
        and says whether it is.
    """
    before = time.perf_counter()
    while True:
      idle = self._idle()
      done = ready(_LOOK)
      now = time.perf_counter()
      if idle:
        self._waited += now - before
      before = now
      if done:
        return

  def read(self) -> dict[str, float]:
    """The times of a row of metrics, since the last one; of no step, none."""
    self._finish()
    if not self._images:
      return {}
    seconds = time.perf_counter() - self._start
    values = {
      'time/images_per_sec': self._images / seconds,
      'time/waiting': self._waited / seconds,
    }
    self.restart()
    return values

  def _finish(self) -> None:
    if self._running is not None:
      made, images = self._running
      jax.block_until_ready(made)
      self._images += images
      self._running = None

  def _idle(self) -> bool:
    if self._running is None:
      return True
    return all(x.is_ready() for x in jax.tree.leaves(self._running[0]))


class Trace(contextlib.AbstractContextManager['Trace']):
  """Writes a `jax.profiler` trace of the steps START to STOP of a run."""

  def __init__(self, workdir: epath.Path, steps: tuple[int, int] | None):
    self._folder, self._steps = workdir / 'profile', steps
    self._here = self._folder  # where JAX, which knows no buckets, writes
    if jax.process_index():
      self._steps = None  # processes of one host would write one file
    self._running = False

  def before(self, step: int) -> None:
    """To be called before each step, with how many are done."""
    if self._steps is None:
      return
    start, stop = self._steps
    if not self._running and start <= step < stop:
      if files.in_bucket(self._folder):
        self._here = epath.Path(tempfile.mkdtemp())
      jax.profiler.start_trace(self._here)
      self._running = True
    elif self._running and step >= stop:
      self.close()

  def close(self) -> None:
    if self._running:
      jax.profiler.stop_trace()
      if self._here != self._folder:
        with files.explained(self._folder):
          files.upload(self._here, self._folder)
        self._here.rmtree()
      print(f'profile written to {self._folder}', flush=True)
    self._running, self._steps = False, None

  def __exit__(self, *error) -> None:
    if self._steps and not self._running and error == (None, None, None):
      print(f'no profile: the run ended before step {self._steps[0]}')
    self.close()
