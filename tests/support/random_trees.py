"""Random folder trees, and what must be said of each."""

import dataclasses
import os
import random
import re
from pathlib import Path

from alexnet_jax.data import sources
from alexnet_jax.runtime.errors import UserError


@dataclasses.dataclass
class Drawn:
  """A random tree, and every picture in it by its own place."""

  root: Path
  pictures: set[Path]
  pipes: set[Path]
  links: set[Path]


def draw_tree(rng: random.Random, home: Path, write) -> Drawn:
  """Draws names, splits, links, modes and special files.

  Args:
    rng: to draw by.
    home: an empty folder.
    write: writes a picture, given its path.
  """
  root, outside = home / 'tree', home / 'outside'
  letters = 'abc $[]{}*?\\"\'é日\ufeff\u2028\n\t#%~&;,'

  def name() -> str:
    if rng.random() < 0.7:
      return f'n{rng.randrange(1000)}'
    drawn = ''.join(rng.choices(letters, k=rng.randint(1, 6)))
    if rng.random() < 0.1:
      return os.fsdecode(os.fsencode(drawn) + b'\xff')
    return f'.{drawn}' if rng.random() < 0.2 else drawn

  def clean() -> str:  # of classes: mostly what may be one
    drawn = name()
    return drawn if rng.random() < 0.02 else drawn.translate(_CLEAN).lstrip('.')

  pictures: set[Path] = set()

  def picture(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name()
    if not path.exists() and not path.is_symlink():
      write(path)
      pictures.add(path.resolve())

  classes = {f'{clean()}{i}' for i in range(rng.randint(1, 4))}
  splits = rng.choice(
    [[''], ['train'], ['Train', 'Valid'], ['training', 'val', 'TEST']]
  )
  if rng.random() < 0.03:
    splits = [*splits, 'validation', 'val']
  for split in splits:
    for one in sorted(classes):
      for _ in range(rng.randint(1, 3)):
        picture(root / split / one)
      while rng.random() < 0.3:
        picture(root / split / one / name() / name())
  for _ in range(rng.randint(0, 3)):  # astray
    picture(
      root / rng.choice([*splits, *splits, 'extra', 'extra/deep', '.git'])
    )
  folders = sorted(p for p in root.rglob('*') if p.is_dir())
  inner = [p for p in folders if len(p.relative_to(root).parts) > 1]
  links: set[Path] = set()
  if rng.random() < 0.5:
    picture(outside / 'more')
    for _ in range(rng.randint(1, 4)):
      link = rng.choice(inner or folders) / f'link{rng.randrange(100)}'
      target = rng.choice([*folders, root, home, outside / 'more'])
      if not link.is_symlink():
        link.symlink_to(target)
        links.add(link)
  pipes: set[Path] = set()
  if rng.random() < 0.3:
    pipes.add(rng.choice(folders) / 'pipe')
    os.mkfifo(*pipes)
  deep = [p for p in folders if len(p.relative_to(root).parts) > 2]
  if deep and rng.random() < 0.3:
    rng.choice(deep).chmod(0)
  return Drawn(root, pictures, pipes, links)


REASONS = re.compile(
  'each of which may be the split|cannot be the name of|that .* lacks:'
)
# All pictures of a class are hidden, or behind what cannot be read.
EMPTY = 'no (train|validation|test) photographs of '
_CLEAN = {ord(c): None for c in '\n\t\u2028'} | {
  c: None for c in range(0xDC80, 0xDD00)
}


def check_tree(drawn: Drawn) -> bool:
  """Whether the tree is taken; then each of its pictures is used or named."""
  try:
    found = sources.read_tree(drawn.root)
  except UserError as error:
    reason = str(error)
    if '\n' not in reason and REASONS.search(reason):
      return False
    raise
  paths = [Path(e.path) for some in found.examples.values() for e in some]
  places = {path.resolve() for path in paths}
  named = {drawn.root / one.name for one in found.unused}
  covered = {path.resolve() for path in named}
  ways = [drawn.root]
  for link in drawn.links:
    if not any(link.is_relative_to(path) for path in named):
      ways.append(link.resolve())
  for picture in drawn.pictures:
    left_out = not covered.isdisjoint([picture, *picture.parents])
    there = any(picture.is_relative_to(way) for way in ways)
    assert picture in places or left_out or not there
  assert all(path.exists() or path.is_symlink() for path in named)
  if not drawn.links:  # each picture has one name: they can be counted
    locked = [drawn.root / u.name for u in found.unused if 'cannot' in u.why]
    there = {
      path
      for path in drawn.pictures | drawn.pipes
      if not any(path.is_relative_to(folder) for folder in locked)
    }
    assert len(paths) == len(places)
    assert len(paths) + sum(one.files for one in found.unused) == len(there)
  return True
