"""The order of training is Grain's, to the bit."""

import grain
import numpy as np
import pytest

from alexnet_jax.data import order, pipeline


class Split:
  """A data set of which only the number of examples counts."""

  def __init__(self, count):
    self._count = count

  def num_examples(self, split):
    assert split == 'train'
    return self._count


# The block of the cipher grows at powers of 2; the largest is ImageNet.
COUNTS = [1, 2, 3, 36, 4000, 65536, 65538, 262144, 262146, 1281167]


@pytest.mark.parametrize('count', COUNTS)
@pytest.mark.parametrize('seed', [0, 7, 2**31 - 1])
def test_positions_are_those_of_grain(count, seed):
  stream = grain.MapDataset.range(count).seed(seed).shuffle().repeat()
  here = order.Order(seed, count)
  # The start, where epochs meet, and more epochs than a seed has numbers.
  for start in (0, max(0, 3 * count - 5), 2**32 * count - 5):
    places = np.arange(start, start + 12)
    expected = [stream[int(place)] for place in places]
    assert here.positions(places).tolist() == expected


# Grain repeats one of 65,537, and of 262,145.
@pytest.mark.parametrize('count', [65_536, 65_537, 70_000, 262_145])
def test_an_epoch_is_every_example_once(count):
  here = order.Order(3, count)
  epochs = here.positions(np.arange(2 * count)).reshape(2, -1)
  for epoch in epochs:
    assert (np.sort(epoch) == np.arange(count)).all()
  assert (epochs[0] != epochs[1]).any()


@pytest.mark.parametrize('rows', [[0, 1, 2, 3], [1, 3]])
def test_indices_of_steps_straddle_epochs(rows):
  stream = pipeline.training_indices(
    Split(11), seed=5, batch_size=4, rows=rows, start=3
  )
  expected = grain.MapDataset.range(11).seed(5).shuffle().repeat()
  for step in range(3, 14):
    index = next(stream)['index']
    assert index.dtype == np.int32
    assert index.tolist() == [expected[4 * step + row] for row in rows]
