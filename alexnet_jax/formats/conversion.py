"""From a file of any format to a network, and back."""

import dataclasses
from typing import Any

import jax
import numpy as np
from etils import epath

from alexnet_jax.data import photographs, stats
from alexnet_jax.formats import (
  caffe,
  hub,
  names,
  programs,
  safetensors,
  torchvision,
)
from alexnet_jax.formats.names import Arrays, Layout, Network
from alexnet_jax.runtime.errors import UserError

LAYOUTS = {'caffe': caffe.LAYOUT, 'torchvision': torchvision.LAYOUT}
# ilsvrc_2012_mean.npy's mean colour, RGB.
_CAFFE_MEAN = '122.67891434,116.66876762,104.00698793'


def read(
  file: epath.PathLike,
  form: str,
  *,
  config: dict[str, Any] | None = None,
  classes: str = '1000',
  mean: str | None = None,
) -> Network:
  """Reads a network, checked name by name and shape by shape.

  Args:
    file: to read.
    form: 'safetensors', 'grouped', 'hub', 'caffe' or 'torchvision'.
    config: of the network, as JSON has it; the first three formats hold it.
    classes: how many, or a file with a name on each line.
    mean: Caffe's, a `.binaryproto` or 'R,G,B'.

  Raises:
    UserError: a file is missing, damaged or of another network.
  """
  path = hub.resolve(file)
  if not path.is_file():
    raise UserError(f'there is no file {path}')
  if form not in LAYOUTS:
    network = safetensors.read(path)
  else:
    network = _read_foreign(path, form, config, classes, mean)
  for name, x in network.params.items():
    if not np.isfinite(x).all():
      raise UserError(f'{path}: {name} has numbers that are not finite')
  return network


def _read_foreign(
  path: epath.Path,
  form: str,
  config: dict[str, Any] | None,
  classes: str,
  mean: str | None,
) -> Network:
  """Of a program that knows neither our names nor our configuration."""
  if config is None:
    raise UserError(
      f'a file of {form} does not say which network it is of: give --config, '
      'such as configs/caffe_alexnet.py'
    )
  if form == 'torchvision':
    mean = ','.join(map(str, torchvision.MEAN))
  elif mean and config['augment']['mean'] == 'none':
    raise UserError(
      f"--mean={mean}, but config.augment.mean='none' would forget it: give "
      "--config.augment.mean=image, or 'rgb'"
    )
  statistics = stats.of_mean(_read_mean(mean or _CAFFE_MEAN))
  network = Network(config, {}, _read_class_names(classes), statistics)
  if form == 'torchvision':
    programs.check_torchvision(network, whole=False)
  names.check_order(network.table)
  layout = _layout(form, network)
  grouped = jax.eval_shape(names.join, network.shapes())
  wanted = jax.eval_shape(layout.convert, grouped)
  if form == 'caffe':
    arrays: Arrays = caffe.read_weights(path)
    names.check(path, {name: x.shape for name, x in arrays.items()}, wanted)
  else:
    arrays = torchvision.read_weights(path, wanted)
  grouped = layout.convert_back(arrays, grouped)
  params = names.split(grouped, network.table.towers)
  params = programs.fold_dropout(params, network.table, back=True)
  return dataclasses.replace(network, params=_make_contiguous(params))


def write(file: epath.PathLike, form: str, network: Network) -> list[str]:
  """Writes a network in a format of `read`; for Caffe its mean, too.

  Returns:
    What the program that reads the file must be told beside it.

  Raises:
    UserError: it cannot be written, or not in this format.
  """
  path = epath.Path(file)
  if form != 'safetensors':
    names.check_order(network.table)
  if form not in LAYOUTS:
    kind = 'grouped' if form == 'grouped' else 'towers'
    safetensors.write(path, network, kind)
    return []
  if form == 'torchvision':
    programs.check_torchvision(network, whole=True)
  grouped = names.join(network.params)
  grouped = programs.fold_dropout(grouped, network.table)
  arrays = _make_contiguous(_layout(form, network).convert(grouped))
  if form == 'torchvision':
    torchvision.write_weights(path, arrays)
    return programs.describe_torchvision(network)
  mean = _caffe_mean(network)
  beside = path.with_suffix('.binaryproto')
  if mean is not None:
    caffe.write_mean(beside, mean)
  caffe.write_weights(path, arrays, 'AlexNet')
  name = None if mean is None else beside.name
  return programs.describe_caffe(network, name)


def _layout(form: str, network: Network) -> Layout:
  """Of a format, for a network whose views may be scaled.

  torchvision's program has no place for `config.augment.scale`: conv1's kernels
  have it. Caffe's has.
  """
  layout = LAYOUTS[form]
  if form != 'torchvision':
    return layout
  scale = network.config['augment']['scale']
  r, g, b = (x * scale for x in layout.divisors)
  return dataclasses.replace(layout, divisors=(r, g, b))


def _caffe_mean(network: Network) -> np.ndarray | None:
  """The mean image that is subtracted; None: nothing is."""
  kind, image = network.config['augment']['mean'], network.statistics.mean_image
  if kind == 'none':
    return None
  if kind == 'image':
    return image
  return np.broadcast_to(network.statistics.rgb_mean, image.shape)


def _make_contiguous(arrays: Arrays) -> Arrays:
  return {name: np.ascontiguousarray(x) for name, x in arrays.items()}


def _read_class_names(text: str) -> tuple[str, ...]:
  if text.isdecimal() and 0 < int(text) <= 1_000_000:
    return tuple(map(str, range(int(text))))
  try:
    lines = epath.Path(text).read_bytes().decode('utf-8-sig').split('\n')
  except (OSError, ValueError) as error:
    raise UserError(
      f'--classes={text}: neither a number nor a file that can be read: {error}'
    ) from error
  found = tuple(line.removesuffix('\r') for line in lines if line.strip())
  if not found:
    raise UserError(f'--classes={text}: the file is empty')
  return found


def _read_mean(text: str) -> np.ndarray:
  """The mean image, float64 [256, 256, 3]."""
  size = photographs.SIZE
  if text.endswith('.binaryproto'):
    image = caffe.read_mean(epath.Path(text))
    if image.shape[0] != size:
      raise UserError(
        f'{text} is a mean of {image.shape[0]} pixels, not {size}'
      )
    return image
  try:
    rgb = [float(part) for part in text.split(',')]
    return np.broadcast_to(rgb, (size, size, 3)).astype(np.float64)
  except ValueError:
    raise UserError(f'--mean={text}: a .binaryproto, or R,G,B') from None
