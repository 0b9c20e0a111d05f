"""The training split kept on the devices (`config.data.cache`)."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax.data import pipeline
from alexnet_jax.data.builders import Dataset
from alexnet_jax.runtime import distributed, sharding
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training.settings import Data

_SHARE = 0.8  # of the memory that is free: the network needs some, too


@dataclasses.dataclass(frozen=True)
class Cache:
  """All training photographs on the devices; the host sends positions.

  Attributes:
    arrays: 'image' uint8 [N, size, size, 3] and 'label' int32 [N]: all on each
      device, or, with 'mesh', spread over the axis of the batch and N more
      than there are, to divide by it.
    replaced: int32 [N], as `pipeline.training_batches` has it, on the host.
  """

  arrays: dict[str, jax.Array]
  replaced: np.ndarray

  def batches(self, dataset: Dataset, **arguments: Any) -> pipeline.Batches:
    """`pipeline.training_batches`, with positions in place of photographs."""
    for batch in pipeline.training_indices(dataset, **arguments):
      yield {**batch, 'replaced': self.replaced[batch['index']]}

  def images(self, batch: Mapping[str, jax.Array]) -> jax.Array:
    """The photographs of a batch of positions, spread as these are."""
    return _take(self.arrays['image'], batch['index'])


def pick(part: jax.Array, index: jax.Array) -> jax.Array:
  """Inside `shard_map`: the examples at this device's positions.

  Args:
    part: what this device keeps of an array of the cache.
    index: int32 [b].

  Returns:
    [b, ...]. Of what is spread, every device sends those that others want: with
    n devices each receives n - 1 times its part of the batch, sums of one
    picture and of nothing.
  """
  if sharding.DATA not in jax.typeof(part).mat.varying:
    return part[index]
  with jax.named_scope('cache'):
    wanted = lax.all_gather(index, sharding.DATA, tiled=True)
    own = wanted - lax.axis_index(sharding.DATA) * len(part)
    here = (own >= 0) & (own < len(part))
    rows = part[jnp.where(here, own, 0)]
    here = here.reshape(-1, *[1] * (rows.ndim - 1))
    rows = jnp.where(here, rows, jnp.zeros_like(rows))
    return lax.psum_scatter(rows, sharding.DATA, tiled=True)


@jax.jit
def _take(images: jax.Array, index: jax.Array) -> jax.Array:
  whole, rows = (jax.typeof(x).sharding for x in (images, index))
  return jax.shard_map(
    pick,
    mesh=rows.mesh,
    in_specs=(P(*whole.spec[:1]), rows.spec),
    out_specs=rows.spec,
  )(images, index)


def load(reading: Data, mesh: Mesh, dataset: Dataset) -> Cache | None:
  """The cache that `config.data.cache` asks for, or None.

  Raises:
    UserError: it does not fit, or a record is bad.
  """
  if reading.cache == 'none':
    return None
  size, count = dataset.image_size, dataset.num_examples('train')
  spread = reading.cache == 'mesh'
  parts = mesh.shape[sharding.DATA] if spread else 1
  share = -(-count // parts)
  wanted = share * math.prod((size, size, 3))
  free = _free(mesh)
  if wanted > _SHARE * free:
    raise UserError(
      f'config.data.cache={reading.cache!r}: the training split of '
      f'{dataset.name} takes {wanted / 1e9:.1f} GB on each device, and there '
      f'are {free / 1e9:.1f} GB free: use '
      + ("'none'" if spread else "'mesh', which spreads it, or 'none'")
    )
  place = NamedSharding(mesh, P(sharding.DATA) if spread else P())
  holders: dict[int, list[jax.Device]] = {}
  indices: Any = place.addressable_devices_indices_map((share * parts,))
  for device, (rows,) in indices.items():
    holders.setdefault(rows.start or 0, []).append(device)
  kept: dict[str, list[jax.Array]] = {'image': [], 'label': []}
  bad: set[int] = set()
  for start, devices in holders.items():  # one share at a time on the host
    split = pipeline.read_split(
      dataset,
      range(start, start + share),
      reading.max_bad_records,
      show=jax.process_index() == 0,
    )
    bad.update(split['replaced'][split['replaced'] >= 0].tolist())
    for name, some in kept.items():
      some += [jax.device_put(split[name], device) for device in devices]
  replaced = np.full(count, -1, np.int32)
  found = sorted(distributed.union(bad) if spread else bad)
  replaced[found] = found
  arrays: dict[str, jax.Array] = {
    name: jax.make_array_from_single_device_arrays(
      (share * parts, *some[0].shape[1:]), place, some
    )
    for name, some in kept.items()
  }
  return Cache(arrays, replaced)


def _free(mesh: Mesh) -> float:
  """Bytes free on the device that has least; CPUs share the machine's."""
  here = mesh.local_devices
  stats = [device.memory_stats() for device in here]
  free = [s['bytes_limit'] - s['bytes_in_use'] for s in stats if s]
  if here[0].platform == 'cpu':
    processes, _ = distributed.processes_here()
    return psutil.virtual_memory().available / (processes * len(here))
  return min(free, default=math.inf)
