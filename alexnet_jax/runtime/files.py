"""Files that a kill or a bad disk cannot spoil unnoticed.

They are on a disk, or objects of a bucket (gs://...): there nothing is locked,
appended to or renamed, but an object is whole at any moment by itself.
"""

import contextlib
import errno
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import stat
import time
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import fsspec
from etils import epath
from etils.epath import backend, stat_utils

from alexnet_jax.runtime.errors import UserError, printable

MANIFEST = 'manifest.json'
UNFINISHED = f'no {MANIFEST}: it was cut short, or is still being written'
# Between two times that what grows in a bucket is written there.
REWRITE_SECONDS = 60
# Orbax and TFDS take these in a path for a pattern, for a / or for a bucket.
_NOT_PLAIN = ('*', '?', '[', '\\', ':/')
_FULL = [os.strerror(n) for n in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)]


def folder(path: epath.PathLike) -> epath.Path:
  """A folder that the user named, on a disk or in a bucket; `~` is the home.

  Raises:
    UserError: a name that not all who use the folder can read, or a bucket
      that cannot be reached from here.
  """
  text = _at_home(os.fspath(path))
  whole = text if in_bucket(text) else os.path.abspath(text)
  within = whole.partition('://')[2] or f'{whole}/'
  bad = [text for text in _NOT_PLAIN if text in within]
  if any(unicodedata.category(character) == 'Cs' for character in within):
    bad += ['bytes that are not UTF-8']
  if bad:
    raise UserError(
      f'{printable(whole)}: a path with {" ".join(bad)} in it cannot be used '
      'for runs and data sets: choose another, or rename the folder'
    )
  path = epath.Path(text)
  if in_bucket(path):
    if not os.fspath(path).startswith('gs://'):
      raise UserError(f'{path}: no bucket but gs://BUCKET/FOLDER')
    if importlib.util.find_spec('gcsfs') is None:
      raise UserError(
        f"{path}: what reads buckets is missing: pip install -e '.[gcs]'"
      )
    # Orbax writes by another way, and a list in memory would not show it.
    fsspec.config.conf.setdefault('gcs', {})['use_listings_cache'] = False
    try:
      path.exists()
    except Exception as error:  # of a client, of no common base
      raise UserError(
        f'{path} cannot be reached: {_first_line(error)}'
      ) from error
  return path


def source(path: epath.PathLike) -> epath.Path:
  """A file that the user named, or else a folder, as `folder` has it."""
  file = epath.Path(_at_home(os.fspath(path)))
  return file if file.is_file() else folder(path)


def _at_home(text: str) -> str:
  try:
    return str(Path(text).expanduser()) if text.startswith('~') else text
  except RuntimeError as error:
    raise UserError(
      f'{printable(text)}: the home folder is not known: set HOME, or write '
      'the whole path'
    ) from error


def missing_run(workdir: epath.PathLike) -> UserError:
  """Of a folder without checkpoints; the message has the runs beside it."""
  beside, runs = epath.Path(workdir).parent, []
  if beside.exists():
    runs = [str(x) for x in beside.iterdir() if (x / 'checkpoints').exists()]
  there = f'there are {", ".join(sorted(runs))}' if runs else 'train first'
  return UserError(f'no run in {workdir}: {there}')


def in_bucket(path: epath.PathLike) -> bool:
  return '://' in os.fspath(path)


def make_folder(path: epath.Path) -> None:
  """Makes a folder, unless it is there. A bucket has none, only names."""
  if not in_bucket(path):
    path.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def explained(what: object, kind: type[Exception] = OSError) -> Iterator[None]:
  """A failure to write, such as a full disk, as one message.

  Args:
    what: was to be written.
    kind: of exceptions; others pass, but for those of a bucket.
  """
  try:
    yield
  except UserError:
    raise
  except Exception as error:  # a bucket's client has errors of its own
    if not isinstance(error, kind) and '://' not in str(what):
      raise
    reason = _first_line(error)
    full = any(text in str(error) for text in _FULL)
    raise UserError(
      f'{what} could not be written: {reason}. What was saved before is '
      f'intact: {"make room" if full else "mend this"}, then run again'
    ) from error


def _first_line(error: Exception) -> str:
  reason = str(error).partition('\n')[0]
  if len(reason) > 400:  # the cause comes first, or last
    reason = f'{reason[:200]} ... {reason[-200:]}'
  return reason


@contextlib.contextmanager
def locked(path: epath.PathLike, busy: Callable[[], None]) -> Iterator[None]:
  """Holds a lock that the system releases if the process is killed.

  Args:
    path: a file, made if missing. In a bucket there is no lock.
    busy: called if another process holds it, to raise, or to say that this
      one waits.
  """
  if in_bucket(path):
    yield
    return
  with explained(path):
    file = open(path, 'a')  # noqa: SIM115
  with file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      busy()
      fcntl.flock(file, fcntl.LOCK_EX)
    yield


def flush(path: epath.PathLike) -> None:
  """Waits until a file, or a folder's list of names, is on the disk."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def write_atomically(path: epath.Path, content: str | bytes) -> None:
  """Writes a file that is whole at any moment, the old one or the new one, and
  leaves nothing else where it cannot be written."""
  data = content.encode() if isinstance(content, str) else content
  if in_bucket(path):
    path.write_bytes(data)
    return
  temporary = path.parent / f'.{path.name}.tmp'
  try:
    temporary.write_bytes(data)
    flush(temporary)
    temporary.replace(path)
  except OSError:
    temporary.unlink(missing_ok=True)
    raise
  flush(path.parent)


class Growing:
  """A file of a bucket to append to: kept here, and written as a whole at most
  once a minute, when asked, and at the end."""

  def __init__(self, path: epath.Path):
    """Goes on with what is there; writes nothing yet."""
    self._path = path
    self._content = bytearray(path.read_bytes() if path.exists() else b'')
    self._written = time.monotonic()

  def write(self, data: bytes) -> None:
    self._content += data

  def flush(self) -> None:
    if time.monotonic() > self._written + REWRITE_SECONDS:
      self.rewrite()

  def rewrite(self) -> None:
    self._path.write_bytes(bytes(self._content))
    self._written = time.monotonic()

  close = rewrite


def append_to(path: epath.Path) -> BinaryIO | Growing:
  """Opens a file to write at its end."""
  return Growing(path) if in_bucket(path) else path.open('ab')


def sync(file: BinaryIO | Growing) -> None:
  """What was appended is where other programs see it."""
  if isinstance(file, Growing):
    file.rewrite()
  else:
    file.flush()


def upload(source: epath.Path, target: epath.Path, last: str = '') -> None:
  """Puts the files of a folder into a bucket, in place of what is there. The
  one named `last` goes first and comes last."""
  if last:
    (target / last).unlink(missing_ok=True)
  target.rmtree(missing_ok=True)
  files = _files(source)
  for name in sorted(files, key=lambda name: (name == last, name)):
    with files[name].open('rb') as read, (target / name).open('wb') as write:
      shutil.copyfileobj(read, write, 1 << 24)


def write_manifest(folder: epath.Path) -> None:
  """Writes size and SHA-256 of each file under a folder, once all of it is on
  the disk, so that a folder with a manifest is a complete one."""
  if not in_bucket(folder):
    for parent, _, names in folder.walk():
      for name in names:
        flush(parent / name)
      flush(parent)
  manifest = {
    name: {'size': file.stat().length, 'sha256': _sha256(file)}
    for name, file in _files(folder).items()
  }
  write_atomically(folder / MANIFEST, json.dumps(manifest, indent=2))


def find_damage(folder: epath.Path, only: str | None = None) -> str | None:
  """Compares a folder with its manifest.

  Args:
    folder: what `write_manifest` was given. More files in it do not matter.
    only: look at this file alone.

  Returns:
    The first thing that is wrong, for a message; None if nothing is.
  """
  try:
    manifest = {
      name: (entry['size'], entry['sha256'])
      for name, entry in json.loads((folder / MANIFEST).read_text()).items()
    }
  except FileNotFoundError:
    return UNFINISHED
  except Exception:  # damaged bytes may be anything
    return f'{MANIFEST} cannot be read'
  files = _files(folder)  # a name that leads out of the folder is not in it
  for name in [only] if only else sorted(manifest):
    if name not in manifest:
      return f'{MANIFEST} does not list {name}'
    if name not in files:
      return f'{name} is missing'
    size, digest = manifest[name]
    try:
      found = files[name].stat().length
      if found != size:
        return f'{name} has {found} bytes, not {size}'
      if _sha256(files[name]) != digest:
        return f'{name} is not what was written (its SHA-256 differs)'
    except OSError as error:
      return f'{name} cannot be read ({error.strerror})'
  return None if manifest else f'{MANIFEST} is empty'


def _files(folder: epath.Path) -> dict[str, epath.Path]:
  """Every file under a folder, by its path from there."""
  # In a bucket, epath's walk forgets the scheme.
  root = PurePosixPath(os.fspath(folder).removeprefix('gs://'))
  names = (
    PurePosixPath(os.fspath(parent).removeprefix('gs://'), name)
    for parent, _, names in folder.walk()
    for name in names
  )
  found = (name.relative_to(root).as_posix() for name in names)
  return {name: folder / name for name in found}


def _sha256(file: epath.Path) -> str:
  with file.open('rb') as stream:
    return hashlib.file_digest(stream, 'sha256').hexdigest()


def _stat(path: epath.PathLike) -> stat_utils.StatResult:
  """etils' own, but for the owner: there it fails for users and groups that
  the system has no name for, as in containers."""
  status = os.stat(path)
  return stat_utils.StatResult(
    is_directory=stat.S_ISDIR(status.st_mode),
    length=status.st_size,
    mtime=int(status.st_mtime),
    mode=status.st_mode,
  )


# Orbax and TFDS call it, too.
backend.os_backend.stat = _stat
