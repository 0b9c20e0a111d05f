"""The names and layouts of a network's parameters, here and elsewhere.

Ours are those of the two towers (`models.alexnet`): {'conv2/kernel': [towers,
5, 5, 48, 128], ...}. Two steps make every other form from them: `join` puts
the towers side by side, as programs for one device have them (grouped
convolutions), and a `Layout` turns axes and renames. `split` and
`Layout.convert_back` go back. Only orders change, so a round trip is exact to
the bit.

The functions below use only methods that NumPy arrays and JAX's tracers share:
`jax.eval_shape` of one gives the shapes that a file must have.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx, traverse_util

from alexnet_jax.data.stats import Statistics
from alexnet_jax.models.networks import make_network, read_table
from alexnet_jax.models.rows import Table
from alexnet_jax.runtime.errors import UserError

Arrays = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Network:
  """What a file or a run holds of a network, on the host.

  Attributes:
    config: the whole configuration, as JSON has it.
    params: by our names, in our layouts, float32.
    class_names: by the number of the output.
    statistics: of the images it is used to.
    step: training steps done.
    average: the parameters are the average over them (`config.optimizer.ema`).
  """

  config: dict[str, Any]
  params: Arrays
  class_names: tuple[str, ...]
  statistics: Statistics
  step: int = 0
  average: bool = False

  @functools.cached_property
  def table(self) -> Table:
    """The layers of `config.model`, checked."""
    return read_table(self.config['model'])

  @property
  def image_size(self) -> int:
    """Side of its views, pixels."""
    return self.config['augment']['crop_size']

  def make(self) -> nnx.Module:
    """The module on one device, with the initial weights of `config.seed`."""
    return make_network(
      self.table,
      len(self.class_names),
      self.image_size,
      dtype=self.config['dtype'],
      rngs=nnx.Rngs(params=self.config['seed']),
    )

  def abstract(self) -> tuple[nnx.GraphDef, nnx.State]:
    """The structure of the module, and the shapes of its parameters."""
    return nnx.split(nnx.eval_shape(self.make))

  def shapes(self) -> Arrays:
    """The shapes of the parameters by our names."""
    return flatten(self.abstract()[1])

  def state(self) -> nnx.State:
    """The parameters, on the default device."""
    return filled(self.abstract()[1], jax.device_put(self.params))


def flatten(params: nnx.State) -> Arrays:
  """The parameters of a network by our names."""
  return traverse_util.flatten_dict(nnx.to_pure_dict(params), sep='/')


def filled(template: nnx.State, arrays: Arrays) -> nnx.State:
  """A copy of `template` with these arrays in place of those of their name."""
  state = jax.tree.map(lambda x: x, template)
  nnx.replace_by_pure_dict(state, traverse_util.unflatten_dict(arrays, sep='/'))
  return state


# -- two towers, and one device


def join(params: Arrays) -> Arrays:
  """Tower form to grouped form.

  Returns:
    conv: [k, k, in of one group, out of all]; fc6: [h * w * maps, out], height
    before width before maps; fc7, fc8: [in, out]; biases [out].

  Raises:
    UserError: this network has no such form.
  """
  normed = any('/batch_norm/' in name for name in params)
  if normed or 'fc8/bias' not in params:
    raise UserError(
      'only AlexNet without batch_norm has a form for one device: '
      '--format=safetensors holds this network as it is'
    )
  towers, maps = params[f'{_last_conv(params)}/bias'].shape
  out: Arrays = {}
  for name, x in params.items():
    layer, part = name.split('/')
    if part == 'bias':
      out[name] = x.reshape(-1)
    elif layer == 'fc8':  # split by input: the halves follow each other
      out[name] = x.reshape(-1, x.shape[-1])
    else:
      # [towers, ..., out] -> [..., towers * out]
      axes = (*range(1, x.ndim - 1), 0, x.ndim - 1)
      x = x.transpose(axes).reshape(*x.shape[1:-1], -1)
      if layer == 'fc6':
        side = _side(x.shape[0], towers * maps)
        x = _reorder_inputs(x, (towers, side, side, maps), (1, 2, 0, 3))
      out[name] = x
  return out


def split(grouped: Arrays, towers: int) -> Arrays:
  """What `join` was given."""
  channels = grouped[f'{_last_conv(grouped)}/bias'].shape[0]
  out: Arrays = {}
  for name, x in grouped.items():
    layer, part = name.split('/')
    if name == 'fc8/bias':
      out[name] = x
    elif part == 'bias':
      out[name] = x.reshape(towers, -1)
    elif layer == 'fc8':
      out[name] = x.reshape(towers, -1, x.shape[-1])
    else:
      if layer == 'fc6':
        side = _side(x.shape[0], channels)
        maps = channels // towers
        x = _reorder_inputs(x, (side, side, towers, maps), (2, 0, 1, 3))
      x = x.reshape(*x.shape[:-1], towers, x.shape[-1] // towers)
      out[name] = x.transpose(x.ndim - 2, *range(x.ndim - 2), x.ndim - 1)
  return out


def check_order(table: Table) -> None:
  """Refuses a network whose maps are not turned by the names of its layers.

  Raises:
    UserError: what reads the last maps is not fc6, or a convolution is last
      that has not the last name.
  """
  first = (*table.denses, table.logits)[0].name
  last = table.convs[-1].name
  if table.name != 'alexnet':
    return  # `join` refuses it
  if first != 'fc6' or last != max(row.name for row in table.convs):
    raise UserError(
      f'{first} reads the maps of {last}: only where fc6 reads those of the '
      'convolution with the highest number has a network a form for one '
      'device: --format=safetensors holds this network as it is'
    )


def _last_conv(names: Mapping[str, Any]) -> str:
  return max(n.split('/')[0] for n in names if n.startswith('conv'))


def _side(inputs: int, maps: int) -> int:
  side = math.isqrt(inputs // maps)
  if side * side * maps != inputs:
    raise UserError(
      f'fc6 reads {inputs} numbers, which are not the {maps} maps of both '
      'towers: this network has no grouped form'
    )
  return side


def _reorder_inputs(
  x: Any, shape: tuple[int, ...], axes: tuple[int, ...]
) -> Any:
  """A kernel [in, out] whose inputs, of this shape, have another order."""
  turned = x.reshape(*shape, x.shape[-1]).transpose(*axes, len(shape))
  return turned.reshape(x.shape)


# -- axes and names


@dataclasses.dataclass(frozen=True)
class Layout:
  """How another program lays out the grouped form.

  Attributes:
    names: of layers, where they are not ours.
    parts: what it calls 'kernel' and 'bias', with what stands before.
    bgr: conv1 reads blue, green, red.
    divisors: what it divides R, G and B by, on our scale of 0 to 255, after
      subtracting its mean; conv1's kernels do that here.
  """

  names: Mapping[str, str]
  parts: Mapping[str, str]
  bgr: bool = False
  divisors: tuple[float, float, float] = (1.0, 1.0, 1.0)

  def convert(self, grouped: Arrays) -> Arrays:
    """Grouped form to this: conv [out, in, k, k], fc [out, in], channels
    before height before width."""
    channels = grouped[f'{_last_conv(grouped)}/bias'].shape[0]
    return {
      self._name(name): self._turn(name, x, channels)
      for name, x in grouped.items()
    }

  def convert_back(self, arrays: Arrays, names: Mapping[str, Any]) -> Arrays:
    """What `convert` was given, of the names in `names`."""
    channels = arrays[self._name(f'{_last_conv(names)}/bias')].shape[0]
    return {
      name: self._turn_back(name, arrays[self._name(name)], channels)
      for name in names
    }

  def _name(self, name: str) -> str:
    layer, part = name.split('/')
    return self.names.get(layer, layer) + self.parts[part]

  def _turn(self, name: str, x: Any, channels: int) -> Any:
    if name.endswith('/bias'):
      return x
    if x.ndim == 4:
      if name == 'conv1/kernel':
        x = self._swap_colors(x * self._scale())
      return x.transpose(3, 2, 0, 1)
    if name == 'fc6/kernel':
      side = _side(x.shape[0], channels)
      x = _reorder_inputs(x, (side, side, channels), (2, 0, 1))
    return x.transpose(1, 0)

  def _turn_back(self, name: str, x: Any, channels: int) -> Any:
    if name.endswith('/bias'):
      return x
    if x.ndim == 4:
      x = x.transpose(2, 3, 1, 0)
      first = name == 'conv1/kernel'
      return self._swap_colors(x) / self._scale() if first else x
    x = x.transpose(1, 0)
    if name == 'fc6/kernel':
      side = _side(x.shape[0], channels)
      x = _reorder_inputs(x, (channels, side, side), (1, 2, 0))
    return x

  def _swap_colors(self, x: Any) -> Any:
    return x[:, :, ::-1] if self.bgr else x

  def _scale(self) -> np.ndarray:
    return np.asarray(self.divisors, np.float32)[:, None]  # [in, 1]


def unwrapped(keys: Iterable[str]) -> dict[str, str]:
  """The keys of a file by the names of a network's parameters: without the
  `module.` that PyTorch's DataParallel puts before all of them."""
  keys, prefix = list(keys), 'module.'
  if not all(key.startswith(prefix) for key in keys):
    prefix = ''
  return {key.removeprefix(prefix): key for key in keys}


def check(
  file: object, found: Mapping[str, tuple[int, ...]], wanted: Arrays
) -> None:
  """Refuses other names or shapes than `wanted` has, before numbers are read.

  Args:
    file: for the message.
    found: shapes by name.
    wanted: anything with shapes by name.
  """
  differences = [
    f'{name} is {list(found[name]) if name in found else "missing"}, not '
    f'{list(wanted[name].shape) if name in wanted else "expected"}'
    for name in sorted(found.keys() | wanted.keys())
    if name not in found
    or name not in wanted
    or tuple(found[name]) != tuple(wanted[name].shape)
  ]
  if differences:
    raise UserError(
      f'{file} is of another network: '
      + '; '.join(differences[:4])
      + (f'; and {len(differences) - 4} more' if differences[4:] else '')
      + '. Choose the --config of its network'
    )
