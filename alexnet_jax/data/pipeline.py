"""Batches from prepared records: order, decoding, prefetch (Grain).

The batch of step s is a pure function of (seed, s), so a run resumes by
opening the stream at step s; there is nothing of an iterator to save. The
views are cut on the device (`augment`); nothing is random here but order.
"""

import contextlib
import dataclasses
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Generator, Sequence
from typing import Any

import grain
import numpy as np

from alexnet_jax.data.builders import Dataset
from alexnet_jax.runtime.errors import UserError, parse_no_flags
from alexnet_jax.runtime.writers import Progress

Batches = Generator[dict[str, np.ndarray], None, None]


class _Rows(grain.MapDataset):
  """The rows of each global batch that one process reads, batch by batch."""

  def __init__(
    self, parent: grain.MapDataset, batch_size: int, rows: Sequence[int]
  ):
    super().__init__(parent)
    self._batch_size = batch_size
    self._rows = list(rows)

  def __len__(self) -> int:
    return len(self._parent) // self._batch_size * len(self._rows)

  def __getitem__(self, index):
    if isinstance(index, slice):
      return self.slice(index)
    step, row = divmod(index, len(self._rows))
    return self._parent[step * self._batch_size + self._rows[row]]


def training_batches(
  dataset: Dataset,
  *,
  seed: int,
  batch_size: int,
  rows: Sequence[int],
  start: int = 0,
  skip: int = 0,
  workers: int = 0,
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
  records = grain.MapDataset.source(source).seed(seed)
  stream = _Rows(records.shuffle().repeat()[skip:], batch_size, rows)
  batches = stream[start * len(rows) :].batch(len(rows))
  return _iterate(batches, workers, prefetch)


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
  indices = grain.MapDataset.range(dataset.num_examples('train')).seed(seed)
  stream = _Rows(indices.shuffle().repeat()[skip:], batch_size, rows)
  batches = stream[start * len(rows) :].batch(len(rows))
  for batch in _iterate(batches, workers=0, prefetch=4):
    yield {'index': np.asarray(batch, np.int32)}


def whole_split(
  dataset: Dataset, max_bad_records: int = 0, show: bool = True
) -> dict[str, np.ndarray]:
  """The training split in memory, to be kept on the devices.

  Args:
    dataset: of `builders.open_dataset`.
    max_bad_records: how many records may be bad; the caller counts them.
    show: tell of the progress.

  Returns:
    What `training_batches` gives, for all examples in the order of storage.

  Raises:
    UserError: a bad record.
  """
  source = _Tolerant(dataset.source('train'), max_bad_records)
  batches = grain.MapDataset.source(source).batch(64)
  parts = []
  with Progress(len(source), 'images', 'cache', show=show) as progress:
    for part in _iterate(batches, workers=0, prefetch=4):
      parts.append(part)
      progress.update(len(part['label']))
  return {key: np.concatenate([p[key] for p in parts]) for key in parts[0]}


def evaluation_batches(
  dataset: Dataset,
  split: str,
  *,
  batch_size: int,
  rows: Sequence[int],
  workers: int = 0,
  prefetch: int = 4,
) -> Batches:
  """Every example of a split once, in order; the last batch is padded.

  Args:
    dataset: of `builders.open_dataset`.
    split: 'train', 'validation' or 'test'.
    batch_size: rows of the global batch.
    rows: the rows of it to read (`sharding.local_rows`).
    workers: processes that read and decode; 0: threads of this one.
    prefetch: batches kept ready, per worker.

  Returns:
    An iterator, to be closed, of 'image' and 'label' as in `training_batches`
    and 'mask': bool [len(rows)], False where a row only fills the batch.

  Raises:
    UserError: while iterating: a bad record, or a worker was killed.
  """
  source = dataset.source(split)
  padded = -(-len(source) // batch_size) * batch_size
  positions = grain.MapDataset.range(padded)
  examples = _Rows(positions, batch_size, rows).map(_Masked(source))
  return _iterate(examples.batch(len(rows)), workers, prefetch)


@dataclasses.dataclass(frozen=True)
class _Tolerant:
  """Examples of which some may be bad: the next good one in the order of
  storage stands in, so that what is read depends on the files only."""

  source: Sequence[dict[str, Any]]
  max_bad: int

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> dict[str, np.generic | np.ndarray]:
    last = min(self.max_bad, len(self) - 1)
    for ahead in range(last):
      with contextlib.suppress(UserError):
        return self._example(index, ahead)
    return self._example(index, last)

  def _example(self, index: int, ahead: int):
    record = self.source[(index + ahead) % len(self)]
    return _example(record) | {'replaced': np.int32(index if ahead else -1)}


class _Masked(grain.transforms.Map):
  """The example at a position, or the last one, masked, past the end."""

  def __init__(self, source):
    self._source = source

  def map(self, element):
    last = len(self._source) - 1
    record = self._source[min(element, last)]
    return _example(record) | {'mask': np.bool_(element <= last)}


def _example(record):
  return {'image': record['image'], 'label': np.int32(record['label'])}


def _iterate(batches: grain.MapDataset, workers: int, prefetch: int) -> Batches:
  if workers:
    parse_no_flags()  # Grain reads some for its processes
    # Worker i makes batches i, i + workers, ...: one thread each will do.
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=prefetch)
    processes = grain.MultiprocessingOptions(workers, prefetch)
    stream = batches.to_iter_dataset(options).mp_prefetch(
      processes, _start_worker
    )
  else:
    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=prefetch)
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
