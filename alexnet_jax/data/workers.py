"""The process pool of `prepare`: photographs in, records out, in order."""

import collections
import contextlib
import dataclasses
import io
import itertools
import multiprocessing
import os
import queue
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

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
  labels: list[int]  # theirs
  files: list[bytes]  # theirs, by the names of the examples
  problems: list[str]  # 'name: why', of images left out
  sums: Sums  # over the pixels as they will be read back


@dataclasses.dataclass(frozen=True)
class Task:
  """Turns a chunk of examples into records."""

  features: tfds.features.FeaturesDict
  side: int  # of the square images, pixels
  jpeg: bool
  measure: bool  # sum the pixels too

  def __call__(self, chunk: Sequence[Example]) -> Result:
    records, labels, files, problems, images = [], [], [], [], []
    for example in chunk:
      try:
        image = example.read(self.side)
      except photographs.BadImageError as error:
        problems.append(f'{example.name}: {error}')
        continue
      stored: photographs.Pixels | io.BytesIO = image
      if self.jpeg:
        data = photographs.encode_jpeg(image)
        stored, image = io.BytesIO(data), photographs.decode_jpeg(data)
      images.append(image)
      records.append(self._record({'image': stored, 'label': example.label}))
      labels.append(example.label)
      files.append(os.fsencode(example.name))
    sums = Sums.of(images) if self.measure and images else Sums()
    return Result(records, labels, files, problems, sums)

  def _record(self, example: dict[str, Any]) -> bytes:
    # `features.serialize_example` lets the order of the two fields differ from
    # process to process.
    serializer = tfds.core.ExampleSerializer(
      self.features.get_serialized_info()
    )
    encoded = self.features.encode_example(example)
    message = serializer.get_tf_example(encoded)
    return message.SerializeToString(deterministic=True)


Submit = Callable[[Callable[[Any], Any], Any], Future]


@contextlib.contextmanager
def pool(workers: int) -> Iterator[Submit]:
  """Gives a function that runs `task(chunk)` in one of `workers` processes.

  Each process has a pipe of its own, so that either side sees when the other
  was killed. (Those of `ProcessPoolExecutor` share theirs: one killed while it
  sends blocks it for good, and all outlive a killed parent.)
  """
  context = multiprocessing.get_context('spawn')
  processes = []
  idle: queue.SimpleQueue[Connection] = queue.SimpleQueue()
  for _ in range(workers):
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    idle.put(ours)
    processes.append(process)
  threads = ThreadPoolExecutor(workers)
  try:
    yield lambda task, chunk: threads.submit(_run, idle, task, chunk)
  finally:
    for process in processes:
      process.terminate()
    threads.shutdown(cancel_futures=True)


def in_order(
  submit: Submit, task: Task, examples: Sequence[Example], in_flight: int
) -> Iterator[Result]:
  """Results chunk by chunk, with at most `in_flight` begun and not yielded."""
  chunks = (
    examples[start : start + CHUNK] for start in range(0, len(examples), CHUNK)
  )
  futures = (submit(task, chunk) for chunk in chunks)  # when asked
  waiting = collections.deque(itertools.islice(futures, in_flight))
  while waiting:
    result = waiting.popleft().result()
    waiting.extend(itertools.islice(futures, 1))
    yield result


def _run(
  idle: queue.SimpleQueue[Connection], task: Callable[[Any], Any], chunk: Any
) -> Any:
  """Here, in a thread: one request to a process that has nothing to do."""
  connection = idle.get()
  try:
    connection.send((task, chunk))
    result = connection.recv()
  except (EOFError, OSError) as error:
    raise UserError(
      'a worker process was killed, perhaps for want of memory: try fewer '
      '--workers'
    ) from error
  finally:
    idle.put(connection)
  if isinstance(result, Exception):
    raise result
  return result


def _serve(connection: Connection) -> None:
  """There, in the process: answers until the other side is gone."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
  with contextlib.suppress(EOFError, OSError):
    while True:
      task, chunk = connection.recv()
      try:
        result = task(chunk)
      except Exception as error:  # any is the parent's to raise
        error.add_note(traceback.format_exc())
        result = error
      connection.send(result)
