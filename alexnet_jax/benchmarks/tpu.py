"""What a TPU would do, with none here: the step compiled by libtpu, and a
roofline over what it counts. A bound, not a measurement."""

import dataclasses
import importlib.metadata
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies

from alexnet_jax.analysis import communication, hlo
from alexnet_jax.benchmarks import results, timing
from alexnet_jax.benchmarks.results import Row
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training.settings import Settings

_LAYER = re.compile(
  r'(conv|local|fc|lrn|map_norm|batch_norm|pool|act)\d+|augment|update|loss'
)


@dataclasses.dataclass(frozen=True)
class Chip:
  """Published figures of one chip (docs.cloud.google.com/tpu/docs), a second.

  Attributes:
    flops: of bfloat16 products.
    memory: bytes to and from HBM.
    links: bytes received over all links to other chips together, one
      direction of each.
  """

  flops: float
  memory: float
  links: float


CHIPS = {
  'v4': Chip(275e12, 1228e9, 300e9),
  'v5e': Chip(197e12, 819e9, 200e9),
  'v5p': Chip(459e12, 2765e9, 600e9),
  'v6e': Chip(918e12, 1640e9, 400e9),
}


def compile_step(settings: Settings, topology: str, num_classes: int) -> Row:
  """Compiles the training step for a topology.

  Args:
    settings: of `configure`; `batch_size` over all chips of the mesh.
    topology: such as 'v5e:2x4', of which the mesh takes the first chips.
    num_classes: outputs of fc8.

  Returns:
    FLOPs and bytes of one chip and step as XLA counts them, bytes by layer,
    what chips send each other, and the roofline.

  Raises:
    UserError: no such chip or topology, or libtpu is not installed.
  """
  chip = topology.partition(':')[0]
  if chip not in CHIPS:
    raise UserError(f'--topology={topology}: one of {sorted(CHIPS)} first')
  devices = _open_topology(topology)
  row, _ = compile_for(settings, topology, devices, num_classes)
  libtpu = importlib.metadata.version('libtpu')
  return row | {'versions': f'{row["versions"]}, libtpu {libtpu}'}


def compile_for(
  settings: Settings,
  topology: str,
  devices: Sequence[jax.Device],
  num_classes: int,
) -> tuple[Row, str]:
  """The row of `compile_step` for devices that need not be here, and the text
  of the compiled program."""
  setup = communication.abstract_setup(settings, num_classes, devices)
  compiled = communication.compile_training(setup)
  cost: Any = compiled.cost_analysis() or defaultdict(float)  # GPUs: none
  memory: Any = compiled.memory_analysis()
  text = compiled.as_text()
  assert text is not None
  chips = setup.mesh.size
  sent = communication.read_transfers(setup, compiled)
  about = timing.describe_machine()
  row = {
    'benchmark': 'tpu',
    'commit': about['commit'],
    'versions': about['versions'],
    'topology': topology,
    'chips': chips,
    'mesh': timing.mesh_name(setup.mesh),
    'parallelism': settings.mesh.parallelism,
    'dtype': settings.dtype,
    'batch': settings.batch_size,
    'flops': cost['flops'],
    'bytes': cost['bytes accessed'],
    'received': {
      kind: sum(one.bytes for one in sent if one.kind == kind)
      for kind in ('parameters', 'activations', 'labels', 'scalars')
    },
    'temporary': memory.temp_size_in_bytes,
    'arguments': memory.argument_size_in_bytes,
    'layers': _bytes_by_layer(text, settings.batch_size / chips),
  }
  return row, text


@dataclasses.dataclass(frozen=True)
class Roofline:
  """The least seconds that a chip needs for its part of a step.

  Attributes:
    products: at the rate of its matrix units.
    memory: at that of its memory.
    links: at that of its links.
  """

  products: float
  memory: float
  links: float

  @classmethod
  def of(cls, row: Row, chip: str | None = None) -> 'Roofline':
    """Of a row of `compile_step`; `chip`: another than it was compiled for."""
    figures = CHIPS[chip or row['topology'].partition(':')[0]]
    return cls(
      row['flops'] / figures.flops,
      row['bytes'] / figures.memory,
      sum(row['received'].values()) / figures.links,
    )

  @property
  def hidden(self) -> float:
    """Seconds of a step whose parts all go on at once."""
    return max(self.products, self.memory, self.links)

  @property
  def binds(self) -> str:
    """Which of the three is the longest."""
    return max(vars(self), key=lambda name: vars(self)[name])


def format_rooflines(rows: Sequence[Row]) -> str:
  """What `compile_step` found, for people to read, as Markdown."""
  head = (
    *('topology', 'chips', 'mesh', 'parallelism', 'batch'),
    *('GFLOP/image', 'MB/image', 'memory, GB', 'received, MB'),
    *('products, ms', 'memory, ms', 'links, ms', 'binds', 'images/s at most'),
  )
  return results.format_markdown(head, map(_roofline_cells, rows))


def _roofline_cells(row: Row) -> list[Any]:
  time = Roofline.of(row)
  images = row['batch'] / row['chips']
  return [
    *(row[name] for name in ('topology', 'chips', 'mesh', 'parallelism')),
    f'{row["batch"]:,}',
    f'{row["flops"] / images / 1e9:.2f}',
    f'{row["bytes"] / images / 1e6:.1f}',
    f'{(row["temporary"] + row["arguments"]) / 1e9:.2f}',
    f'{sum(row["received"].values()) / 1e6:.0f}',
    *(f'{1e3 * t:.2f}' for t in (time.products, time.memory, time.links)),
    time.binds,
    f'{row["batch"] / time.hidden:,.0f}',
  ]


def format_layer_bytes(row: Row) -> str:
  """MB an image by layer, most first."""
  ordered = sorted(row['layers'].items(), key=lambda item: -item[1])
  return '\n'.join(f'{name:<18} {mb:8.2f}' for name, mb in ordered)


def _open_topology(topology: str) -> list[jax.Device]:
  # There is no machine of TPUs to ask, and no TPU that two could want.
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
  os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
  try:
    found = topologies.get_topology_desc(platform='tpu', topology_name=topology)
    return list(found.devices)
  except Exception as error:  # libtpu's, of many kinds
    raise UserError(
      f'--topology={topology}: {str(error)[:300]}. It needs libtpu: '
      '`make tpu-report`, or pip install "jax[tpu]"'
    ) from error


def _bytes_by_layer(text: str, images: float) -> dict[str, float]:
  """MB an image by layer and direction: this program's count, not XLA's."""
  found: dict[str, float] = defaultdict(float)
  for scope, moved in hlo.bytes_by_scope(text).items():
    found[layer_of(scope)] += moved / images / 1e6
  return dict(found)


def layer_of(scope: str) -> str:
  """'conv1', 'conv1 backward', 'update', ... of JAX's name stack."""
  layer = _LAYER.search(scope)
  back = ' backward' if 'transpose(' in scope else ''
  return (layer[0] if layer else 'rest') + back
