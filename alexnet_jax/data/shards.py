"""What sets in shards of other programs have in common."""

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

from alexnet_jax.data.listing import Unused
from alexnet_jax.data.sources import FOLDERS, SPLITS
from alexnet_jax.runtime.errors import UserError, printable


def require(library: str, source: str, extra: str) -> None:
  """Refuses a source whose library is not installed.

  Raises:
    UserError: with the extra that has it.
  """
  if importlib.util.find_spec(library) is None:
    raise UserError(f"{source} needs {library}: pip install -e '.[{extra}]'")


def by_split(
  root: Path, files: Sequence[Path], unused: list[Unused]
) -> dict[str, list[Path]]:
  """Shards by the split that a word of their path below `root` names.

  'imagenet-train-00.tar' is training, and the last such word counts. Where no
  path has one, all are training; else those without are added to `unused`.

  Raises:
    UserError: there is none of the training split.
  """
  splits: dict[str, list[Path]] = {}
  others: list[Path] = []
  for path in files:
    text = path.relative_to(root).as_posix().lower()
    words = reversed(re.split('[^a-z]+', text))
    found = (split for w in words for split in SPLITS if w in FOLDERS[split])
    split = next(found, None)
    (splits.setdefault(split, []) if split else others).append(path)
  if not splits:
    return {'train': others}
  for path in others:
    name = path.relative_to(root).as_posix()
    unused.append(Unused(name, 'its path names no split'))
  if 'train' not in splits:
    raise UserError(
      f'{printable(root)} has shards of {" and ".join(splits)}, but none whose '
      'path has the word train'
    )
  return splits


def refuse_missing(root: Path, files: Sequence[Path]) -> None:
  """Refuses files of which some, by the names of the others, are not there.

  Raises:
    UserError: of 'train-00000-of-00003.parquet' and its like one is missing.
  """
  there: dict[tuple[Path, str, str, str], set[int]] = {}
  for path in files:
    if match := re.fullmatch(r'(.*-)(\d+)-of-(\d+)(\D.*)?', path.name):
      first, number, of, last = match.groups('')
      there.setdefault((path.parent, first, of, last), set()).add(int(number))
  for (parent, first, of, last), numbers in there.items():
    if missing := sorted(set(range(int(of))) - numbers):
      name = parent / f'{first}{missing[0]:0{len(of)}d}-of-{of}{last}'
      raise UserError(
        f'{printable(root)}: {len(missing)} of {int(of)} files are missing, '
        f'the first is {printable(name.as_posix())}: fetch them'
      )


def class_names(where: Path, names: Sequence[str]) -> tuple[str, ...]:
  """The names, if files and pages can hold each of them on one line.

  Raises:
    UserError: one is no such text, or two are the same.
  """
  for name in names:
    if not isinstance(name, str) or name != printable(name):
      raise UserError(
        f'{printable(where)}: {name!r} cannot be the name of a class: take '
        'text without line breaks and control characters'
      )
  if len(set(names)) < len(names):
    raise UserError(f'{printable(where)}: two classes have the same name')
  return tuple(names)
