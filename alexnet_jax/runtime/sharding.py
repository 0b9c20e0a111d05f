"""The mesh ('data', 'tower'), what lies where on it, and the device map."""

import itertools
import math

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax.runtime.errors import UserError

DATA, TOWER = 'data', 'tower'


def make_mesh(
  data: int,
  towers: int,
  model_towers: int,
  devices: list[jax.Device] | None = None,
) -> Mesh:
  """The mesh of `config.mesh` on the devices there are.

  Args:
    data: size of axis 'data'; -1: what is left, on the CPUs of one process 1.
    towers: size of axis 'tower'; a single accelerator holds all towers.
    model_towers: towers of the network.
    devices: all of them by default.

  Raises:
    UserError: there are fewer devices, or the sizes make no sense.
  """
  devices = jax.devices() if devices is None else devices
  if towers < 1 or model_towers % towers:
    raise UserError(
      f'config.mesh.towers={towers} cannot hold the {model_towers} tower(s) '
      f'of config.model.towers: use 1 or {model_towers}'
    )
  if data == 0 or data < -1:
    raise UserError(f'config.mesh.data={data}: use -1 or at least 1')
  if len(devices) == 1 and data <= 1:
    towers = 1
  if data == -1:
    virtual = devices[0].platform == 'cpu' and jax.process_count() == 1
    data = 1 if virtual else max(len(devices) // towers, 1)
  wanted = data * towers
  if wanted > len(devices):
    names = ', '.join(str(device) for device in devices)
    raise UserError(
      f'config.mesh.data={data} x config.mesh.towers={towers} asks for '
      f'{wanted} devices, but there are {len(devices)}: {names}. Lower either'
    )
  if wanted < len(devices) and jax.process_count() > 1:
    raise UserError(
      f'config.mesh uses {wanted} of {len(devices)} devices; with several '
      f'processes it must use all: set config.mesh.data to '
      f'{len(devices) // towers}, or start fewer processes'
    )
  grid = np.asarray(devices[:wanted]).reshape(data, towers)
  return Mesh(grid, (DATA, TOWER), axis_types=(AxisType.Explicit,) * 2)


def total(x: jax.Array) -> jax.Array:
  """Inside `shard_map`: the sum over the devices that have a part of their
  own; what several have alike counts once."""
  return jax.lax.psum(x, tuple(jax.typeof(x).mat.varying))


def device_map(mesh: Mesh, model_towers: int, owt: bool = False) -> str:
  """Which tower and which share of the batch each device has, as a table.

  Args:
    mesh: of `make_mesh`.
    model_towers: towers of the network.
    owt: the batch lies over axis 'tower', too, up to fc6.
  """
  data, spread = mesh.devices.shape
  each = model_towers // spread
  lines = [f'mesh: data {data} x tower {spread}, {mesh.devices[0, 0].platform}']
  for row in range(data):
    for column in range(spread):
      held = [str(i + 1) for i in range(column * each, (column + 1) * each)]
      device = mesh.devices[row, column]
      lines.append(
        f'  {device} (process {device.process_index}): '
        f'tower {" and ".join(held)} of {model_towers}, '
        f'part {row + 1} of {data} of the batch'
      )
  if owt:
    lines.append(
      "  'owt': before fc6 a device has all towers, on its share of that part"
    )
  if spread < model_towers and mesh.size == 1:
    lines.append('  one device runs both towers; the numbers are the same')
  return '\n'.join(lines)


def batch_sharding(
  mesh: Mesh, axes: tuple[str, ...] = (DATA,)
) -> NamedSharding:
  """How a batch lies: its rows over `axes`, repeated over the others."""
  return NamedSharding(mesh, P(axes))


def local_rows(place: NamedSharding, batch_size: int) -> list[int]:
  """Rows of the global batch that this process's devices hold, in order.

  Two processes that are two towers of one replica hold the same rows, unless
  the batch lies over axis 'tower', too.

  Args:
    place: of `batch_sharding`.
    batch_size: rows of the global batch.

  Raises:
    UserError: the batch does not divide over the devices.
  """
  axes = place.spec[0]
  names = (axes,) if isinstance(axes, str) else axes
  parts = math.prod(place.mesh.shape[name] for name in names)
  if batch_size % parts:
    raise UserError(
      f'a batch of {batch_size} does not divide over {parts} devices '
      '(config.batch_size, config.evals.batch_size, config.mesh)'
    )
  held = place.addressable_devices_indices_map((batch_size,))
  rows = (range(batch_size)[index[0]] for index in held.values() if index)
  return sorted(set(itertools.chain.from_iterable(rows)))


def put_batch(place: NamedSharding, rows: list[int], batch_size: int, batch):
  """A global batch on the devices from the rows that this process read.

  Args:
    place: of `batch_sharding`.
    rows: of `local_rows`.
    batch_size: rows of the global batch.
    batch: tree of NumPy arrays [len(rows), ...].

  Returns:
    The tree as arrays [batch_size, ...] that lie so.
  """
  first = {row: position for position, row in enumerate(rows)}

  def put(array: np.ndarray) -> jax.Array:
    def part(index):
      start, stop, _ = index[0].indices(batch_size)
      return array[first[start] : first[start] + stop - start]

    shape = (batch_size, *array.shape[1:])
    return jax.make_array_from_callback(shape, place, part)

  return jax.tree.map(put, batch)
