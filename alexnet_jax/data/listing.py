"""Lists the files below folders. What is left out is counted and named."""

import dataclasses
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

from alexnet_jax.runtime.errors import printable

_KINDS = {
  stat.S_IFIFO: 'a FIFO',
  stat.S_IFSOCK: 'a socket',
  stat.S_IFCHR: 'a device',
  stat.S_IFBLK: 'a device',
}
_SHOWN = 20  # lines of a warning


@dataclasses.dataclass(frozen=True)
class Unused:
  """A file that is not used, or a folder of them."""

  name: str  # of a folder with a slash at its end
  why: str
  files: int = 1

  def __str__(self) -> str:
    count = f' ({self.files:,} files)' if self.name.endswith('/') else ''
    return f'{printable(self.name)}{count}: {self.why}'


class Walk:
  """Lists folders, and keeps what is left out of them.

  Links are followed. A link to a folder that holds it is left out, and `files`
  lists a folder once, so there is no loop.

  Attributes:
    unused: what was left out, so far.
  """

  def __init__(self, root: Path):
    """Looks at nothing yet.

    Args:
      root: the names in `unused` are those from here on.
    """
    self._root = root
    self.unused: list[Unused] = []

  def leave_out(self, path: Path, why: str, files: int | None = None) -> None:
    """Keeps the name of a file or a folder that is not used.

    Args:
      path: of it.
      why: for the user.
      files: how many it stands for; None: count them.
    """
    name = path.relative_to(self._root).as_posix()
    if os.path.isdir(path):
      name += '/'
      below = (len(names) for _, _, names in os.walk(path))
      files = sum(below) if files is None else files
    self.unused.append(Unused(name, why, 1 if files is None else files))

  def look_into(self, folder: Path) -> tuple[list[Path], list[Path]]:
    """The folders and the files in a folder, sorted.

    What cannot be told, such as a link that leads nowhere, counts as a file:
    reading it says what is wrong.

    Raises:
      OSError: the folder cannot be read.
    """
    folders, files = [], []
    for path in sorted(folder.iterdir()):
      try:
        mode = path.stat().st_mode
      except OSError:
        mode = stat.S_IFREG
      if path.name.startswith('.'):
        self.leave_out(path, 'its name starts with a dot')
      elif stat.S_ISDIR(mode) and path.is_symlink() and _is_above(path):
        self.leave_out(path, 'a link to a folder that holds it', files=0)
      elif stat.S_ISDIR(mode):
        folders.append(path)
      elif stat.S_ISREG(mode):
        files.append(path)
      else:
        self.leave_out(path, _KINDS.get(stat.S_IFMT(mode), 'not a file'))
    return folders, files

  def files(self, top: Path) -> list[Path]:
    """All files below a folder, sorted."""
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    folders, links = [top], list[Path]()
    while folders or links:
      # Links last: a folder goes by its own name where it has one here.
      folder = folders.pop() if folders else links.pop(0)
      if _identity(folder) in seen:
        self.leave_out(folder, 'a link to a folder that is used', files=0)
        continue
      seen.add(_identity(folder))
      try:
        inside, files = self.look_into(folder)
      except OSError as error:
        self.leave_out(folder, f'it cannot be read: {error.strerror}', files=0)
        continue
      found += files
      for path in inside:
        (links if path.is_symlink() else folders).append(path)
    return sorted(found)


def warn(message: str) -> None:
  print(f'warning: {message}', file=sys.stderr, flush=True)


def warn_unused(root: Path, unused: Sequence[Unused]) -> None:
  """Says how many files are not used, and which."""
  if not unused:
    return
  count = sum(one.files for one in unused)
  lines = [f'{count:,} files below {printable(root)} are not used:']
  lines += map(str, unused[:_SHOWN])
  if more := len(unused) - _SHOWN:
    lines += [f'and {more:,} more'] if more > 0 else []
  warn('\n  '.join(lines))


def _is_above(link: Path) -> bool:
  """Whether a link leads to a folder that it is in."""
  return _identity(link) in map(_identity, link.absolute().parents)


def _identity(path: Path) -> tuple[int, int]:
  status = path.stat()
  return status.st_dev, status.st_ino
