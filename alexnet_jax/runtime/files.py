"""Files that a kill or a bad disk cannot spoil unnoticed."""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator

from etils import epath

from alexnet_jax.runtime.errors import UserError

MANIFEST = 'manifest.json'
UNFINISHED = f'no {MANIFEST}: it was cut short, or is still being written'


@contextlib.contextmanager
def explained(what: object, kind: type[Exception] = OSError) -> Iterator[None]:
  """A failure to write, such as a full disk, as one message.

  Args:
    what: was to be written.
    kind: of exceptions; others pass.
  """
  try:
    yield
  except kind as error:
    reason = str(error).partition('\n')[0]
    if len(reason) > 400:  # the cause comes first, or last
      reason = f'{reason[:200]} ... {reason[-200:]}'
    raise UserError(
      f'{what} could not be written: {reason}. What was saved before is '
      'intact: make room or mend this, then run again'
    ) from error


@contextlib.contextmanager
def locked(path: epath.PathLike, busy: Callable[[], None]) -> Iterator[None]:
  """Holds a lock that the system releases if the process is killed.

  Args:
    path: a file, made if missing, on a local disk.
    busy: called if another process holds it, to raise, or to say that this
      one waits.
  """
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
  """Writes a file that is whole at any moment, the old one or the new one."""
  temporary = path.parent / f'.{path.name}.tmp'
  data = content.encode() if isinstance(content, str) else content
  temporary.write_bytes(data)
  flush(temporary)
  temporary.replace(path)
  flush(path.parent)


def write_manifest(folder: epath.Path) -> None:
  """Writes size and SHA-256 of each file under a folder, once all of it is on
  the disk, so that a folder with a manifest is a complete one."""
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
  return {
    (parent / name).relative_to(folder).as_posix(): parent / name
    for parent, _, names in folder.walk()
    for name in names
  }


def _sha256(file: epath.Path) -> str:
  with file.open('rb') as stream:
    return hashlib.file_digest(stream, 'sha256').hexdigest()
