"""The training split kept on the devices (`config.data.cache`)."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import psutil
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax.data import pipeline
from alexnet_jax.data.builders import Dataset
from alexnet_jax.runtime import sharding
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training.settings import Data

_SHARE = 0.8  # of the memory that is free: the network needs some, too


@dataclasses.dataclass(frozen=True)
class Cache:
  """All training photographs, on each device; the host sends positions.

  Attributes:
    arrays: 'image' uint8 [N, size, size, 3] and 'label' int32 [N].
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


@jax.jit
def _take(images: jax.Array, index: jax.Array) -> jax.Array:
  rows = jax.typeof(index).sharding
  place = NamedSharding(rows.mesh, P(*rows.spec, None, None, None))
  return images.at[index].get(out_sharding=place)


def load(reading: Data, mesh: Mesh, dataset: Dataset) -> Cache | None:
  """The cache that `config.data.cache` asks for, or None.

  Raises:
    UserError: it does not fit, or a record is bad.
  """
  if reading.cache == 'none':
    return None
  size = dataset.image_size
  wanted = dataset.num_examples('train') * math.prod((size, size, 3))
  free = _free(mesh)
  if wanted > _SHARE * free:
    raise UserError(
      f"config.data.cache='device': the training split of {dataset.name} takes "
      f'{wanted / 1e9:.1f} GB on each device, and there are {free / 1e9:.1f} '
      "GB free: use 'none'"
    )
  split = pipeline.whole_split(
    dataset, reading.max_bad_records, show=jax.process_index() == 0
  )
  replaced = split.pop('replaced')
  place = NamedSharding(mesh, P())
  rows = list(range(len(replaced)))
  return Cache(sharding.put_batch(place, rows, len(rows), split), replaced)


def _free(mesh: Mesh) -> float:
  """Bytes free on the device that has least; CPUs share the machine's."""
  here = mesh.local_devices
  stats = [device.memory_stats() for device in here]
  free = [s['bytes_limit'] - s['bytes_in_use'] for s in stats if s]
  if here[0].platform == 'cpu':
    return psutil.virtual_memory().available / len(here)
  return min(free, default=math.inf)
