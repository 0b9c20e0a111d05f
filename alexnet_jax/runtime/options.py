"""Flags that several verbs have, and what one that there is not may mean."""

import contextlib
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from absl import flags

# A flag that is made here is the calling verb's: its --help has it.
flags.disclaim_key_flags()


def workdir() -> flags.FlagHolder[str]:
  return flags.DEFINE_string(
    'workdir', 'runs/default', 'Folder of the run whose network is used.'
  )


def checkpoint(which: str = '') -> flags.FlagHolder[str]:
  return flags.DEFINE_string(
    'checkpoint',
    'best',
    f'{which}best, last or the number of a step; with -ema behind it the '
    'average of its parameters (config.optimizer.ema).',
  )


def data_dir() -> flags.FlagHolder[str | None]:
  return flags.DEFINE_string(
    'data_dir', None, 'Folder of data sets. Default: as the run had it.'
  )


def split(default: str, what: str) -> flags.FlagHolder[str]:
  return flags.DEFINE_enum(
    'split', default, ['train', 'validation', 'test'], what
  )


def views(what: str = 'Views of an image to average.') -> flags.FlagHolder[str]:
  return flags.DEFINE_enum(
    'views',
    '1',
    ['1', '2', '9', '10'],
    f'{what} 1: its centre. 2: the mirror image, too. 9: a grid of three by '
    'three. 10: four corners and the centre, and their mirror images (§4.1).',
  )


def layer(what: str) -> flags.FlagHolder[str]:
  return flags.DEFINE_string('layer', 'fc7', what)


def classes(what: str = 'Outputs of fc8.') -> flags.FlagHolder[int]:
  return flags.DEFINE_integer('classes', 1000, what, lower_bound=1)


def explain(
  argv: Sequence[str], error: Exception, synonyms: Mapping[str, str]
) -> str | None:
  """One line on an unknown flag or field of the configuration, with the field
  that is nearest; None: nothing is unknown, or nothing is near.

  Args:
    argv: of the program.
    error: that parsing it has raised.
    synonyms: what other programs call a field, and the field.
  """
  fields = list(_fields(argv))
  for word in argv[1:]:
    match = re.fullmatch(r'--?(?:no)?config\.([^=]+)(?:=.*)?', word, re.DOTALL)
    if match and fields and match[1] not in fields:
      text = f'the configuration has no field {match[1]}'
      near = _nearest(match[1], fields, synonyms)
      return f'{text}: the nearest is {near}' if near else text
  if isinstance(error, flags.UnrecognizedFlagError):
    if not fields and error.flagname.startswith('config.'):
      return (
        f'--{error.flagname} sets a field of a configuration: say of which, '
        'such as --config=configs/default.py'
      )
    near = _nearest(error.flagname, fields, synonyms)
    if near and 'Did you mean' not in str(error):
      return f'there is no option --{error.flagname}: use --config.{near}'
  return None


def _fields(argv: Sequence[str]) -> Iterable[str]:
  """'model.conv1.features' and all the others of the --config in `argv`."""

  def names(part: Any, prefix: str) -> Iterable[str]:
    for name, value in part.items():
      yield prefix + name
      if hasattr(value, 'items'):
        yield from names(value, f'{prefix}{name}.')

  for word, following in zip(argv, [*argv[1:], ''], strict=True):
    name, equals, path = word.partition('=')
    if name in ('-config', '--config'):
      with contextlib.suppress(Exception):  # its mistakes are told elsewhere
        parser = flags.FLAGS['config'].parser
        yield from names(parser.parse(path if equals else following), '')


def _nearest(
  name: str, fields: Sequence[str], synonyms: Mapping[str, str]
) -> str | None:
  name = name.replace('-', '_').lower()
  near = difflib.get_close_matches(name, fields, n=1, cutoff=0.8)
  if near:
    return near[0]
  last = name.rpartition('.')[2]
  if last in synonyms:
    return synonyms[last]
  lasts = {field.rpartition('.')[2]: field for field in reversed(fields)}
  near = [full for short, full in lasts.items() if short.startswith(last)]
  if near and len(last) > 2:
    return near[-1]  # the first of the configuration
  near = difflib.get_close_matches(last, lasts, n=1)
  return lasts[near[0]] if near else None
