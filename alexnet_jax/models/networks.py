"""From `config.model` to a checked table, and from a table to the network."""

from collections.abc import Mapping
from typing import Any

from flax import nnx

from alexnet_jax.models import table
from alexnet_jax.models.alexnet import AlexNet
from alexnet_jax.models.cifar import CifarNet
from alexnet_jax.models.rows import (
  BatchNorm,
  Conv,
  Dense,
  MapNorm,
  Pool,
  ResponseNorm,
  Table,
)
from alexnet_jax.models.towers import Towers
from alexnet_jax.runtime.checks import MANY, Range, check, choice
from alexnet_jax.runtime.errors import UserError

_PARTS = {
  'pool': Pool,
  'lrn': ResponseNorm,
  'map_norm': MapNorm,
  'batch_norm': BatchNorm,
}
_CHOICES = ('dropout', 'dropout_form', 'rounding')


def make_network(
  table: Table,
  num_classes: int,
  image_size: int,
  *,
  dtype: str = 'float32',
  towers: Towers | None = None,
  rngs: nnx.Rngs,
) -> AlexNet:
  """The network of a table; arguments are those of `AlexNet`.

  Raises:
    UserError: the views are too small.
  """
  kind = AlexNet if table.name == 'alexnet' else CifarNet
  return kind(
    table, num_classes, image_size, dtype=dtype, towers=towers, rngs=rngs
  )


def read_table(model: Mapping[str, Any]) -> Table:
  """The network of `config.model`, a plain dict, checked.

  Raises:
    UserError: a field has no such value, or no layer reads it.
  """
  check('model.name', model['name'], choice(*table.TABLES))
  check('model.width', model['width'], Range(0.001, 100))
  check('model.init_scale', model['init_scale'], Range(0, 1000))
  names = _check_layers(model)
  rows = [_read_row(model, name, name == names[-1]) for name in names]
  convs = tuple(row for row in rows if isinstance(row, Conv))
  *denses, logits = (row for row in rows if isinstance(row, Dense))
  own = {n: kind(**model[n]) for n, kind in _PARTS.items() if n in model}
  own |= {name: model[name] for name in _CHOICES if name in model}
  made = Table(
    name=model['name'],
    towers=model['towers'],
    width=model['width'],
    convs=convs,
    denses=tuple(denses),
    logits=logits,
    activation=model['activation'],
    **own,
  )
  _check_unread(model, made)
  return made


def _check_layers(model: Mapping[str, Any]) -> tuple[str, ...]:
  """The names of `model.layers`: each once, convolutions first."""
  names = tuple(model['layers'])
  known = [name for name, row in model.items() if _is_row(row)]
  logits = [name for name in known if 'features' not in model[name]]
  dense = ['kernel' not in model.get(name, {}) for name in names]
  if (
    len(set(names)) < len(names)
    or not set(names) <= set(known)
    or names[:1] != ('conv1',)
    or names[-1:] != tuple(logits)
    or dense != sorted(dense)
  ):
    raise UserError(
      f'config.model.layers={names}: conv1 first, {logits[0]} last, each once, '
      f'convolutions before what is fully connected; there are {sorted(known)}'
    )
  return names


def _is_row(value: Any) -> bool:
  return isinstance(value, Mapping) and 'reads' in value


def _read_row(model: Mapping[str, Any], name: str, last: bool) -> Conv | Dense:
  fields = {**model[name], 'name': name}
  check(f'model.{name}.init_std', fields['init_std'], Range(0, 1000))
  std = fields['init_std'] * model['init_scale']
  if name != 'conv1':
    # A layer's fan-in shrinks with the width, conv1's (RGB) does not: so the
    # signal that reaches fc7 does not depend on the width.
    std *= model['width'] ** -0.5
  fields['init_std'] = std
  if last:
    return Dense(features=0, then=(), **fields)
  check(f'model.{name}.features', fields['features'], Range(1, MANY))
  fields['features'] = max(1, round(fields['features'] * model['width']))
  fields['then'] = tuple(fields['then'])
  return Conv(**fields) if 'kernel' in fields else Dense(**fields)


def _check_unread(model: Mapping[str, Any], made: Table) -> None:
  """Refuses another value than the table's in what no layer reads."""
  steps = {step for row in made.convs for step in row.then}
  steps |= {'pool'} & {step.removeprefix('avg_') for step in steps}
  listed = {row.name for row in made.rows}
  for name, before in table.TABLES[made.name]().to_dict().items():
    if not isinstance(before, Mapping):
      continue
    step = 'norm' if name == 'lrn' else name
    if name in listed or step in steps:
      continue
    why = 'it is not in config.model.layers'
    if not _is_row(before):
      why = f'no layer has {step!r} in its `then`'
    for field, value in before.items():
      now = model[name][field]
      now = tuple(now) if isinstance(value, tuple) else now
      if now != value:
        raise UserError(
          f'config.model.{name}.{field}={now!r} is read by nothing: {why}. '
          f'Leave it at {value!r}'
        )
  dropped = any('dropout' in row.then for row in made.denses)
  usual = table.TABLES[made.name]().get('dropout', 0.0)
  if not dropped and made.dropout not in (0.0, usual):
    raise UserError(
      f'config.model.dropout={made.dropout} is read by nothing: no layer has '
      f"'dropout' in its `then`. Leave it at {usual}"
    )
