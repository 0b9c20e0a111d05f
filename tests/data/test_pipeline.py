"""The batch of a step is a function of (seed, step), whoever reads it."""

import contextlib
import dataclasses
import itertools
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
import small_runs

from alexnet_jax.data import pipeline

NUM = 11  # no multiple of the batch


@dataclasses.dataclass(frozen=True)
class Records:
  """A source whose images say which record they are, and who read it."""

  count: int

  def __len__(self):
    return self.count

  def __getitem__(self, index):
    # A worker that has started a JAX backend would hold devices; one that has
    # joined the run's processes would be one too many.
    from jax._src import xla_bridge

    started = bool(xla_bridge._backends) or jax.distributed.is_initialized()
    image = np.array([[[index, started, 0]]], np.uint8)
    return {'image': image, 'label': (index * 7) % 10}


@dataclasses.dataclass(frozen=True)
class FakeDataset:
  count: int = NUM

  def source(self, split):
    return Records(self.count)


def take(count, **options):
  options = {'seed': 0, 'batch_size': 4, 'rows': range(4), **options}
  stream = pipeline.training_batches(FakeDataset(), **options)
  with contextlib.closing(stream):
    return list(itertools.islice(stream, count))


def records(batches):
  """Which records a batch holds, in order."""
  return [batch['image'][:, 0, 0, 0].tolist() for batch in batches]


# Also far on, where a run of months would be, and with epochs within a batch.
@pytest.mark.parametrize(
  ('batch_size', 'start'), [(4, 0), (4, 11_000_000), (22, 0)]
)
def test_epochs_are_exact_and_each_has_its_order(batch_size, start):
  batches = take(
    44 // batch_size,
    batch_size=batch_size,
    rows=range(batch_size),
    start=start,
  )
  epochs = np.concatenate(records(batches)).reshape(4, NUM)
  for epoch in epochs:
    assert sorted(epoch) == list(range(NUM))
  assert len({tuple(epoch) for epoch in [*epochs, range(NUM)]}) == 5


def test_image_and_label_stay_together():
  for batch in take(3):
    assert batch['image'].shape == (4, 1, 1, 3)
    assert batch['image'].dtype == np.uint8
    assert batch['label'].dtype == np.int32
    index = batch['image'][:, 0, 0, 0].astype(int)
    np.testing.assert_array_equal(batch['label'], (index * 7) % 10)


def test_the_seed_is_the_order():
  assert records(take(3)) == records(take(3))
  assert records(take(3)) != records(take(3, seed=1))


@pytest.mark.parametrize('start', [1, 3, 7])
def test_a_stream_opened_later_is_the_same_stream(start):
  assert records(take(3, start=start)) == records(take(start + 3))[start:]


def test_two_processes_read_the_parts_of_one_batch():
  whole = records(take(5))
  first = records(take(5, rows=[0, 1]))
  second = records(take(5, rows=[2, 3]))
  assert [a + b for a, b in zip(first, second, strict=True)] == whole
  # Rows need not be neighbours, and a resumed process finds its own.
  assert records(take(2, rows=[1, 3], start=3)) == [
    [batch[1], batch[3]] for batch in whole[3:]
  ]


def test_workers_give_the_same_batches_and_start_no_backend():
  batches = take(4, workers=2, start=3)
  here = take(4, start=3)
  assert records(batches) == records(here)
  for batch, other in zip(batches, here, strict=True):
    np.testing.assert_array_equal(batch['label'], other['label'])
  # The records can tell: this process has a backend.
  assert jax.devices()
  assert all(batch['image'][..., 1].all() for batch in take(2))
  assert not any(batch['image'][..., 1].any() for batch in batches)


def evaluate(rows, count=NUM, workers=0):
  stream = pipeline.evaluation_batches(
    FakeDataset(count), 'test', batch_size=4, rows=rows, workers=workers
  )
  with contextlib.closing(stream):
    return list(stream)


def test_evaluation_of_two_processes():
  """11 records in 3 batches of 2 + 2 rows: the last row is masked."""
  first, second = evaluate([0, 1]), evaluate([2, 3], workers=2)
  assert records(first) == [[0, 1], [4, 5], [8, 9]]
  assert records(second) == [[2, 3], [6, 7], [10, 10]]
  assert all(batch['mask'].all() for batch in first + second[:2])
  assert second[2]['mask'].tolist() == [True, False]
  for batch in first + second:
    assert batch['mask'].dtype == np.bool_
    assert batch['label'].dtype == np.int32
    index = batch['image'][:, 0, 0, 0].astype(int)
    np.testing.assert_array_equal(batch['label'], (index * 7) % 10)


@pytest.mark.parametrize('count', [1, 3, 8, 9])
def test_evaluation_counts_every_example_once(count):
  # Of 9, the second process has nothing but padding in the last batch.
  parts = [evaluate(rows, count) for rows in ([0, 1], [2, 3])]
  assert [len(part) for part in parts] == [-(-count // 4)] * 2
  images = np.concatenate(
    [batch['image'][batch['mask'], 0, 0, 0] for part in parts for batch in part]
  )
  assert sorted(images) == list(range(count))


@pytest.mark.parametrize('skip', [0, 5, 16, 23])
def test_a_stream_goes_on_after_any_number_of_examples(skip):
  """Of another batch size: the order is of examples, not of batches."""
  whole = list(itertools.chain(*records(take(12))))
  again = take(3, batch_size=6, rows=range(6), skip=skip)
  assert list(itertools.chain(*records(again))) == whole[skip : skip + 18]


def test_workers_read_in_a_program_without_flags(data_dir, tmp_path):
  """absl's are not parsed there, which Grain asks for."""
  script = tmp_path / 'own.py'
  script.write_text(
    'from alexnet_jax.data import builders, pipeline\n'
    "if __name__ == '__main__':\n"
    f'  dataset = builders.open_dataset("pictures", {str(data_dir)!r})\n'
    '  stream = pipeline.training_batches(\n'
    '    dataset, seed=0, batch_size=4, rows=range(4), workers=2\n'
    '  )\n'
    '  print(next(stream)["image"].shape)\n'
    '  stream.close()\n'
  )
  done = subprocess.run(
    [sys.executable, script],
    env=os.environ | {'PYTHONPATH': str(small_runs.ROOT)},
    capture_output=True,
    text=True,
  )
  assert done.stdout == '(4, 256, 256, 3)\n', done.stderr
