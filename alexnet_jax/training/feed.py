"""Batches on the devices before the loop asks for them."""

import contextlib
import math
import os
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from absl import logging
from jax.sharding import NamedSharding

from alexnet_jax.data import pipeline
from alexnet_jax.data.builders import Dataset
from alexnet_jax.runtime import distributed
from alexnet_jax.training.settings import Data

_FEW = 4  # cores: two threads read as fast as the step there takes
_PATIENCE = 30  # seconds that `close` waits for a batch that is being read
_WORTH = 16  # batches for which a worker is worth its start


class Feed:
  """A thread that reads a stream and puts its batches on the devices.

  Two batches are ahead of the loop: one waits to be taken, the next one is
  put. An error of the stream comes to the loop in the place of its batch.
  """

  def __init__(
    self, stream: pipeline.Batches, put: Callable[[dict[str, Any]], Any]
  ):
    """Starts the thread.

    Args:
      stream: closed by `close`, or at its end.
      put: makes of a batch what the loop is to have, arrays on the devices
        among it; it need not wait for them to arrive.
    """
    self._stream, self._put = stream, put
    self._queue: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(1)
    self._next: tuple[Any, BaseException | None] | None = None
    self._closed = threading.Event()
    self._thread = threading.Thread(target=self._run, daemon=True)
    self._thread.start()

  def ready(self, seconds: float) -> bool:
    """Whether the next batch has arrived; waits for it at most so long."""
    if self._next is None:
      try:
        self._next = self._queue.get(timeout=seconds)
      except queue.Empty:
        return False
    arrays: list[Any] = [
      x for x in jax.tree.leaves(self._next[0]) if isinstance(x, jax.Array)
    ]
    if all(array.is_ready() for array in arrays):
      return True
    time.sleep(seconds)
    return False

  def __iter__(self) -> Iterator[Any]:
    return self

  def __next__(self) -> Any:
    batch, error = self._next or self._queue.get()
    self._next = None
    if error is not None:
      self._next = None, error  # nothing comes after it
      raise error
    return batch

  def close(self) -> None:
    """Ends the thread, which closes the stream."""
    self._closed.set()
    self._next = None
    end = time.monotonic() + _PATIENCE
    while self._thread.is_alive() and time.monotonic() < end:
      with contextlib.suppress(queue.Empty):  # the thread may wait for room
        self._queue.get(timeout=0.01)

  def __enter__(self) -> 'Feed':
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def _run(self) -> None:
    end: BaseException = StopIteration()
    try:
      with contextlib.closing(self._stream):
        for batch in self._stream:
          if self._closed.is_set():
            return
          self._queue.put((self._put(batch), None))
    except BaseException as error:  # it is raised where the batch is taken
      end = error
    if not self._closed.is_set():
      self._queue.put((None, end))


def choose_readers(
  reading: Data,
  place: NamedSharding,
  dataset: Dataset,
  rows: int,
  steps: int | None = None,
) -> dict[str, Any]:
  """How many processes or threads read, as `config.data.workers` says; never
  more processes than cores, which would only wait for each other. Processes of
  the run that share cores, or memory, have equal parts of them.

  With -1, two threads do on up to four cores without an accelerator, and four
  on more. Accelerators take more than Python's threads can give: beside them
  there is a worker for each core but two, where the memory that workers share
  holds their batches, or else a thread for each core.

  Args:
    reading: `config.data`.
    place: how a batch lies on the devices.
    dataset: of `builders.open_dataset`.
    rows: of a batch, those that this process reads.
    steps: how many batches there are; None: no end.

  Returns:
    'workers', 'threads' and 'prefetch' of `pipeline.training_batches`.
  """
  here, sharing = distributed.processes_here()
  cores = max(1, len(os.sched_getaffinity(0)) // sharing)
  workers, threads = min(reading.workers, cores), 2
  if workers < 0:
    accelerated = place.mesh.devices.flat[0].platform != 'cpu'
    workers, threads = 0, 2 if cores <= _FEW else 4
    if accelerated:
      workers, threads = max(0, cores - 2) if cores > _FEW else 0, cores
      if cores == 1 < (os.cpu_count() or 1):
        logging.log_first_n(
          logging.WARNING,
          'This process reads photographs on one of the %d cores of this '
          'machine, and an accelerator takes more than one can read: ask the '
          'scheduler for more (of Slurm: srun --cpus-per-task)',
          1,
          os.cpu_count(),
        )
      if steps is not None:  # it takes seconds to start a worker
        workers = min(workers, steps // _WORTH)
      batch = rows * math.prod((dataset.image_size, dataset.image_size, 3))
      # Of each worker: the batches kept ready, and the one being made.
      need = workers * (reading.prefetch + 1) * batch
      free = _shared_memory() // here
      if need > free / 2:
        logging.log_first_n(
          logging.WARNING,
          'Threads read, for %d processes would hold %.1f GB, more than half '
          'of the %.1f GB that /dev/shm has free (docker run --shm-size)',
          1,
          *(workers, need / 1e9, free / 1e9),
        )
        workers = 0
  return {
    'workers': workers,
    'threads': threads,
    'prefetch': reading.prefetch,
  }


def _shared_memory() -> int:
  """Bytes free where workers leave their batches; containers have little."""
  try:
    return shutil.disk_usage('/dev/shm').free
  except OSError:
    return 0
