"""Where images come from: a folder tree or drawings (and `imagenet`,
`tfds_sets`)."""

import dataclasses
import glob
import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from alexnet_jax.data import shapes
from alexnet_jax.data.photographs import SIZE, Photograph, Pixels
from alexnet_jax.runtime.errors import UserError

SPLITS = ('train', 'validation', 'test')


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
    assert side == SIZE, 'the shapes are drawn at one size'
    return shapes.draw(shapes.SEED, self.split, self.index)


def named(words: Sequence[str]) -> list[str]:
  """Files that a person names: files, folders of them, or globs.

  Args:
    words: a folder stands for all files below it but hidden ones, sorted; a
      glob (which the shell did not expand) for what it matches.

  Raises:
    UserError: there is nothing of such a name.
  """
  files: list[str] = []
  for word in words:
    path = Path(word)
    if path.is_dir():
      below = [p for p in path.rglob('*') if p.is_file()]
      found = [
        str(p)
        for p in sorted(below)
        if not any(part[0] == '.' for part in p.relative_to(path).parts)
      ]
    elif path.exists():
      found = [word]
    else:
      found = sorted(filter(os.path.isfile, glob.glob(word, recursive=True)))
    if not found:
      raise UserError(f'{word}: there is no such file, folder or glob')
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
  """One's own pictures: `train/ validation/ test/<class>/*`, or `<class>/*`.

  Args:
    root: the tree. `val/` may stand for `validation/`; without `train/` the
      whole tree is training. Names that start with a dot are left out, every
      other file below a class is taken for a photograph.
    shares: of 'validation' and 'test': where the tree has no such folder, that
      share of each class of the training photographs. Chosen by a hash of the
      path below `root`: the same on every machine, and nearly the same after
      photographs were added.

  Raises:
    UserError: no classes, an empty class, a class that `train` lacks.
  """
  if not root.is_dir():
    raise UserError(f'--input={root}: no such folder')
  validation = 'validation' if (root / 'validation').is_dir() else 'val'
  folders = {
    split: root / name
    for split, name in zip(SPLITS, ('train', validation, 'test'), strict=True)
    if (root / name).is_dir()
  }
  if folders and 'train' not in folders:
    there = ', '.join(sorted(path.name + '/' for path in folders.values()))
    raise UserError(f'{root} has {there} but no train/')
  folders = folders or {'train': root}

  names = tuple(path.name for path in _class_folders(folders['train']))
  if not names:
    raise UserError(
      f'{folders["train"]} has no class folders: put the pictures of each '
      'class into a folder named after it'
    )
  examples = {
    split: _photographs(root, path, names) for split, path in folders.items()
  }
  return completed(root, names, examples, shares)


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
  shares = {s: share for s, share in shares.items() if s not in examples}
  whole = {**examples, **_hold_out(examples['train'], shares)}
  for split, some in whole.items():
    _report_empty(root, split, names, some)
  return Source(names, {s: whole[s] for s in SPLITS if s in whole})


def warn(message: str) -> None:
  print(f'warning: {message}', file=sys.stderr, flush=True)


def _class_folders(folder: Path) -> list[Path]:
  return sorted(
    path
    for path in folder.iterdir()
    if path.is_dir() and not path.name.startswith('.')
  )


def _files(folder: Path) -> list[Path]:
  """All below `folder`; a broken link too, so that reading it complains."""
  return sorted(
    path
    for path in folder.rglob('*')
    if not path.is_dir()
    and not any(p.startswith('.') for p in path.relative_to(folder).parts)
  )


def _photographs(
  root: Path, folder: Path, names: Sequence[str]
) -> list[Photograph]:
  strangers = {path.name for path in _class_folders(folder)} - set(names)
  if strangers:
    raise UserError(
      f'{folder} has classes that train/ lacks: {", ".join(sorted(strangers))}'
    )
  return [
    Photograph(path.relative_to(root).as_posix(), label, str(path))
    for label, name in enumerate(names)
    if (folder / name).is_dir()
    for path in _files(folder / name)
  ]


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
      members, key=lambda p: hashlib.sha256(p.name.encode()).digest()
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
  message = f'{root}: no {split} photographs of {", ".join(empty)}'
  if split == 'train' or not photographs:
    raise UserError(
      f'{message}: add some, remove the empty folder, or hold out another share'
    )
  warn(message)
