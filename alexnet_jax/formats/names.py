"""The names and layouts of a network's parameters, here and elsewhere.

Ours are those of the two towers (`models.alexnet`): {'conv2/kernel': [towers,
5, 5, 48, 128], ...}. From them every other is made in two steps: `join` puts
the towers side by side, as programs for one device have them (grouped
convolutions), and a `Layout` turns axes and renames. `split` and `Layout.undo`
go back; only orders change, so that a round trip is exact to the bit.

Every function below uses methods that NumPy arrays and JAX's tracers share:
`jax.eval_shape` of one gives the shapes that a file must have.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
from flax import nnx, traverse_util

from alexnet_jax.data.stats import Statistics
from alexnet_jax.models import get_model
from alexnet_jax.runtime.errors import UserError

Arrays = dict[str, Any]

# A layer's name in torchvision's `alexnet`; Caffe's are ours.
TORCHVISION = {
  'conv1': 'features.0',
  'conv2': 'features.3',
  'conv3': 'features.6',
  'conv4': 'features.8',
  'conv5': 'features.10',
  'fc6': 'classifier.1',
  'fc7': 'classifier.4',
  'fc8': 'classifier.6',
}


@dataclasses.dataclass(frozen=True)
class Network:
  """What a file or a run holds of a network, on the host.

  Attributes:
    config: the whole configuration.
    params: our names and layouts, float32.
    class_names: by the number of the output.
    statistics: of the images it is used to.
    step: training steps done.
  """

  config: ml_collections.ConfigDict
  params: Arrays
  class_names: tuple[str, ...]
  statistics: Statistics
  step: int = 0


def abstract(
  config: ml_collections.ConfigDict, num_classes: int
) -> tuple[nnx.GraphDef, nnx.State]:
  """The network of a configuration on one device: its structure, and the
  shapes of its parameters.

  Raises:
    UserError: a field of `config.model` has no such value.
  """

  return nnx.split(nnx.eval_shape(lambda: make(config, num_classes)))


def make(config: ml_collections.ConfigDict, num_classes: int) -> nnx.Module:
  """The network of a configuration, started, on one device."""
  config = config.copy_and_resolve_references()
  with config.unlocked():
    # Wherever it was trained, by whichever version.
    config.mesh = ml_collections.ConfigDict(
      {'parallelism': 'towers', 'exchange_dtype': 'float32'}
    )
    config.model.name = config.model.get('name', 'alexnet')
  return get_model(config, num_classes, rngs=nnx.Rngs(params=config.seed))


def flatten(params: nnx.State) -> Arrays:
  """The parameters of a network by our names."""
  return traverse_util.flatten_dict(nnx.to_pure_dict(params), sep='/')


def state(network: Network) -> nnx.State:
  """The parameters of a network, on the default device."""
  _, template = abstract(network.config, len(network.class_names))
  put = {name: jax.device_put(x) for name, x in network.params.items()}
  return filled(template, put)


def filled(template: nnx.State, arrays: Mapping[str, Any]) -> nnx.State:
  """Parameters with these arrays where there is one of their name."""

  def fill(path: Any, variable: Any) -> Any:
    name = '/'.join(key.key for key in path)
    return variable.replace(arrays[name]) if name in arrays else variable

  return jax.tree_util.tree_map_with_path(
    fill, template, is_leaf=lambda node: isinstance(node, nnx.Variable)
  )


# -- two towers, and one device


def join(params: Arrays) -> Arrays:
  """Tower form to grouped form.

  Returns:
    conv: [k, k, in of one group, out of all]; fc6: [h * w * maps, out], height
    before width before maps; fc7, fc8: [in, out]; biases [out].
  """
  normed = any('/batch_norm/' in name for name in params)
  if normed or 'fc8/bias' not in params:
    raise UserError(
      'only AlexNet without batch_norm has a form for one device: '
      '--format=safetensors holds this network as it is'
    )
  num, maps = params[f'{_last_conv(params)}/bias'].shape
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
      if layer == 'fc6':  # [towers * h * w * maps, out]
        side = _side(x.shape[0], num * maps)
        x = x.reshape(num, side, side, maps, -1).transpose(1, 2, 0, 3, 4)
        x = x.reshape(side * side * num * maps, -1)
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
        x = x.reshape(side, side, towers, channels // towers, -1)
        x = x.transpose(2, 0, 1, 3, 4).reshape(side * side * channels, -1)
      shape = x.shape
      x = x.reshape(*shape[:-1], towers, shape[-1] // towers)
      out[name] = x.transpose(x.ndim - 2, *range(x.ndim - 2), x.ndim - 1)
  return out


def _last_conv(params: Arrays) -> str:
  return max(n.split('/')[0] for n in params if n.startswith('conv'))


def _side(inputs: int, maps: int) -> int:
  side = math.isqrt(inputs // maps)
  if side * side * maps != inputs:
    raise UserError(
      f'fc6 reads {inputs} numbers, which are not the {maps} maps of both '
      'towers: this network has no grouped form'
    )
  return side


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

  def do(self, grouped: Arrays) -> Arrays:
    """Grouped form to this: conv [out, in, k, k], fc [out, in], channels
    before height before width."""
    channels = grouped[f'{_last_conv(grouped)}/bias'].shape[0]
    return {
      self._name(name): self._turn(name, x, channels)
      for name, x in grouped.items()
    }

  def undo(self, arrays: Arrays, names: Mapping[str, Any]) -> Arrays:
    """What `do` was given, of the names in `names`."""
    channels = arrays[self._name(f'{_last_conv(dict(names))}/bias')].shape[0]
    return {
      name: self._turn_back(name, arrays[self._name(name)], channels)
      for name in names
    }

  def _name(self, name: str) -> str:
    layer, part = name.split('/')
    return self.names.get(layer, layer) + self.parts[part]

  def _turn(self, name: str, x: Any, channels: int) -> Any:
    layer, part = name.split('/')
    if part == 'bias':
      return x
    if x.ndim == 4:
      if layer == 'conv1':
        x = self._rgb(x * self._scale())
      return x.transpose(3, 2, 0, 1)
    if layer == 'fc6':
      side = _side(x.shape[0], channels)
      x = x.reshape(side, side, channels, -1).transpose(2, 0, 1, 3)
      x = x.reshape(side * side * channels, -1)
    return x.transpose(1, 0)

  def _turn_back(self, name: str, x: Any, channels: int) -> Any:
    layer, part = name.split('/')
    if part == 'bias':
      return x
    if x.ndim == 4:
      x = x.transpose(2, 3, 1, 0)
      return self._rgb(x) / self._scale() if layer == 'conv1' else x
    x = x.transpose(1, 0)
    if layer == 'fc6':
      side = _side(x.shape[0], channels)
      x = x.reshape(channels, side, side, -1).transpose(1, 2, 0, 3)
      x = x.reshape(side * side * channels, -1)
    return x

  def _rgb(self, x: Any) -> Any:
    return x[:, :, ::-1] if self.bgr else x

  def _scale(self) -> np.ndarray:
    return np.asarray(self.divisors, np.float32)[:, None]  # [in, 1]


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
