"""Batches from prepared records: order, decoding, prefetch (Grain).

The batch of step s is a pure function of (seed, s), so a run resumes by
opening the stream at step s; there is nothing of an iterator to save. The
views are cut on the device (`augment`); nothing is random here but order.
"""

import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Generator, Iterable, Sequence
from concurrent import futures
from typing import Any

import grain
import numpy as np

from alexnet_jax.data import buffers
from alexnet_jax.data.builders import Dataset
from alexnet_jax.data.order import Order
from alexnet_jax.runtime.errors import UserError, parse_no_flags
from alexnet_jax.runtime.writers import Progress

_NO_END = 2**62  # steps
_NO_LEAKS = 'ignore:resource_tracker'  # a warning that is not shown
_PART = 64  # examples that a thread reads at a time into the whole split

Batches = Generator[dict[str, np.ndarray], None, None]


def training_batches(
  dataset: Dataset,
  *,
  seed: int,
  batch_size: int,
  rows: Sequence[int],
  start: int = 0,
  skip: int = 0,
  workers: int = 0,
  threads: int = 2,
  prefetch: int = 4,
  max_bad_records: int = 0,
) -> Batches:
  """An endless stream of this process's part of the training batches.

  Args:
    dataset: of `builders.open_dataset`.
    seed: of the order, shuffled anew in each epoch; an epoch holds every
      example once, a batch may straddle two.
    batch_size: rows of the global batch.
    rows: the rows of it to read (`sharding.local_rows`).
    start: step to open the stream at.
    skip: examples of the order to leave out before step 0.
    workers: processes that read and decode; 0: threads of this one.
    threads: how many of them.
    prefetch: batches kept ready, per worker.
    max_bad_records: how many records may be bad; the caller counts them.

  Returns:
    An iterator, to be closed, of {'image': uint8 [len(rows), size, size, 3],
    'label': int32 [len(rows)], 'replaced': int32 [len(rows)], the index of the
    bad record that another stands in for, else -1}.

  Raises:
    UserError: while iterating: a bad record, or a worker was killed.
  """
  source = _Tolerant(dataset.source('train'), max_bad_records)
  order = Order(seed, len(source))
  read = _TrainingBatch(source, order, batch_size, np.asarray(rows) + skip)
  batches = grain.MapDataset.range(start, _NO_END).map(read)
  return _iterate(batches, workers, threads, prefetch)


def training_indices(
  dataset: Dataset,
  *,
  seed: int,
  batch_size: int,
  rows: Sequence[int],
  start: int = 0,
  skip: int = 0,
) -> Batches:
  """The same stream as that of `training_batches`, of positions only.

  Returns:
    An iterator, to be closed, of {'index': int32 [len(rows)]}.
  """
  order = Order(seed, dataset.num_examples('train'))
  places = skip + start * batch_size + np.asarray(rows)
  while True:
    yield {'index': order.positions(places).astype(np.int32)}
    places = places + batch_size


def read_split(
  dataset: Dataset,
  rows: range,
  max_bad_records: int = 0,
  show: bool = True,
) -> dict[str, np.ndarray]:
  """A part of the training split in memory, to be kept on the devices.

  Args:
    dataset: of `builders.open_dataset`.
    rows: of it, in the order of storage; there may be more than it has.
    max_bad_records: how many records may be bad; the caller counts them.
    show: tell of the progress.

  Returns:
    What `training_batches` gives, for these examples; anything in rows that
    the split does not have.

  Raises:
    UserError: a bad record.
  """
  source = _Tolerant(dataset.source('train'), max_bad_records)
  count, size = len(rows), dataset.image_size
  whole: dict[str, np.ndarray] = {
    'image': np.empty((count, size, size, 3), np.uint8),
    'label': np.zeros(count, np.int32),
    'replaced': np.full(count, -1, np.int32),
  }
  there = rows[: max(0, len(source) - rows.start)]

  def read(start: int) -> int:
    some = there[start : start + _PART]
    part = {name: array[start:] for name, array in whole.items()}
    _fill(part, map(source.__getitem__, some))
    return len(some)

  with (
    Progress(len(there), 'images', 'cache', show=show) as progress,
    futures.ThreadPoolExecutor(2) as pool,
  ):
    for done in pool.map(read, range(0, len(there), _PART)):
      progress.update(done)
  return whole


def evaluation_batches(
  dataset: Dataset,
  split: str,
  *,
  batch_size: int,
  rows: Sequence[int],
  workers: int = 0,
  threads: int = 2,
  prefetch: int = 4,
) -> Batches:
  """Every example of a split once, in order; the last batch is padded.

  Args:
    dataset: of `builders.open_dataset`.
    split: 'train', 'validation' or 'test'.
    batch_size: rows of the global batch.
    rows: the rows of it to read (`sharding.local_rows`).
    workers: processes that read and decode; 0: threads of this one.
    threads: how many of them.
    prefetch: batches kept ready, per worker.

  Returns:
    An iterator, to be closed, of 'image' and 'label' as in `training_batches`
    and 'mask': bool [len(rows)], False where a row only fills the batch.

  Raises:
    UserError: while iterating: a bad record, or a worker was killed.
  """
  source = dataset.source(split)
  read = _EvaluationBatch(source, batch_size, np.asarray(rows))
  steps = -(-len(source) // batch_size)
  batches = grain.MapDataset.range(steps).map(read)
  return _iterate(batches, workers, threads, prefetch)


@dataclasses.dataclass(frozen=True)
class _Tolerant:
  """Examples of which some may be bad: the next good one in the order of
  storage stands in, so that what is read depends on the files only."""

  source: Sequence[dict[str, Any]]
  max_bad: int

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> dict[str, Any]:
    last = min(self.max_bad, len(self) - 1)
    for ahead in range(last):
      with contextlib.suppress(UserError):
        return self._example(index, ahead)
    return self._example(index, last)

  def _example(self, index: int, ahead: int):
    record = self.source[(index + ahead) % len(self)]
    return {**record, 'replaced': index if ahead else -1}


class _TrainingBatch(grain.transforms.Map):
  """The rows of a step's batch that this process reads."""

  def __init__(self, source, order: Order, batch_size: int, rows: np.ndarray):
    self._source, self._order = source, order
    self._batch_size, self._rows = batch_size, rows

  def map(self, element: int) -> dict[str, np.ndarray]:
    places = element * self._batch_size + self._rows
    return _read(self._source, self._order.positions(places))


class _EvaluationBatch(grain.transforms.Map):
  """The same, in the order of storage; past the end the last example is
  repeated, masked."""

  def __init__(self, source, batch_size: int, rows: np.ndarray):
    self._source, self._batch_size, self._rows = source, batch_size, rows

  def map(self, element: int) -> dict[str, np.ndarray]:
    places = element * self._batch_size + self._rows
    last = len(self._source) - 1
    batch = _read(self._source, np.minimum(places, last))
    return batch | {'mask': places <= last}


def _read(source, positions: np.ndarray) -> dict[str, np.ndarray]:
  """The examples at some positions as one batch.

  Every record is read by itself, straight into its row: ArrayRecord's call
  for many records fills new memory for all of them, which takes twice as long
  (page faults), and its threads gain nothing beside the readers' own.
  """
  examples = map(source.__getitem__, positions.tolist())
  first = next(examples)
  shape = (len(positions), *first['image'].shape)
  batch = {'image': buffers.take(shape)}
  for name in first.keys() - {'image'}:
    batch[name] = np.empty(len(positions), np.int32)
  _fill(batch, itertools.chain([first], examples))
  return batch


def _fill(batch, examples: Iterable[dict[str, Any]]) -> None:
  for row, example in enumerate(examples):
    for name, value in example.items():
      batch[name][row] = value


def _iterate(
  batches: grain.MapDataset, workers: int, threads: int, prefetch: int
) -> Batches:
  if workers:
    parse_no_flags()  # Grain reads some for its processes
    # Batches that nobody took when the stream was closed are freed by Python's
    # resource tracker at the end, which would warn of leaks.
    if _NO_LEAKS not in sys.warnoptions:
      sys.warnoptions.append(_NO_LEAKS)
    # Worker i makes batches i, i + workers, ...: one thread each will do.
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=prefetch)
    processes = grain.MultiprocessingOptions(workers, prefetch)
    stream = batches.to_iter_dataset(options).mp_prefetch(
      processes, _start_worker
    )
  else:
    options = grain.ReadOptions(
      num_threads=threads, prefetch_buffer_size=max(prefetch, threads)
    )
    stream = batches.to_iter_dataset(options)
  with contextlib.closing(iter(stream)) as iterator:
    try:
      yield from iterator
    except RuntimeError as error:
      if not str(error).startswith('Worker process was terminated'):
        raise
      raise UserError(
        'a worker process that reads data was killed, perhaps for want of '
        f'memory{_shared_memory()}: try fewer config.data.workers, and run '
        'again to resume'
      ) from error


def _shared_memory() -> str:
  """Where batches come from the workers, and how much it holds."""
  try:
    room = shutil.disk_usage('/dev/shm')
  except OSError:
    return ''
  return (
    f', or of shared memory (/dev/shm holds {room.total / 1e6:,.0f} MB, '
    f'{room.free / 1e6:,.0f} MB free; docker run --shm-size=8g gives more)'
  )


def _start_worker(*_) -> None:
  """A worker leaves when its run does, however that ends, and not before."""
  # Ctrl-C and a scheduler's SIGTERM come to all processes at once; the run
  # still needs batches for the step after which it saves.
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
  parent = multiprocessing.parent_process()
  assert parent is not None

  def leave() -> None:  # a killed run cannot ask for it
    parent.join()
    os._exit(1)

  threading.Thread(target=leave, daemon=True).start()
