"""Safetensors files: numbers only, nothing in them can be executed.

Ours hold the whole network: parameters (tower or grouped form), statistics,
and, as JSON in the header, configuration and class names. Those of other
programs hold arrays.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import ml_collections
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from alexnet_jax.data.stats import Statistics
from alexnet_jax.formats import names
from alexnet_jax.formats.names import Arrays, Network
from alexnet_jax.runtime import files
from alexnet_jax.runtime.errors import UserError

_STATISTICS = 'statistics/'
_FORMS = ('towers', 'grouped')


def write(path: epath.Path, network: Network, form: str = 'towers') -> None:
  """Writes a whole network; `form` is 'towers' or 'grouped'."""
  params = network.params
  if form == 'grouped':
    params = names.join(params)
  statistics = {
    _STATISTICS + name: np.asarray(value)
    for name, value in dataclasses.asdict(network.statistics).items()
  }
  header = {
    'format': 'alexnet_jax',
    'form': form,
    'config': network.config.to_json(),
    'class_names': json.dumps(network.class_names),
    'step': str(network.step),
  }
  write_arrays(path, {**params, **statistics}, header)


def write_arrays(
  path: epath.Path, arrays: Arrays, header: dict[str, str] | None = None
) -> None:
  # The library writes an array's memory as it lies, whatever its strides.
  flat = {name: np.ascontiguousarray(x) for name, x in arrays.items()}
  flat = {name: x.reshape(arrays[name].shape) for name, x in flat.items()}
  with files.explained(path):
    files.write_atomically(path, safetensors.numpy.save(flat, header))


def read(path: epath.Path) -> Network:
  """A network that `write` wrote, in either form.

  Raises:
    UserError: the file is damaged, or not of this program.
  """
  with _opened(path) as file:
    header = file.metadata() or {}
    if header.get('format') != 'alexnet_jax':
      raise UserError(
        f'{path} has no configuration of ours in its header: is it of another '
        '--format?'
      )
    try:
      config = ml_collections.ConfigDict(json.loads(header['config']))
      class_names = tuple(json.loads(header['class_names']))
      step, form = int(header['step']), header['form']
      if form not in _FORMS or not all(isinstance(n, str) for n in class_names):
        raise ValueError(f'a form {form!r}, classes {class_names[:3]!r}')
      template = names.flatten(names.abstract(config, len(class_names))[1])
    except Exception as error:  # whatever the JSON holds
      raise UserError(
        f'the header of {path} makes no sense: {error}'
      ) from error
    wanted: Arrays = template
    if form == 'grouped':
      wanted = jax.eval_shape(names.join, template)
    keys = [key for key in _keys(file) if not key.startswith(_STATISTICS)]
    params = _take(path, file, keys, wanted)
    if form == 'grouped':
      params = names.split(params, config.model.towers)
    statistics = _statistics(path, file)
  return Network(config, params, class_names, statistics, step)


def read_arrays(path: epath.Path, wanted: Mapping[str, Any]) -> Arrays:
  """The arrays of another program's file, which has no others.

  Args:
    path: of the file.
    wanted: anything with shapes by name.
  """
  with _opened(path) as file:
    return _take(path, file, _keys(file), dict(wanted))


def _keys(file: Any) -> list[str]:
  return list(file.keys())


def _take(path: epath.Path, file: Any, keys: list[str], wanted: Arrays):
  """float32 arrays, read once their shapes are known to be right."""
  slices = {key: file.get_slice(key) for key in keys}
  shapes = {key: tuple(s.get_shape()) for key, s in slices.items()}
  names.check(path, shapes, wanted)
  for key, part in slices.items():
    if part.get_dtype() != 'F32':
      raise UserError(
        f'{path}: {key} is {part.get_dtype()}: convert the file to float32'
      )
  return {key: file.get_tensor(key) for key in keys}


def _statistics(path: epath.Path, file: Any) -> Statistics:
  try:
    fields = {
      field.name: file.get_tensor(_STATISTICS + field.name)
      for field in dataclasses.fields(Statistics)
    }
    size = fields['mean_image'].shape[0]
    shapes = {
      'count': (),
      'mean_image': (size, size, 3),
      'rgb_mean': (3,),
      'rgb_covariance': (3, 3),
      'eigenvalues': (3,),
      'eigenvectors': (3, 3),
    }
    if any(fields[name].shape != shape for name, shape in shapes.items()):
      raise ValueError('their shapes are wrong')
    return Statistics(**{**fields, 'count': int(fields['count'])})
  except Exception as error:  # the library's, NumPy's
    raise UserError(f'the statistics of {path} cannot be read: {error}') from (
      error
    )


@contextmanager
def _opened(path: epath.Path) -> Iterator[Any]:
  try:
    with safetensors.safe_open(str(path), 'np') as file:
      yield file
  except (safetensors.SafetensorError, OSError) as error:
    raise UserError(
      f'{path} is not a whole safetensors file: {error}. Fetch or export it '
      'again'
    ) from error
