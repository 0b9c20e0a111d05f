"""Where images come from: a folder tree or drawings (and `imagenet`,
`tfds_sets`)."""

import contextlib
import dataclasses
import glob
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from alexnet_jax.data import shapes
from alexnet_jax.data.listing import Unused, Walk, warn, warn_unused
from alexnet_jax.data.photographs import Photograph, Pixels
from alexnet_jax.runtime.errors import UserError, printable

SPLITS = ('train', 'validation', 'test')
# What the folder of a split may be called, in upper or lower case.
FOLDERS = {
  'train': ('train', 'training'),
  'validation': ('validation', 'valid', 'val'),
  'test': ('test', 'testing'),
}
_ASTRAY = 'in no folder of a class'


class Example(Protocol):
  """An image to come, cheap to send to a worker process."""

  @property
  def name(self) -> str: ...
  @property
  def label(self) -> int: ...
  def read(self, side: int) -> Pixels: ...


@dataclasses.dataclass(frozen=True)
class Source:
  """All images of a data set, in the order in which they will be stored."""

  class_names: tuple[str, ...]
  examples: Mapping[str, Sequence[Example]]  # by split
  unused: Sequence[Unused] = ()  # what is there besides
  listing: Mapping[str, Any] | None = None  # of its files, see `listed`


@dataclasses.dataclass(frozen=True, slots=True)
class Drawing:
  split: str
  index: int

  @property
  def name(self) -> str:
    return f'{self.split}/{self.index}'

  @property
  def label(self) -> int:
    return shapes.label(self.split, self.index)

  def read(self, side: int) -> Pixels:
    return shapes.draw(shapes.SEED, self.split, self.index, side)


def named(words: Sequence[str]) -> list[str]:
  """Files that a person names: files, folders of them, or globs.

  Args:
    words: a folder stands for all files below it, sorted, as `Walk` finds them,
      with a warning of what is left out; a glob (which the shell did not
      expand) for what it matches.

  Raises:
    UserError: there is nothing of such a name.
  """
  files: list[str] = []
  for word in words:
    path = Path(word)
    if path.is_dir():
      walk = Walk(path)
      found = list(map(str, walk.files(path)))
      warn_unused(path, walk.unused)
    elif path.exists():
      found = [word]
    else:
      found = sorted(glob.glob(word, recursive=True))
      if '**' in word:  # the files in a folder that it matches, it matches, too
        found = [path for path in found if not os.path.isdir(path)]
      elif any(map(os.path.isdir, found)):  # as if the shell had expanded it
        found = named(found)
    if not found:
      raise UserError(
        f'{printable(word)}: there is no such file, folder or glob'
      )
    files += found
  return files


def drawn_shapes() -> Source:
  """The embedded synthetic data set."""
  return Source(
    shapes.CLASS_NAMES,
    {
      split: [Drawing(split, index) for index in range(count)]
      for split, count in shapes.NUM_EXAMPLES.items()
    },
  )


def folder(root: Path, shares: Mapping[str, float]) -> Source:
  """One's own pictures, as `read_tree` finds them; warns of what is not used.

  Args:
    root: the tree.
    shares: of 'validation' and 'test': where the tree has no such folder, that
      share of each class of the training photographs. Chosen by a hash of the
      path below `root`: the same on every machine, and nearly the same after
      photographs were added.

  Raises:
    UserError: see `read_tree`; or a class is empty.
  """
  tree = read_tree(root)
  warn_unused(root, tree.unused)
  source = completed(root, tree.class_names, tree.examples, shares)
  return dataclasses.replace(source, unused=tree.unused, listing=tree.listing)


def read_tree(root: Path) -> Source:
  """Finds `train/ validation/ test/<class>/*`, or `<class>/*`.

  The folder of a split has one of the names of `FOLDERS`. Without any, the
  whole tree is training. Every file below a class is taken for a photograph.

  Returns:
    The pictures by split, none held out, and their `listing`.

  Raises:
    UserError: there are no classes, a split has two folders, a class has a
      name that cannot be kept, or `train` lacks a class.
  """
  if not root.is_dir():
    raise UserError(f'--input={printable(root)}: no such folder')
  walk = Walk(root)
  folders, files = _look_into(walk, root)
  splits = _split_folders(root, folders)
  found: dict[str, dict[str, Path]] = {}
  if splits:
    for path in folders:
      if path not in splits.values():
        walk.leave_out(path, f'beside {splits["train"].name}/, of no split')
  for split, path in (splits or {'train': root}).items():
    if splits:
      folders, inside = _look_into(walk, path)
      files += inside
    found[split] = {_class_name(path): path for path in folders}
  for path in files:
    walk.leave_out(path, _ASTRAY)
  where, names = splits.get('train', root), tuple(found['train'])
  if not names:
    raise UserError(
      f'{printable(where)} has no class folders: put the pictures of each '
      'class into a folder named after it'
    )
  for split, classes in found.items():
    if strangers := [name for name in classes if name not in names]:
      raise UserError(
        f'{printable(splits[split])} has classes that {where.name}/ lacks: '
        + ', '.join(strangers)
      )
  examples = {
    split: [
      Photograph(path.relative_to(root).as_posix(), label, str(path))
      for label, name in enumerate(names)
      if name in classes
      for path in walk.files(classes[name])
    ]
    for split, classes in found.items()
  }
  paths = [Path(one.path) for some in examples.values() for one in some]
  return Source(names, examples, walk.unused, listed(root, paths))


def listed(root: Path, paths: Iterable[Path]) -> dict[str, Any]:
  """How many files, with a digest of their names below `root` and sizes."""
  digest, count = hashlib.sha256(), 0
  for path in paths:
    size = 0  # of what cannot be read
    with contextlib.suppress(OSError):
      size = path.stat().st_size
    name = path.relative_to(root).as_posix()
    digest.update(b'%d %s\0' % (size, os.fsencode(name)))
    count += 1
  return {'files': count, 'sha256': digest.hexdigest()}


def completed(
  root: Path,
  names: tuple[str, ...],
  examples: Mapping[str, Sequence[Example]],
  shares: Mapping[str, float],
) -> Source:
  """The source of examples by split, with what `shares` holds out of them.

  Raises:
    UserError: a class, or a split, is empty.
  """
  share = shares.get('test', 0)  # that of validation has a default
  if 'test' in examples and share:
    warn(
      f'--test_share={share:g} is not used: {printable(root)} has a test split'
    )
  shares = {s: share for s, share in shares.items() if s not in examples}
  whole = {**examples, **_hold_out(examples['train'], shares)}
  for split, some in whole.items():
    _report_empty(root, split, names, some)
  if len(names) == 1:
    warn(
      f'{printable(root)}: {names[0]} is the only class: its photographs '
      'can teach nothing'
    )
  return Source(names, {s: whole[s] for s in SPLITS if s in whole})


def _look_into(walk: Walk, folder: Path) -> tuple[list[Path], list[Path]]:
  try:
    return walk.look_into(folder)
  except OSError as error:
    reason = error.strerror
    raise UserError(f'{printable(folder)} cannot be read: {reason}') from error


def _split_folders(root: Path, folders: Sequence[Path]) -> dict[str, Path]:
  """The folder of each split, in the order of `SPLITS`; {}: there are none."""
  splits = {}
  for split in SPLITS:
    known = [path for path in folders if path.name.lower() in FOLDERS[split]]
    if known[1:]:
      several = ' and '.join(f'{path.name}/' for path in known)
      raise UserError(
        f'{printable(root)} has {several}, each of which may be the split '
        f'{split}: join them, or rename one'
      )
    if known:
      splits[split] = known[0]
  if splits and 'train' not in splits:
    there = ', '.join(sorted(path.name + '/' for path in splits.values()))
    raise UserError(f'{printable(root)} has {there} but no train/')
  return splits


def _class_name(folder: Path) -> str:
  """The name of a class: text that every file and page can hold on one line.

  Raises:
    UserError: it is not UTF-8, or has a line break or a control character.
  """
  name = os.fsencode(folder.name).decode(errors='surrogateescape')
  if name != printable(name):
    raise UserError(
      f'{printable(folder)} cannot be the name of a class: rename the folder, '
      'to UTF-8 without line breaks and control characters'
    )
  return name


def _hold_out(
  photographs: Sequence[Example], shares: Mapping[str, float]
) -> dict[str, list[Example]]:
  """Deals each class out to the splits of `shares` and, the rest, 'train'."""
  classes: dict[int, list[Example]] = {}
  for photograph in photographs:
    classes.setdefault(photograph.label, []).append(photograph)
  split_of = {}
  for members in classes.values():
    members = sorted(
      members, key=lambda p: hashlib.sha256(os.fsencode(p.name)).digest()
    )
    start = 0
    for split, share in shares.items():
      end = start + round(share * len(members))
      split_of.update(dict.fromkeys(members[start:end], split))
      start = end
  dealt: dict[str, list[Example]] = {
    split: [] for split in ('train', *shares) if shares.get(split, 1)
  }
  for photograph in photographs:
    dealt[split_of.get(photograph, 'train')].append(photograph)
  return dealt


def _report_empty(
  root: Path,
  split: str,
  names: Sequence[str],
  photographs: Sequence[Example],
) -> None:
  present = {photograph.label for photograph in photographs}
  empty = [name for label, name in enumerate(names) if label not in present]
  if not empty:
    return
  message = f'{printable(root)}: no {split} photographs of {", ".join(empty)}'
  if split == 'train' or not photographs:
    raise UserError(
      f'{message}: add some, take the class out of the set (its folder, or its '
      'name), or hold out another share'
    )
  warn(message)
