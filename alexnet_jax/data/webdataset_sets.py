"""WebDatasets: tars in which files of one key are a sample, key.jpg and key.cls
or key.json. The library says what shards are meant and what belongs together;
the pictures are read where they are, by any process."""

import dataclasses
import glob
import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from alexnet_jax.data import listing, shards, sources
from alexnet_jax.data.imagenet import members
from alexnet_jax.data.photographs import Photograph
from alexnet_jax.runtime.errors import UserError, printable

_PICTURES = (
  *('bmp', 'gif', 'jpeg', 'jpg', 'pgm', 'png', 'pnm', 'ppm', 'tif', 'tiff'),
  'webp',
)


def find(pattern: str) -> str:
  """The absolute form of what `webdataset` takes.

  Raises:
    UserError: the library is missing.
  """
  shards.require('webdataset', f'--source=webdataset:{pattern}', 'webdataset')
  return '::'.join(
    os.path.abspath(os.path.expanduser(one)) for one in pattern.split('::')
  )


def webdataset(pattern: str, shares: Mapping[str, float]) -> sources.Source:
  """The photographs in tars that have a label.

  A label is the integer in key.cls, or `label` in key.json, whose `class_name`,
  where it is there, is the name of the class; else that is the integer.

  Args:
    pattern: tars, 'pets-{train,val}-{000..015}.tar', globs, or folders of
      tars, several with '::' between them. By split, see `shards.by_split`.
    shares: as of `sources.folder`.

  Raises:
    UserError: a shard is missing or damaged, or a label is none.
  """
  root, tars, unused = _tars(pattern)
  splits = shards.by_split(root, tars, unused)
  classes: dict[int, str] = {}
  examples: dict[str, list[Photograph]] = {}
  for split in sources.SPLITS:
    if split in splits:
      examples[split] = [
        example
        for path in splits[split]
        for example in _photographs(root, path, classes, unused)
      ]
  listing.warn_unused(root, unused)
  # Each class has a picture, so that labels are fewer than pictures.
  total = sum(map(len, examples.values()))
  for one in (one for some in examples.values() for one in some):
    if not 0 <= one.label < total:
      raise UserError(
        f'{one.path}: {printable(one.name)} is of class {one.label}, which is '
        f'out of the range of {total} pictures: count classes from 0'
      )
  count = 1 + max((e.label for s in examples.values() for e in s), default=-1)
  names = [classes.get(label, str(label)) for label in range(count)]
  source = sources.completed(
    root, shards.class_names(root, names), examples, shares
  )
  return dataclasses.replace(
    source, unused=unused, listing=sources.listed(root, tars)
  )


def listed(pattern: str) -> dict[str, Any] | None:
  """`sources.listed` of the tars that `webdataset` would take; None: there are
  none any more."""
  from webdataset import shardlists

  if not any(map(glob.glob, shardlists.expand_urls(pattern))):
    return None
  root, tars, _ = _tars(pattern)
  return sources.listed(root, tars)


def _tars(pattern: str) -> tuple[Path, list[Path], list[listing.Unused]]:
  """The folder of all, the tars, and what is none."""
  from webdataset import shardlists

  found = sources.named(shardlists.expand_urls(pattern))
  files = [Path(os.path.abspath(path)) for path in found]
  root = Path(os.path.commonpath([path.parent for path in files]))
  tars: list[Path] = []
  unused: list[listing.Unused] = []
  known: set[tuple[int, int]] = set()
  for path in files:
    if path.suffix != '.tar':
      why = 'no .tar'
    elif (place := _identity(path)) in known:
      why = 'named twice'  # or a link to one that was
    else:
      known.add(place)
      tars.append(path)
      continue
    unused.append(listing.Unused(path.relative_to(root).as_posix(), why))
  if not tars:
    raise UserError(
      f'{printable(pattern)}: none of these is a .tar (unpack .tar.gz first)'
    )
  return root, tars, unused


def _identity(path: Path) -> tuple[int, int]:
  try:
    found = path.stat()
  except OSError as error:
    reason = error.strerror
    raise UserError(f'{printable(path)} cannot be read: {reason}') from error
  return found.st_dev, found.st_ino


def _photographs(
  root: Path,
  path: Path,
  classes: dict[int, str],
  unused: list[listing.Unused],
) -> Iterator[Photograph]:
  """The labelled pictures of a tar; adds to the names of `classes`, and what is
  not used to `unused`."""
  below = path.relative_to(root).as_posix()
  keys: set[str] = set()
  with path.open('rb') as file:
    for sample in _samples(path, unused):
      if (key := sample['__key__']) in keys:
        raise UserError(
          f'{printable(path)}: the key {printable(key)} comes again later: put '
          'the files of a key beside each other (tar --sort=name), and give '
          'each picture a key of its own'
        )
      keys.add(key)
      parts = {
        kind: member
        for kind, member in sample.items()
        if isinstance(member, tarfile.TarInfo)
      }
      where = f'{below}/{key}'
      pictures = [kind for kind in parts if kind in _PICTURES]
      label, name = _label(path, parts, file)
      if len(pictures) != 1 or label is None:
        what = 'no label' if len(pictures) == 1 else f'{len(pictures)} pictures'
        what += f' in .{", .".join(parts)}'
        unused.append(listing.Unused(where, what, len(parts)))
        continue
      if name is not None and classes.setdefault(label, name) != name:
        raise UserError(
          f'{printable(path)}: the class {label} is called '
          f'{printable(classes[label])} and, in {printable(where)}, '
          f'{printable(name)}: mend its .json'
        )
      picture = parts[pictures[0]]
      yield Photograph(
        f'{below}/{picture.name}',
        label,
        str(path),
        picture.offset_data,
        picture.size,
      )


def _samples(
  path: Path, unused: list[listing.Unused]
) -> Iterator[dict[str, Any]]:
  """Of each key the members of the tar, by what is behind its first dot."""
  from webdataset import tariterators

  def named() -> Iterator[dict[str, Any]]:
    for member in members(path, unused):
      if tariterators.base_plus_ext(member.name)[0] is None:
        name = f'{path.name}/{member.name}'
        unused.append(listing.Unused(name, 'its name has no key'))
      yield {'fname': member.name, 'data': member, '__url__': str(path)}

  try:
    yield from tariterators.group_by_keys(named())
  except UserError:
    raise
  except ValueError as error:  # the library's
    raise UserError(f'{printable(path)}: {printable(error.args[0])}') from error


def _label(
  path: Path, parts: Mapping[str, tarfile.TarInfo], file: BinaryIO
) -> tuple[int | None, str | None]:
  """The class of a sample and its name, None where it does not say so."""
  texts = {}
  for kind in ('cls', 'json'):
    if kind in parts:
      file.seek(parts[kind].offset_data)
      texts[kind] = file.read(parts[kind].size)
  kind = 'json'
  try:
    about = json.loads(texts.get('json', '{}'))
    told, name = about.get('label'), about.get('class_name')
    kind = 'cls'
    label = int(texts['cls']) if 'cls' in texts else told
    if b'_' in texts.get('cls', b''):  # which Python takes within a number
      raise ValueError
  except (AttributeError, ValueError, RecursionError) as error:
    raise UserError(
      f'{printable(path)}: {printable(parts[kind].name)} is no '
      + {'cls': 'integer', 'json': 'JSON object'}[kind]
    ) from error
  if label is not None and type(label) is not int:
    raise UserError(
      f'{printable(path)}: label in {printable(parts["json"].name)} is no '
      'integer: add a .cls with one'
    )
  if type(told) is int and told != label:
    raise UserError(
      f'{printable(path)}: {printable(parts["cls"].name)} has class {label}, '
      f'and {printable(parts["json"].name)} class {told}: mend one'
    )
  return label, name
