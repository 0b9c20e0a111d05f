"""What a TPU would do, with none here: the step compiled by libtpu, and a
roofline over what it counts. A bound, not a measurement."""

import dataclasses
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import ml_collections
from jax.experimental import topologies

from alexnet_jax.benchmarks import traffic
from alexnet_jax.benchmarks.results import Row
from alexnet_jax.learning import communication
from alexnet_jax.learning.state import Setup
from alexnet_jax.runtime import sharding
from alexnet_jax.runtime.errors import UserError

_LAYER = re.compile(r'(conv|fc|lrn|pool)\d|augment|update|loss')


@dataclasses.dataclass(frozen=True)
class Chip:
  """Published figures of one chip (cloud.google.com/tpu/docs), per second.

  Attributes:
    flops: of bfloat16 products.
    memory: bytes to and from HBM.
    links: bytes received over all links to other chips together: half of
      what is published for both directions.
  """

  flops: float
  memory: float
  links: float


CHIPS = {
  'v4': Chip(275e12, 1228e9, 150e9),
  'v5e': Chip(197e12, 819e9, 100e9),
  'v5p': Chip(459e12, 2765e9, 300e9),
  'v6e': Chip(918e12, 1640e9, 224e9),
}


def run(
  config: ml_collections.ConfigDict,
  topology: str,
  mesh: tuple[int, int],
  classes: int,
) -> Row:
  """Compiles the training step for a topology.

  Args:
    config: as configs/default.py describes it; `batch_size` over all chips.
    topology: such as 'v5e:2x4', of which the mesh takes the first chips.
    mesh: (data, tower).
    classes: outputs of fc8.

  Returns:
    FLOPs and bytes of one chip and step as XLA counts them, bytes by layer,
    what chips send each other, and the roofline.

  Raises:
    UserError: no such chip or topology, or libtpu is not installed.
  """
  chip = topology.partition(':')[0]
  if chip not in CHIPS:
    raise UserError(f'--topology={topology}: one of {sorted(CHIPS)} first')
  setup = _setup(config, topology, mesh, classes)
  compiled = communication.compile_training(setup)
  cost: Any = compiled.cost_analysis()
  memory: Any = compiled.memory_analysis()
  text = compiled.as_text()
  assert text is not None
  chips = mesh[0] * mesh[1]
  images = config.batch_size / chips
  received = sum(row.bytes for row in communication.rows_of(setup, compiled))
  figures = CHIPS[chip]
  times = {
    'products': cost['flops'] / figures.flops,
    'memory': cost['bytes accessed'] / figures.memory,
    'links': received / figures.links,
  }
  binds = max(times, key=lambda name: times[name])
  return {
    'benchmark': 'tpu',
    'topology': topology,
    'chips': chips,
    'mesh': f'{mesh[0]},{mesh[1]}',
    'parallelism': config.mesh.parallelism,
    'dtype': config.dtype,
    'batch': config.batch_size,
    'gflop_per_image': cost['flops'] / images / 1e9,
    'mb_per_image': cost['bytes accessed'] / images / 1e6,
    'received_mb': received / 1e6,
    'temporary_gb': memory.temp_size_in_bytes / 1e9,
    'arguments_gb': memory.argument_size_in_bytes / 1e9,
    **{f'{name}_ms': 1e3 * seconds for name, seconds in times.items()},
    'binds': binds,
    'images_per_sec': config.batch_size / times[binds],
    'layers': _by_layer(text, images),
  }


def table(rows: Sequence[Row]) -> str:
  """What `run` found, for people to read, as Markdown."""
  head = (
    'chips',
    'mesh',
    'parallelism',
    'batch',
    'GFLOP/image',
    'MB/image',
    'received MB',
    'temporary GB',
    'products ms',
    'memory ms',
    'links ms',
    'binds',
    'images/s at most',
  )
  lines = [f'| {" | ".join(head)} |', '|' + '---|' * len(head)]
  for row in rows:
    cells = (
      *(row[name] for name in ('chips', 'mesh', 'parallelism', 'batch')),
      f'{row["gflop_per_image"]:.2f}',
      f'{row["mb_per_image"]:.1f}',
      f'{row["received_mb"]:.1f}',
      f'{row["temporary_gb"]:.2f}',
      *(f'{row[f"{n}_ms"]:.2f}' for n in ('products', 'memory', 'links')),
      row['binds'],
      f'{row["images_per_sec"]:,.0f}',
    )
    lines.append(f'| {" | ".join(map(str, cells))} |')
  return '\n'.join(lines)


def layers(row: Row) -> str:
  """MB an image by layer, most first."""
  ordered = sorted(row['layers'].items(), key=lambda item: -item[1])
  return '\n'.join(f'{name:<18} {mb:8.2f}' for name, mb in ordered)


def _setup(
  config: ml_collections.ConfigDict,
  topology: str,
  mesh: tuple[int, int],
  classes: int,
) -> Setup:
  config.mesh.data, config.mesh.towers = mesh
  try:
    devices = list(
      topologies.get_topology_desc(
        platform='tpu', topology_name=topology
      ).devices
    )
  except Exception as error:  # libtpu's, of many kinds
    raise UserError(
      f'--topology={topology}: {str(error)[:300]}. It needs libtpu: '
      '`make tpu-report`, or pip install "jax[tpu]"'
    ) from error
  made = sharding.make_mesh(*mesh, config.model.towers, devices)
  return communication.abstract_setup(config, classes, made)


def _by_layer(text: str, images: float) -> dict[str, float]:
  """MB an image by layer and direction: this program's count, not XLA's."""
  found: dict[str, float] = defaultdict(float)
  for scope, moved in traffic.by_scope(text).items():
    layer = _LAYER.search(scope)
    name = layer[0] if layer else 'rest'
    back = ' backward' if 'transpose(' in scope else ''
    found[name + back] += moved / images / 1e6
  return dict(found)
