"""What other programs must be told beside a network's weights.

Their files hold weights alone. The program that reads them has a geometry and
a preprocessing of its own: what it cannot be told is refused, the rest is said.
"""

import itertools
from collections.abc import Iterator

from alexnet_jax.formats.names import Arrays, Network
from alexnet_jax.kernels import geometry
from alexnet_jax.models import table as tables
from alexnet_jax.models.networks import read_table
from alexnet_jax.models.rows import Conv, Table
from alexnet_jax.runtime.errors import UserError


def fold_dropout(params: Arrays, table: Table, back: bool = False) -> Arrays:
  """The paper's scaling at test time (§4.2) as part of the next kernel.

  Other programs scale while they train, and not when they test. With the
  paper's share of 0.5 the numbers are exact.

  Args:
    params: by our names; the last axes may have any layout.
    table: of the network.
    back: from their weights to ours.
  """
  if table.dropout_form != 'paper':
    return params
  kept = 1 - table.dropout
  params = dict(params)
  for row, following in itertools.pairwise((*table.denses, table.logits)):
    if 'dropout' in row.then:
      early = 'act' in row.then[row.then.index('dropout') :]
      if early and table.activation != 'relu':
        raise UserError(
          f'config.model.{row.name}.then has dropout before '
          f'{table.activation}: that is no factor of the next kernel'
        )
      name = f'{following.name}/kernel'
      x = params[name]
      factor = x.dtype.type(1 / kept if back else kept)
      params[name] = x * factor
  return params


# -- torchvision's alexnet


def check_torchvision(network: Network, whole: bool) -> None:
  """Refuses a network that is not torchvision's `alexnet`.

  Args:
    network: to write, or of the configuration to read with.
    whole: its widths must be the same, too, as they are in a file to write.

  Raises:
    UserError: in what it differs.
  """
  table = network.table
  if table.towers > 1:
    raise UserError(
      "torchvision's alexnet has one tower without groups, this network "
      f'{table.towers}: export it with --format=grouped'
    )
  theirs = read_table(tables.torchvision().to_dict())
  differences = [
    f'{name} is {here!r}, not {there!r}'
    for name, here, there in _compare(table, theirs, whole)
  ]
  side = list(table.sides(network.image_size))[-1][1]
  if whole and side != 6:  # its average pooling would change them
    differences.append(f'the last maps have {side} pixels a side, not 6')
  if network.config['augment']['mean'] == 'none':
    differences.append("config.augment.mean is 'none', not 'rgb'")
  if whole and network.config['augment']['mean'] == 'image':
    differences.append("config.augment.mean is 'image', not 'rgb'")
  if differences:
    raise UserError(
      "this is not torchvision's alexnet: " + '; '.join(differences)
    )


def _compare(table: Table, theirs: Table, whole: bool) -> Iterator[tuple]:
  """(name, here, there) of what differs."""
  yield from _different('model', table, theirs, ('activation', 'rounding'))
  if any('dropout' in row.then for row in table.denses):
    yield from _different(
      'model',
      table,
      theirs,
      ('dropout', 'dropout_form') if whole else ('dropout_form',),
    )
  yield from _different('model.pool', table.pool, theirs.pool, _WINDOW)
  names = [row.name for row in table.rows]
  if names != (there := [row.name for row in theirs.rows]):
    yield 'config.model.layers', names, there
    return
  for conv, same in zip(table.convs, theirs.convs, strict=True):
    yield from _different(conv.part, conv, same, ('kernel', 'stride', 'pad'))
    steps = table.steps(conv), theirs.steps(same)
    if steps[0] != steps[1]:
      yield f'config.{conv.part}.then', *steps
  if whole:
    for row, other in zip(table.rows, theirs.rows, strict=True):
      yield from _different(row.part, row, other, ('features',))


_WINDOW = ('window', 'stride')


def _different(
  part: str, one: object, other: object, fields: tuple[str, ...]
) -> Iterator[tuple]:
  for field in fields:
    here, there = getattr(one, field), getattr(other, field)
    if here != there:
      yield f'config.{part}.{field}', here, there


def describe_torchvision(network: Network) -> list[str]:
  """How torchvision's program prepares pictures for these weights.

  What the views are multiplied by is in conv1's kernels.
  """
  mean = ', '.join(f'{x / 255:.6f}' for x in network.statistics.rgb_mean)
  return [
    f'transforms.CenterCrop({network.image_size}) of squares of '
    f'{len(network.statistics.mean_image)} pixels, then '
    f'transforms.Normalize(({mean}), (0.229, 0.224, 0.225))'
  ]


# -- Caffe


def describe_caffe(network: Network, mean_file: str | None) -> list[str]:
  """What Caffe's prototxt must say for these weights.

  Args:
    network: to write.
    mean_file: the `.binaryproto` written beside it; None: there is no mean.
  """
  table, augment = network.table, network.config['augment']
  mean = f'mean_file: "{mean_file}" ' if mean_file else ''
  notes = [
    f'transform_param {{ {mean}scale: {augment["scale"]:g} '
    f'crop_size: {network.image_size} }}'
  ]
  if table.has_norm and any('norm' in row.then for row in table.convs):
    assert table.lrn
    lrn = table.lrn
    alpha = lrn.alpha * (lrn.size if lrn.alpha_over == 'sum' else 1)
    notes.append(
      f'lrn_param {{ local_size: {lrn.size} alpha: {alpha:g} '
      f'beta: {lrn.beta:g} k: {lrn.k:g} }}'
    )
    if table.towers > 1 and not lrn.across_towers:
      notes.append(
        "Caffe's LRN looks across the towers' border, and this network does "
        f'not: Slice its maps in {table.towers}, LRN each, Concat'
      )
  for row in table.convs:
    if rare := {'map_norm', 'avg_pool'} & set(row.then):
      notes.append(f'{row.name} is followed by {sorted(rare)}')
  if table.activation != 'relu':
    notes.append(f'activation: {table.activation} in place of ReLU')
  sides = list(table.sides(network.image_size))
  size = network.image_size
  for row, (convolved, left) in zip(table.convs, sides, strict=True):
    notes += _describe_windows(table, row, size, convolved, left)
    size = left
  return notes


def _describe_windows(
  table: Table, row: Conv, size: int, convolved: int, left: int
) -> Iterator[str]:
  """Where Caffe, whose convolutions round down and pools up, has others."""
  theirs = geometry.full_size(size, row.kernel, row.stride, row.pad)
  if theirs != convolved:
    yield (
      f"{row.name} has {convolved} places a side here, and Caffe's {theirs}: "
      f'pad its input with zeros at the right and below, or train with a '
      'crop_size that its windows fill'
    )
  if 'pool' in row.then:
    window = (table.pool.window, table.pool.stride)
    theirs = geometry.output_size(convolved, *window)
    if theirs != left:
      yield (
        f'the pool of {row.name} has {left} places a side here, and '
        f"Caffe's {theirs}"
      )
