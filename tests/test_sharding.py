"""The mesh, who reads which rows, and the device map."""

import jax
import numpy as np
import pytest

from alexnet_jax.runtime import sharding
from alexnet_jax.runtime.errors import UserError


def test_sizes():
  assert dict(sharding.make_mesh(2, 2, 2).shape) == {'data': 2, 'tower': 2}
  # -1 is what is left, but 1 on CPUs, where devices are a choice.
  assert dict(sharding.make_mesh(-1, 2, 2).shape) == {'data': 1, 'tower': 2}


def test_one_device_runs_both_towers():
  mesh = sharding.make_mesh(-1, 2, 2, jax.devices()[:1])
  assert dict(mesh.shape) == {'data': 1, 'tower': 1}
  text = sharding.device_map(mesh, 2)
  assert 'tower 1 and 2 of 2' in text
  assert 'one device runs both towers' in text


def test_device_map_of_two():
  lines = sharding.device_map(sharding.make_mesh(1, 2, 2), 2).splitlines()
  assert lines == [
    'mesh: data 1 x tower 2, cpu',
    '  cpu:0 (process 0): tower 1 of 2, part 1 of 1 of the batch',
    '  cpu:1 (process 0): tower 2 of 2, part 1 of 1 of the batch',
  ]


@pytest.mark.parametrize(
  ('sizes', 'message'),
  [
    ((8, 2, 2), '16 devices, but there are 8: .*cpu:0.*cpu:7'),
    ((1, 3, 2), 'mesh.towers=3 cannot hold the 2 tower'),
    ((1, 2, 1), 'mesh.towers=2 cannot hold the 1 tower'),
    ((0, 1, 2), 'mesh.data=0'),
    ((-2, 1, 2), 'mesh.data=-2'),
  ],
)
def test_refused(sizes, message):
  with pytest.raises(UserError, match=message):
    sharding.make_mesh(*sizes)


def test_rows_and_batches():
  mesh = sharding.make_mesh(2, 2, 2)
  assert sharding.local_rows(mesh, 6) == [0, 1, 2, 3, 4, 5]
  batch = {'image': np.arange(12).reshape(6, 2), 'label': np.arange(6)}
  put = sharding.put_batch(mesh, list(range(6)), 6, batch)
  for name, array in put.items():
    np.testing.assert_array_equal(array, batch[name])
  for shard in put['label'].addressable_shards:
    row, _ = np.argwhere(mesh.devices == shard.device)[0]
    expected = [0, 1, 2] if row == 0 else [3, 4, 5]
    np.testing.assert_array_equal(shard.data, expected)


def test_a_batch_that_does_not_divide_is_refused():
  with pytest.raises(UserError, match='batch of 7 does not divide over 2'):
    sharding.local_rows(sharding.make_mesh(2, 1, 2), 7)
