"""What an option that there is not may mean."""

import contextlib
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

from absl import flags
from ml_collections import ConfigDict
from ml_collections.config_flags.config_flags import ConfigFileFlagParser


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
    near = _nearest(error.flagname, fields, synonyms)
    if near and 'Did you mean' not in str(error):
      return f'there is no option --{error.flagname}: use --config.{near}'
  return None


def _fields(argv: Sequence[str]) -> Iterable[str]:
  """'model.conv1.features' and all the others of the --config in `argv`."""

  def names(config: ConfigDict, prefix: str) -> Iterable[str]:
    for name, value in config.items():
      yield prefix + name
      if isinstance(value, ConfigDict):
        yield from names(value, f'{prefix}{name}.')

  for word, following in zip(argv, [*argv[1:], ''], strict=True):
    name, equals, path = word.partition('=')
    if name in ('-config', '--config'):
      with contextlib.suppress(Exception):  # its mistakes are told elsewhere
        parser = ConfigFileFlagParser('config')
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
