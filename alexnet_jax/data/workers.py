"""The process pool of `prepare`: photographs in, records out, in order."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import io
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool

import tensorflow_datasets as tfds

from alexnet_jax.data import photographs
from alexnet_jax.data.sources import Example
from alexnet_jax.data.stats import Sums
from alexnet_jax.runtime.errors import UserError

CHUNK = 32  # examples per task


@dataclasses.dataclass
class Result:
  """What a task made of its chunk."""

  records: list[bytes]  # serialized tf.train.Example
  problems: list[str]  # 'name: why', of images left out
  sums: Sums  # over the pixels as they will be read back


@dataclasses.dataclass(frozen=True)
class Task:
  """Turns a chunk of examples into records."""

  features: tfds.features.FeaturesDict
  jpeg: bool
  measure: bool  # sum the pixels too

  def __call__(self, chunk: Sequence[Example]) -> Result:
    records, problems, images = [], [], []
    for example in chunk:
      try:
        image = example.read()
      except photographs.BadImageError as error:
        problems.append(f'{example.name}: {error}')
        continue
      stored: photographs.Pixels | io.BytesIO = image
      if self.jpeg:
        data = photographs.encode_jpeg(image)
        stored, image = io.BytesIO(data), photographs.decode_jpeg(data)
      images.append(image)
      record = {'image': stored, 'label': example.label}
      records.append(self.features.serialize_example(record))
    measure = self.measure and images
    return Result(records, problems, Sums.of(images) if measure else Sums())


@contextlib.contextmanager
def pool(workers: int) -> Iterator[concurrent.futures.Executor]:
  """A pool that dies with its parent and leaves no work behind on an error."""
  executor = concurrent.futures.ProcessPoolExecutor(
    workers, multiprocessing.get_context('spawn'), _start_worker
  )
  try:
    yield executor
  except BrokenProcessPool as error:
    raise UserError(
      'a worker process was killed, perhaps for want of memory: try fewer '
      '--workers'
    ) from error
  finally:
    executor.shutdown(cancel_futures=True)


def in_order(
  executor: concurrent.futures.Executor,
  task: Task,
  examples: Sequence[Example],
  in_flight: int,
) -> Iterator[Result]:
  """Results chunk by chunk, with at most `in_flight` begun and not yielded."""
  chunks = (
    examples[start : start + CHUNK] for start in range(0, len(examples), CHUNK)
  )
  futures = (executor.submit(task, chunk) for chunk in chunks)  # when asked
  waiting = collections.deque(itertools.islice(futures, in_flight))
  while waiting:
    result = waiting.popleft().result()
    waiting.extend(itertools.islice(futures, 1))
    yield result


def _start_worker() -> None:
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
  threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
  # The queue's pipe stays open on both ends in a worker, so nothing else tells
  # it that its parent was killed.
  parent = multiprocessing.parent_process()
  assert parent is not None
  parent.join()
  os._exit(1)
