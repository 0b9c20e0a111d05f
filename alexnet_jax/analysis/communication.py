"""What the compiled steps send between devices, layer by layer (§3.2).

The claim of the 2012 design is that the towers talk only before conv3 and the
fully connected layers. Here it is read off the compiled programs and set
beside what the shapes demand.
"""

import dataclasses
import math
import re
from collections.abc import Iterable
from typing import Any, cast

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax.analysis.hlo import Collective, read_collectives
from alexnet_jax.data import stats
from alexnet_jax.data.photographs import SIZE
from alexnet_jax.models.table import CONVS, DENSES
from alexnet_jax.runtime import sharding
from alexnet_jax.training.evaluation import make_eval_step
from alexnet_jax.training.state import Setup, make_setup
from alexnet_jax.training.step import jitted_step

_NORMS = tuple(name.replace('conv', 'lrn') for name in CONVS)
_PAIRS = zip(CONVS, _NORMS, strict=True)
_LAYERS = (*(name for pair in _PAIRS for name in pair), *DENSES, 'fc8')
Needs = dict[tuple[str, str], int]


@dataclasses.dataclass(frozen=True)
class Row:
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


def abstract_setup(
  config: ml_collections.ConfigDict,
  num_classes: int,
  mesh: Any = None,
) -> Setup:
  """A setup without a data set, to compile for, or to look at.

  Args:
    config: as configs/default.py describes it.
    num_classes: outputs of fc8.
    mesh: ('data', 'tower'), abstract or not; None: `config.mesh` on the
      devices there are.
  """
  mesh = mesh or sharding.make_mesh(
    config.mesh.data, config.mesh.towers, config.model.towers
  )
  black = stats.Sums.of([np.zeros((SIZE, SIZE, 3), np.uint8)])
  return make_setup(config, mesh, num_classes, black.statistics())


def compile_training(setup: Setup) -> jax.stages.Compiled:
  """The training step for the setup's devices, which need not be here."""
  constants = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=NamedSharding(setup.mesh, P())
    ),
    setup.constants,
  )
  lowered = jitted_step(setup).lower(
    setup.abstract_state(),
    _batch(setup, setup.config.batch_size),
    jax.ShapeDtypeStruct((1 + len(setup.config.schedule.rules),), jnp.float32),
    constants,
  )
  return lowered.compile()


def of_training(setup: Setup) -> list[Row]:
  """What one training step sends."""
  return rows_of(setup, compile_training(setup))


def of_evaluation(setup: Setup, views: int = 1) -> list[Row]:
  """What one step of an evaluation sends."""
  step = make_eval_step(setup, views)
  config = setup.config
  batch = _batch(setup, config.evals.batch_size or config.batch_size, 'mask')
  params = setup.abstract_state().params
  jitted = cast(jax.stages.Wrapped, step.func)
  return rows_of(
    setup, jitted.lower((params,), batch, **step.keywords).compile()
  )


def rows_of(setup: Setup, compiled: jax.stages.Compiled) -> list[Row]:
  """Alike collectives of a program as one row, in the order of the network."""
  text = compiled.as_text()
  assert text is not None
  rows: dict[tuple, Row] = {}
  for found in read_collectives(text, setup.mesh.shape):
    key = (*_place(found), found.operation, found.axes, found.dtype)
    row = rows.get(key, Row(*key))
    rows[key] = dataclasses.replace(
      row,
      elements=row.elements + found.elements * found.times,
      bytes=row.bytes + found.bytes,
    )
  return sorted(rows.values(), key=_order)


def minimum(setup: Setup) -> Needs:
  """Bytes a device must receive per image, by (layer, direction).

  A layer that reads all towers needs the maps of those that live elsewhere,
  and gives back their gradient. fc8 needs the others' part of the logits, and
  gives back nothing.
  """

  model = nnx.merge(setup.graphdef, setup.abstract_state().params)
  # With 'owt' the convolutions of all towers are on each device; fc6 needs the
  # maps of the others' images, of its own tower at least.
  readers = {row.name for row in model.denses if row.talk}
  regrouped = {'fc6'} - readers if setup.owt else set()
  if not setup.owt:
    readers |= {row.name for row in model.convs if row.talk}
    if model.has_lrn and model.lrn_across:
      normed = (row for row in model.convs if 'norm' in row.then)
      readers |= {row.follower('norm', 'lrn') for row in normed}

  def talk(params: nnx.State, images: jax.Array) -> dict[str, Any]:
    """What each layer reads of all towers, as it would be sent."""
    model = nnx.merge(setup.graphdef, params)
    model.tower_axis = None
    outputs = model.activations(images)
    inputs = dict(zip(list(outputs)[1:], outputs.values(), strict=False))
    dtype = model.exchange_dtype or model.dtype
    sent = {
      name: [x.astype(dtype) for x in inputs[name]]
      for name in readers | regrouped
    }
    return sent | {'fc8': outputs['fc8']}

  size = setup.config.augment.crop_size
  image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  maps = jax.eval_shape(talk, jax.eval_shape(setup.init).params, image)
  spread = setup.mesh.shape[sharding.TOWER]
  needs = {}
  for name in readers | regrouped:
    read = _bytes(maps[name]) // (spread if name in regrouped else 1)
    others = read * (spread - 1) // spread
    needs[name, 'forward'] = needs[name, 'backward'] = others
  # Each sum of the logits goes out again: for two towers, the other's part.
  needs['fc8', 'forward'] = 2 * _bytes(maps['fc8']) * (spread - 1) // spread
  return needs


def parameters_on_a_device(setup: Setup) -> int:
  """How many numbers of the parameters each device holds."""
  leaves = jax.tree.leaves(setup.abstract_state().params)
  return sum(math.prod(x.sharding.shard_shape(x.shape)) for x in leaves)


def table(setup: Setup, rows: Iterable[Row]) -> str:
  """What `rows` say of one program, for people to read."""
  config, rows = setup.config, list(rows)
  images = config.batch_size // setup.mesh.shape[sharding.DATA]
  needs = minimum(setup)
  form = '{:<6} {:<9} {:<15} {:<11} {:<5} {:>12} {:>9}'.format
  head = ('layer', 'direction', 'operation', 'axis', 'dtype')
  lines = [form(*head, 'bytes/image', 'minimum')]
  for row in rows:
    if row.kind == 'activations':
      need = needs.get((row.layer, row.direction), 0)
      each = f'{row.bytes / images:,.0f}'
      axis = ','.join(row.axes)
      lines.append(
        form(
          *(row.layer, row.direction, row.operation, axis, row.dtype),
          *(each, f'{need:,}'),
        )
      )
  for kind, words in (
    ('parameters', 'gradients of parameters'),
    ('labels', 'labels'),
    ('scalars', 'scalars of metrics'),
  ):
    for axes in sorted({row.axes for row in rows if row.kind == kind}):
      those = [r for r in rows if r.kind == kind and r.axes == axes]
      lines.append(
        f'{words} over {",".join(axes)}: {sum(r.elements for r in those):,} '
        f'numbers, {sum(r.bytes for r in those):,} bytes a step'
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


def _place(found: Collective) -> tuple[str, str, str]:
  """(kind, layer, direction), from the name stack."""
  if found.elements == 1:
    return 'scalars', '', ''
  *parts, primitive = found.scope.split('/')
  if 'labels' in parts:
    return 'labels', '', ''
  for part in parts:
    name = re.sub(r'\w+\(|\)', '', part)
    if name in _LAYERS:
      backward = 'transpose(' in part
      # The sum in a backward pass is that of a gradient all devices need.
      summed = backward and primitive.startswith('psum')
      kind = 'parameters' if summed else 'activations'
      return kind, name, 'backward' if backward else 'forward'
  return 'activations', f'? {found.scope}', 'forward'


def _order(row: Row) -> tuple:
  backward = row.direction == 'backward'
  known = row.layer in _LAYERS
  place = _LAYERS.index(row.layer) if known else len(_LAYERS)
  return (row.kind, backward, -place if backward else place, row.axes)


def _bytes(maps: Any) -> int:
  return sum(
    math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(maps)
  )
