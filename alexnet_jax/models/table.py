"""The table of §3.5, as `config.model` has it."""

import dataclasses
from typing import Any

import ml_collections

from alexnet_jax.kernels import windows
from alexnet_jax.runtime.errors import UserError

CONVS = tuple(f'conv{i}' for i in range(1, 7))
DENSES = ('fc6', 'fc7')
FOLLOWING = ('act', 'norm', 'map_norm', 'batch_norm', 'pool')


def _column(names: tuple[str, ...], field: str, *values: Any) -> dict[str, Any]:
  pairs = zip(names, values, strict=True)
  return {f'{field}.{name}': value for name, value in pairs}


_WHOLE = ('act', 'norm', 'pool')
# Fields of `config.model` that are younger than the oldest checkpoints, and
# what a network was before it had them: flattened names.
SINCE: dict[str, Any] = {
  'name': 'alexnet',
  'init_scale': 1.0,
  'convs': CONVS[:5],
  'talk': ('conv3', 'fc6', 'fc7'),
  **_column(
    CONVS + DENSES, 'features', 48, 128, 192, 192, 128, 128, 2048, 2048
  ),
  **_column(CONVS, 'kernel', 11, 5, 3, 3, 3, 3),
  **_column(CONVS, 'stride', 4, 1, 1, 1, 1, 1),
  **_column(CONVS, 'pad', 0, 2, 1, 1, 1, 1),
  **_column(
    CONVS,
    'then',
    *(_WHOLE, _WHOLE, ('act',), ('act',), ('act', 'pool'), ('act',)),
  ),
  'rounding': 'up',
  'lrn.across_towers': False,
  'map_norm.size': 5,
  'map_norm.k': 1.0,
  'map_norm.alpha': 1e-3,
  'map_norm.beta': 0.75,
  'batch_norm.momentum': 0.9,
  'batch_norm.epsilon': 1e-5,
  'init_std.conv6': 0.03,
  'init_bias.conv6': 1.0,
}


@dataclasses.dataclass(frozen=True)
class Conv:
  """A row of the table: a convolution and what follows it.

  Attributes:
    name: conv1 to conv6.
    features: kernels per tower.
    kernel: side of a kernel, pixels.
    stride: pixels between windows.
    pad: zeros on each side.
    talk: reads the maps of both towers, else of its own.
    then: of `FOLLOWING`, in order.
  """

  name: str
  features: int
  kernel: int
  stride: int
  pad: int
  talk: bool
  then: tuple[str, ...]

  def follower(self, step: str, norm: str) -> str:
    """What the output of a step of `then` is called: 'pool1'.

    An activation function that comes first belongs to the convolution.
    """
    if step == 'act' and self.then[0] == 'act':
      return self.name
    return (norm if step == 'norm' else step) + self.name.removeprefix('conv')


@dataclasses.dataclass(frozen=True)
class Dense:
  """A row of the table: a fully connected layer.

  Attributes:
    name: fc6 or fc7.
    features: units per tower.
    talk: reads both towers, else its own.
  """

  name: str
  features: int
  talk: bool


def completed(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """`config.model` with the fields it is too old to have."""
  whole = config.copy_and_resolve_references()
  with whole.unlocked():
    for name, value in SINCE.items():
      *path, last = name.split('.')
      node = whole
      for part in path:
        if part not in node:
          node[part] = ml_collections.ConfigDict()
        node = node[part]
      if last not in node:
        node[last] = value
  return whole


def rows(
  config: ml_collections.ConfigDict,
) -> tuple[tuple[Conv, ...], tuple[Dense, ...]]:
  """The rows of `config.model`: the convolutions, fc6 and fc7.

  Raises:
    UserError: a field names no layer or nothing that can follow one.
  """
  config = completed(config)
  names, talk = tuple(config.convs), tuple(config.talk)
  if names[:1] != CONVS[:1] or names != tuple(n for n in CONVS if n in names):
    raise UserError(
      f'config.model.convs={names}: conv1 and some of {CONVS[1:]}, in order'
    )
  readers = (*names[1:], *DENSES)
  if not set(talk) <= set(readers):
    raise UserError(
      f'config.model.talk={talk}: the layers that can read both towers are '
      f'{readers}'
    )
  if config.rounding not in ('up', 'down'):
    raise UserError(
      f"config.model.rounding is 'up' or 'down', not {config.rounding!r}"
    )

  def scaled(name: str) -> int:
    return max(1, round(config.features[name] * config.width))

  convs = []
  for name in names:
    then = tuple(config.then[name])
    if len(set(then)) < len(then) or not {'act'} <= set(then) <= set(FOLLOWING):
      raise UserError(
        f"config.model.then.{name}={then}: 'act' and some of "
        f'{FOLLOWING[1:]}, each once, in any order'
      )
    size = (config.kernel[name], config.stride[name], config.pad[name])
    convs.append(Conv(name, scaled(name), *size, name in talk, then))
  return tuple(convs), tuple(
    Dense(name, scaled(name), name in talk) for name in DENSES
  )


def map_size(
  config: ml_collections.ConfigDict, convs: tuple[Conv, ...], size: int
) -> int:
  """Side of the maps that fc6 reads.

  Args:
    config: `config.model`.
    convs: of `rows`.
    size: side of the views.

  Raises:
    UserError: the views are too small.
  """
  config = completed(config)
  fitted = windows.output_size if config.rounding == 'up' else windows.full_size
  views = size
  for conv in convs:
    try:
      size = fitted(size, conv.kernel, conv.stride, conv.pad)
      if 'pool' in conv.then:
        size = fitted(size, **config.pool)
    except UserError as error:
      raise UserError(
        f'config.augment.crop_size={views} is too small for {conv.name}: '
        f'{error}'
      ) from None
  return size
