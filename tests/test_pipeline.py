"""The batch of a step is a function of (seed, step), whoever reads it."""

import contextlib
import itertools

import numpy as np
import pytest

from alexnet_jax.data import pipeline

NUM = 11  # no multiple of the batch


class Records:
  """A source whose images say which record they are, and who read it."""

  def __len__(self):
    return NUM

  def __getitem__(self, index):
    # A worker that has started a JAX backend would hold devices.
    from jax._src import xla_bridge

    started = bool(xla_bridge._backends)
    image = np.array([[[index, started, 0]]], np.uint8)
    return {'image': image, 'label': index}


class FakeDataset:
  def source(self, split):
    return Records()


def take(count, **options):
  options = {'seed': 0, 'batch_size': 4, 'rows': range(4), **options}
  stream = pipeline.training_batches(FakeDataset(), **options)
  with contextlib.closing(stream):
    return list(itertools.islice(stream, count))


def labels(batches):
  return [batch['label'].tolist() for batch in batches]


def test_epochs_are_exact_and_each_has_its_order():
  stream = np.concatenate(labels(take(11)))  # 44 examples: 4 epochs
  epochs = stream.reshape(4, NUM)
  for epoch in epochs:
    assert sorted(epoch) == list(range(NUM))
  assert len({tuple(epoch) for epoch in epochs}) == 4


def test_image_and_label_stay_together():
  for batch in take(3):
    assert batch['image'].shape == (4, 1, 1, 3)
    assert batch['image'].dtype == np.uint8
    assert batch['label'].dtype == np.int32
    np.testing.assert_array_equal(batch['image'][:, 0, 0, 0], batch['label'])


def test_the_seed_is_the_order():
  assert labels(take(3)) == labels(take(3))
  assert labels(take(3)) != labels(take(3, seed=1))


@pytest.mark.parametrize('start', [1, 3, 7])
def test_a_stream_opened_later_is_the_same_stream(start):
  assert labels(take(3, start=start)) == labels(take(start + 3))[start:]


def test_two_processes_read_the_parts_of_one_batch():
  whole = labels(take(5))
  first = labels(take(5, rows=[0, 1]))
  second = labels(take(5, rows=[2, 3]))
  assert [a + b for a, b in zip(first, second, strict=True)] == whole
  # Rows need not be neighbours, and a resumed process finds its own.
  assert labels(take(2, rows=[1, 3], start=3)) == [
    [batch[1], batch[3]] for batch in whole[3:]
  ]


def test_workers_give_the_same_batches_and_start_no_backend():
  batches = take(6, workers=2)
  assert labels(batches) == labels(take(6))
  assert labels(take(2, workers=2, start=3)) == labels(batches)[3:5]
  assert not any(batch['image'][..., 1].any() for batch in batches)


@pytest.mark.parametrize('workers', [0, 2])
def test_evaluation_counts_every_example_once(workers):
  parts = []
  for rows in ([0, 1], [2, 3]):
    stream = pipeline.evaluation_batches(
      FakeDataset(), 'validation', batch_size=4, rows=rows, workers=workers
    )
    with contextlib.closing(stream):
      parts.append(list(stream))
  assert [len(part) for part in parts] == [3, 3]  # 11 of 12 rows
  counted = np.concatenate(
    [b['label'][b['mask']] for part in parts for b in part]
  )
  assert sorted(counted) == list(range(NUM))
  masked = sum((~b['mask']).sum() for part in parts for b in part)
  assert masked == 1
