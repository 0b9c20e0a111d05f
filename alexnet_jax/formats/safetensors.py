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
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from alexnet_jax.data.stats import Statistics, of_mean
from alexnet_jax.formats import names
from alexnet_jax.formats.names import Arrays, Network
from alexnet_jax.runtime import files
from alexnet_jax.runtime.errors import UserError

FORMAT_VERSION = '2'
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
    'format_version': FORMAT_VERSION,
    'form': form,
    'config': json.dumps(network.config),
    'class_names': json.dumps(network.class_names),
    'step': str(network.step),
    **({'average': 'yes'} if network.average else {}),
  }
  write_arrays(path, {**params, **statistics}, header)


def write_arrays(
  path: epath.Path, arrays: Arrays, header: dict[str, str] | None = None
) -> None:
  # The library writes an array's memory as it lies, whatever its strides.
  whole = {name: np.asarray(x, order='C') for name, x in arrays.items()}
  with files.explained(path):
    files.write_atomically(path, safetensors.numpy.save(whole, header))


def read(path: epath.Path) -> Network:
  """A network that `write` wrote, in either form.

  Raises:
    UserError: the file is damaged, or not of this program.
  """
  with _open(path) as file:
    header = file.metadata() or {}
    if header.get('format') != 'alexnet_jax':
      raise UserError(
        f'{path} has no configuration of ours in its header: is it of another '
        '--format?'
      )
    version = header.get('format_version', '1')
    if version != FORMAT_VERSION:
      raise UserError(
        f'{path} is of format {version}, and this program reads format '
        f'{FORMAT_VERSION}: export it anew'
      )
    try:
      class_names = tuple(json.loads(header['class_names']))
      form = header['form']
      if form not in _FORMS or not all(isinstance(n, str) for n in class_names):
        raise ValueError(f'a form {form!r}, classes {class_names[:3]!r}')
      # Numbers follow once their shapes are known to be right.
      network = Network(
        *(json.loads(header['config']), {}, class_names),
        of_mean(np.zeros((1, 1, 3))),
        int(header['step']),
        'average' in header,
      )
      wanted = network.shapes()
    except Exception as error:  # whatever the JSON holds
      raise UserError(
        f'the header of {path} makes no sense: {error}'
      ) from error
    if form == 'grouped':
      wanted = jax.eval_shape(names.join, wanted)
    keys = {k: k for k in list(file.keys()) if not k.startswith(_STATISTICS)}
    params = _take(path, file, keys, wanted)
    if form == 'grouped':
      params = names.split(params, network.table.towers)
    statistics = _read_statistics(path, file)
  return dataclasses.replace(network, params=params, statistics=statistics)


def read_config(path: epath.Path) -> dict[str, Any]:
  """The configuration in the header of a file that `write` wrote.

  Raises:
    UserError: as `read`.
  """
  with _open(path) as file:
    try:
      return json.loads((file.metadata() or {})['config'])
    except (KeyError, ValueError) as error:
      raise UserError(f'{path} has no configuration of ours') from error


def read_arrays(path: epath.Path, wanted: Mapping[str, Any]) -> Arrays:
  """The arrays of another program's file, which has no others.

  Args:
    path: of the file.
    wanted: anything with shapes by name.
  """
  with _open(path) as file:
    return _take(path, file, names.unwrapped(file.keys()), dict(wanted))


def _take(
  path: epath.Path, file: Any, keys: Mapping[str, str], wanted: Arrays
) -> Arrays:
  """float32 arrays, read once their shapes are known to be right.

  Args:
    path: for messages.
    file: open.
    keys: of the file, by the names of `wanted`.
    wanted: anything with shapes by name.
  """
  slices = {name: file.get_slice(key) for name, key in keys.items()}
  shapes = {name: tuple(s.get_shape()) for name, s in slices.items()}
  names.check(path, shapes, wanted)
  for name, part in slices.items():
    if part.get_dtype() not in ('F32', 'F16'):
      raise UserError(
        f'{path}: {name} is {part.get_dtype()}: convert the file to float32'
      )
  return {
    name: file.get_tensor(key).astype(np.float32) for name, key in keys.items()
  }


def _read_statistics(path: epath.Path, file: Any) -> Statistics:
  try:
    fields = {
      field.name: file.get_tensor(_STATISTICS + field.name)
      for field in dataclasses.fields(Statistics)
    }
    mean = fields['mean_image']
    wanted = vars(of_mean(mean.reshape(len(mean), len(mean), 3)))
    if any(x.shape != np.shape(wanted[name]) for name, x in fields.items()):
      raise ValueError('their shapes are wrong')
    return Statistics(**{**fields, 'count': int(fields['count'])})
  except Exception as error:  # the library's, NumPy's
    raise UserError(f'the statistics of {path} cannot be read: {error}') from (
      error
    )


@contextmanager
def _open(path: epath.Path) -> Iterator[Any]:
  try:
    with safetensors.safe_open(str(path), 'np') as file:
      yield file
  except (safetensors.SafetensorError, OSError) as error:
    raise UserError(
      f'{path} is not a whole safetensors file: {error}. Fetch or export it '
      'again'
    ) from error
