"""The mesh, who reads which rows, and the device map."""

import json
import os
import socket
import subprocess
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from alexnet_jax.models import towers
from alexnet_jax.models.towers import MeshShape, describe_mesh
from alexnet_jax.runtime import backend, sharding
from alexnet_jax.runtime.errors import UserError

ROOT = Path(__file__).parents[2]


def make_mesh(data, spread, model_towers, devices=None):
  return MeshShape(data, spread).make_mesh(model_towers, devices)


def grid(*sizes):
  return make_mesh(*sizes).devices


def test_devices_fill_the_mesh_in_order():
  mesh = make_mesh(2, 2, 2)
  assert mesh.axis_names == ('data', 'tower')
  assert mesh.axis_types == (AxisType.Explicit,) * 2
  assert [[d.id for d in row] for row in mesh.devices] == [[0, 1], [2, 3]]
  assert grid(4, 1, 2).shape == (4, 1)  # both towers on each


def test_what_is_left():
  # On CPUs 1: how many there are is a choice.
  assert grid(-1, 2, 2).shape == (1, 2)
  assert grid(-1, 1, 1).shape == (1, 1)


@pytest.mark.parametrize(
  ('count', 'sizes', 'shape'),
  [
    (4, (-1, 2, 2), (2, 2)),
    (4, (-1, 1, 2), (4, 1)),
    (3, (-1, 2, 2), (1, 2)),  # one is left over
    (1, (-1, 2, 2), (1, 1)),
    (1, (1, 2, 2), (1, 1)),
  ],
)
def test_accelerators(count, sizes, shape, monkeypatch):
  gpu = lambda i: types.SimpleNamespace(platform='gpu', id=i)  # noqa: E731
  monkeypatch.setattr(towers, 'Mesh', lambda devices, *_, **__: devices)
  devices = [gpu(i) for i in range(count)]
  got = make_mesh(*sizes, devices)
  assert got.shape == shape
  assert [d.id for d in got.flat] == list(range(got.size))


def test_device_maps():
  four = describe_mesh(make_mesh(2, 2, 2), 2)
  assert four.splitlines() == [
    'mesh: data 2 x tower 2, cpu',
    '  cpu:0 (process 0): tower 1 of 2, part 1 of 2 of the batch',
    '  cpu:1 (process 0): tower 2 of 2, part 1 of 2 of the batch',
    '  cpu:2 (process 0): tower 1 of 2, part 2 of 2 of the batch',
    '  cpu:3 (process 0): tower 2 of 2, part 2 of 2 of the batch',
  ]
  one = make_mesh(-1, 2, 2, jax.devices()[:1])
  assert describe_mesh(one, 2).splitlines() == [
    'mesh: data 1 x tower 1, cpu',
    '  cpu:0 (process 0): tower 1 and 2 of 2, part 1 of 1 of the batch',
    '  one device runs both towers; the numbers are the same',
  ]
  # A network of one tower has nothing to explain.
  assert len(describe_mesh(one, 1).splitlines()) == 2


@pytest.mark.parametrize(
  ('sizes', 'message'),
  [
    ((8, 2, 2), 'asks for 16 devices, but there are 8: cpu:0, .*, cpu:7'),
    ((1, 3, 2), 'mesh.towers=3 cannot hold the 2 tower.*: use 1 or 2'),
    ((1, 2, 1), 'mesh.towers=2 cannot hold the 1 tower'),
    ((1, 0, 2), 'mesh.towers=0 cannot hold the 2 tower'),
    ((0, 1, 2), 'mesh.data=0'),
    ((-2, 1, 2), 'mesh.data=-2'),
  ],
)
def test_refused(sizes, message):
  with pytest.raises(UserError, match=message):
    make_mesh(*sizes)


def test_more_replicas_than_one_device_are_refused():
  with pytest.raises(UserError, match='4 devices, but there are 1: cpu:5'):
    make_mesh(2, 2, 2, jax.devices()[5:6])


def test_rows_and_batches():
  mesh = make_mesh(2, 2, 2)
  place = sharding.batch_sharding(mesh)
  assert sharding.local_rows(place, 6) == [0, 1, 2, 3, 4, 5]
  batch = {'image': np.arange(12).reshape(6, 2), 'label': np.arange(6)}
  put = sharding.put_batch(place, list(range(6)), 6, batch)
  for name, array in put.items():
    assert array.sharding == place
    np.testing.assert_array_equal(array, batch[name])
  for shard in put['label'].addressable_shards:
    row, _ = np.argwhere(mesh.devices == shard.device)[0]
    expected = [0, 1, 2] if row == 0 else [3, 4, 5]
    np.testing.assert_array_equal(shard.data, expected)


def test_a_batch_that_does_not_divide_is_refused():
  place = sharding.batch_sharding(make_mesh(2, 1, 2))
  with pytest.raises(UserError, match='batch of 7 does not divide over 2'):
    sharding.local_rows(place, 7)


# -- other processes, with their own devices


def python(code, *args, **env):
  return subprocess.Popen(
    [sys.executable, '-c', code, *map(str, args)],
    cwd=ROOT,
    env={**os.environ, **env},
    stdout=subprocess.PIPE,
    text=True,
  )


def finish(*processes):
  """What they print, as JSON."""
  try:
    outputs = [process.communicate()[0] for process in processes]
  finally:
    for process in processes:
      process.kill()
  assert [process.returncode for process in processes] == [0] * len(processes)
  return [json.loads(output) for output in outputs]


TWO_PROCESSES = """
import json, sys
import jax, numpy as np
port, process = map(int, sys.argv[1:])
jax.config.update('jax_num_cpu_devices', 2)
jax.distributed.initialize(f'localhost:{port}', 2, process)
from alexnet_jax.models.towers import MeshShape
from alexnet_jax.runtime import sharding
devices, report = jax.devices(), []
for data, spread, order in (
  (2, 2, [0, 1, 2, 3]), (2, 2, [0, 2, 1, 3]), (4, 1, [0, 2, 3, 1])
):
  mesh = MeshShape(data, spread).make_mesh(2, [devices[i] for i in order])
  place = sharding.batch_sharding(mesh)
  rows = sharding.local_rows(place, 8)
  put = sharding.put_batch(place, rows, 8, 10 * np.asarray(rows))
  held = [shard.data.tolist() for shard in put.addressable_shards]
  report.append([rows, held])
try:
  MeshShape(1, 2).make_mesh(2)
except ValueError as error:
  report.append(str(error))
print(json.dumps(report))
"""


def test_rows_of_two_processes_with_two_devices_each():
  """What a process reads is what its devices hold, wherever they are."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  first, second = finish(
    *(python(TWO_PROCESSES, port, process) for process in range(2))
  )
  # A replica per process.
  assert first[0] == [[0, 1, 2, 3], [[0, 10, 20, 30]] * 2]
  assert second[0] == [[4, 5, 6, 7], [[40, 50, 60, 70]] * 2]
  # A tower per process: both read everything.
  both = [list(range(8)), [[0, 10, 20, 30], [40, 50, 60, 70]]]
  assert first[1] == second[1] == both
  # The first and the last part in one process.
  assert first[2] == [[0, 1, 6, 7], [[0, 10], [60, 70]]]
  assert second[2] == [[2, 3, 4, 5], [[20, 30], [40, 50]]]
  assert 'uses 2 of 4 devices; with several processes' in first[3]


def test_cpus_become_what_the_mesh_asks_for_or_the_user_chose():
  code = """
import sys, jax
from alexnet_jax.runtime import backend
backend.configure(int(sys.argv[1]), deterministic=False)
print(jax.device_count())
"""
  cpu = {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': ''}
  asked = python(code, 6, **cpu)
  chosen = python(code, 2, **cpu, JAX_NUM_CPU_DEVICES='5')
  assert finish(asked, chosen) == [6, 5]


def test_deterministic_adds_to_the_flags_of_xla(monkeypatch):
  monkeypatch.setenv('XLA_FLAGS', '--xla_of_the_user=1')
  backend.configure(2, deterministic=False)
  assert os.environ['XLA_FLAGS'] == '--xla_of_the_user=1'
  backend.configure(2, deterministic=True)
  assert os.environ['XLA_FLAGS'].split() == [
    '--xla_of_the_user=1',
    '--xla_gpu_deterministic_ops=true',
  ]
