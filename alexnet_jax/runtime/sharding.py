"""How a batch lies on a mesh, and which of its rows a process reads."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax.runtime.errors import UserError

DATA = 'data'  # the axis of a mesh that the batch is spread over


def are_virtual(devices: Sequence[jax.Device]) -> bool:
  """Whether devices only share the cores of one process."""
  return devices[0].platform == 'cpu' and jax.process_count() == 1


def total(x: jax.Array) -> jax.Array:
  """Inside `shard_map`: the sum over the devices that have a part of their
  own; what several have alike counts once."""
  return jax.lax.psum(x, tuple(jax.typeof(x).mat.varying))


def batch_sharding(
  mesh: Mesh, axes: tuple[str, ...] = (DATA,)
) -> NamedSharding:
  """How a batch lies: its rows over `axes`, repeated over the others."""
  return NamedSharding(mesh, P(axes))


def local_rows(
  place: NamedSharding, batch_size: int, accumulate: int = 1
) -> list[int]:
  """Rows of the global batch that this process's devices hold, in order.

  Two processes hold the same rows where the batch does not lie over the axis
  that tells their devices apart: two towers of one replica do.

  Args:
    place: of `batch_sharding`.
    batch_size: rows of the global batch.
    accumulate: parts that each device takes its rows in.

  Raises:
    UserError: the batch does not divide over the devices and the parts.
  """
  axes = place.spec[0]
  names = (axes,) if isinstance(axes, str) else axes
  parts = math.prod(place.mesh.shape[name] for name in names)
  if batch_size % (parts * accumulate):
    each = f' in {accumulate} parts each' if accumulate > 1 else ''
    raise UserError(
      f'a batch of {batch_size} does not divide over {parts} devices{each} '
      '(config.batch_size, config.evals.batch_size, config.accumulate, '
      'config.mesh)'
    )
  held = place.addressable_devices_indices_map((batch_size,))
  rows = (range(batch_size)[index[0]] for index in held.values() if index)
  return sorted(set(itertools.chain.from_iterable(rows)))


def put_batch(
  place: NamedSharding, rows: list[int], batch_size: int, batch: Any
) -> Any:
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
