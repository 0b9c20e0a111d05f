"""What the compiled steps send between devices, layer by layer (§3.2).

The claim of the 2012 design is that the towers talk only before conv3 and the
fully connected layers. Here it is read off the compiled programs and set
beside what the network's table demands.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax.analysis.hlo import Collective, read_collectives
from alexnet_jax.data import stats
from alexnet_jax.data.photographs import SIZE
from alexnet_jax.models import describe
from alexnet_jax.models.rows import Table
from alexnet_jax.runtime import backend, sharding
from alexnet_jax.training.evaluation import make_eval_step
from alexnet_jax.training.settings import Settings
from alexnet_jax.training.state import Setup, make_setup
from alexnet_jax.training.step import jitted_step

Needs = Mapping[tuple[str, str], int]  # of `describe.needed_bytes`


@dataclasses.dataclass(frozen=True)
class Transfer:
  """Collectives of one kind, layer and direction.

  Attributes:
    kind: 'activations' pass between towers, as do their gradients, backward;
      'parameters' are gradients summed over devices; 'labels' are those of
      the images whose logits a device has; 'scalars' are metrics.
    layer: 'conv1' to 'fc8'; '' for labels and scalars.
    direction: 'forward' or 'backward'; '' for labels and scalars.
    operation: as XLA names it.
    axes: the mesh axes it spans.
    dtype: as XLA names it.
    elements: numbers in the results on one device.
    bytes: what one device receives in a step.
  """

  kind: str
  layer: str
  direction: str
  operation: str
  axes: tuple[str, ...]
  dtype: str
  elements: int = 0
  bytes: int = 0


def on_mesh(settings: Settings, data: int, towers: int) -> Settings:
  """The same settings on another mesh."""
  mesh = dataclasses.replace(settings.mesh, data=data, towers=towers)
  return dataclasses.replace(settings, mesh=mesh)


def abstract_setup(
  settings: Settings,
  num_classes: int,
  devices: Sequence[jax.Device] | None = None,
) -> Setup:
  """A setup without a data set, to compile for, or to look at.

  Args:
    settings: of `configure`.
    num_classes: outputs of fc8.
    devices: of the mesh, which need not be here; None: those there are.
  """
  mesh = settings.mesh.make_mesh(settings.model.towers, devices)
  black = stats.Sums.of([np.zeros((SIZE, SIZE, 3), np.uint8)])
  return make_setup(settings, mesh, num_classes, black.statistics())


def compile_training(setup: Setup) -> jax.stages.Compiled:
  """The training step for the setup's devices, which need not be here: to be
  read, not run."""
  constants = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=NamedSharding(setup.mesh, P())
    ),
    setup.constants,
  )
  lowered = jitted_step(setup).lower(
    setup.abstract_state(),
    _batch(setup, setup.batch_size),
    jax.ShapeDtypeStruct((1 + len(setup.schedule.rules),), jnp.float32),
    constants,
  )
  return _compile(setup, lowered)


def training_transfers(setup: Setup) -> list[Transfer]:
  """What one training step sends."""
  return read_transfers(setup, compile_training(setup))


def evaluation_transfers(setup: Setup, batch_size: int) -> list[Transfer]:
  """What one step of an evaluation of one view sends."""
  step = make_eval_step(setup, 1)
  batch = _batch(setup, batch_size, 'mask')
  params = setup.abstract_state().params
  jitted = cast(jax.stages.Wrapped, step.func)
  lowered = jitted.lower((params,), batch, **step.keywords)
  return read_transfers(setup, _compile(setup, lowered))


def _compile(setup: Setup, lowered: jax.stages.Lowered) -> jax.stages.Compiled:
  """To be read: machine code changes nothing in the text."""
  on_cpus = setup.mesh.devices.flat[0].platform == 'cpu'
  return lowered.compile(backend.UNRUN if on_cpus else None)


def read_transfers(
  setup: Setup, compiled: jax.stages.Compiled
) -> list[Transfer]:
  """Alike collectives of a program as one, in the order of the network."""
  text = compiled.as_text()
  assert text is not None
  layers = _scopes(setup.table)
  found: dict[tuple, Transfer] = {}
  for one in read_collectives(text, setup.mesh.shape):
    key = (*_place(one, layers), one.operation, one.axes, one.dtype)
    before = found.get(key, Transfer(*key))
    found[key] = dataclasses.replace(
      before,
      elements=before.elements + one.elements * one.times,
      bytes=before.bytes + one.bytes,
    )

  def order(one: Transfer) -> tuple:
    backward = one.direction == 'backward'
    known = one.layer in layers
    place = layers.index(one.layer) if known else len(layers)
    return (one.kind, backward, -place if backward else place, one.axes)

  return sorted(found.values(), key=order)


def needed_bytes(settings: Settings, num_classes: int, spread: int) -> Needs:
  """The least that a device must receive per image, by (layer, direction).

  Args:
    settings: of `configure`.
    num_classes: outputs of fc8.
    spread: devices that the towers are spread over.
  """
  table, size = settings.model, settings.augment.crop_size
  layers = describe.describe(table, num_classes, size)
  towers = settings.mesh.make_towers()
  return describe.needed_bytes(layers, table, towers, spread, settings.dtype)


def parameters_on_a_device(setup: Setup) -> int:
  """How many numbers of the parameters each device holds."""
  leaves = jax.tree.leaves(setup.abstract_state().params)
  return sum(math.prod(x.sharding.shard_shape(x.shape)) for x in leaves)


def format_transfers(
  setup: Setup, transfers: Iterable[Transfer], needs: Needs, batch_size: int
) -> str:
  """What a program sends, for people to read.

  Args:
    setup: of the program.
    transfers: of `training_transfers` or `evaluation_transfers`.
    needs: of `needed_bytes`.
    batch_size: images of a step.
  """
  transfers = list(transfers)
  images = batch_size // setup.mesh.shape[sharding.DATA]
  form = '{:<6} {:<9} {:<15} {:<11} {:<5} {:>12} {:>9}'.format
  head = ('layer', 'direction', 'operation', 'axis', 'dtype')
  lines = [form(*head, 'bytes/image', 'minimum')]
  for one in transfers:
    if one.kind == 'activations':
      need = needs.get((one.layer, one.direction), 0)
      lines.append(
        form(
          *(one.layer, one.direction, one.operation, ','.join(one.axes)),
          *(one.dtype, f'{one.bytes / images:,.0f}', f'{need:,}'),
        )
      )
  for kind, words in (
    ('parameters', 'gradients of parameters'),
    ('labels', 'labels'),
    ('scalars', 'scalars of metrics'),
  ):
    for axes in sorted({one.axes for one in transfers if one.kind == kind}):
      those = [x for x in transfers if (x.kind, x.axes) == (kind, axes)]
      lines.append(
        f'{words} over {",".join(axes)}: {sum(x.elements for x in those):,} '
        f'numbers, {sum(x.bytes for x in those):,} bytes a step'
      )
  received = sum(one.bytes for one in transfers)
  lines.append(
    f'each device receives {received:,} bytes a step, all together '
    f'{received * setup.mesh.size / batch_size:,.0f} an image'
  )
  held = parameters_on_a_device(setup)
  lines.append(f'each device holds {held:,} parameters')
  return '\n'.join(lines)


def _batch(setup: Setup, size: int, *flags: str) -> dict[str, Any]:
  place = setup.batch_sharding
  parts = {
    'image': ((size, SIZE, SIZE, 3), jnp.uint8),
    'label': ((size,), jnp.int32),
    **{flag: ((size,), jnp.bool_) for flag in flags},
  }
  return {
    name: jax.ShapeDtypeStruct(shape, dtype, sharding=place)
    for name, (shape, dtype) in parts.items()
  }


def _scopes(table: Table) -> list[str]:
  """The names that the network gives its layers and their steps, in order."""
  names = []
  for row in table.rows:
    names.append(row.name)
    if row in table.convs:
      names += [row.output(step) for step in table.steps(row)]
  return list(dict.fromkeys(names))


def _place(found: Collective, layers: Sequence[str]) -> tuple[str, str, str]:
  """(kind, layer, direction), from the name stack."""
  if found.elements == 1:
    return 'scalars', '', ''
  *parts, primitive = found.scope.split('/')
  if 'labels' in parts:
    return 'labels', '', ''
  for part in parts:
    name = re.sub(r'\w+\(|\)', '', part)
    if name in layers:
      backward = 'transpose(' in part
      # The sum in a backward pass is that of a gradient all devices need.
      summed = backward and primitive.startswith('psum')
      kind = 'parameters' if summed else 'activations'
      return kind, name, 'backward' if backward else 'forward'
  return 'activations', f'? {found.scope}', 'forward'
