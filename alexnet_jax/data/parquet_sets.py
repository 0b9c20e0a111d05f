"""Sets in Parquet files as the library `datasets` writes them, and its hub has.

A picture is a struct of its bytes and its path, and the files' description says
which column is an Image and which a ClassLabel. pyarrow, which TFDS has anyway,
reads that; `datasets` would first write all of it again.
"""

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from alexnet_jax.data import listing, photographs, shards, sources
from alexnet_jax.runtime import hub
from alexnet_jax.runtime.errors import UserError, printable


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
  """A row of a Parquet file, which is read by groups of rows."""

  name: str
  label: int
  path: str
  group: int
  place: int  # in the group
  column: str  # of the picture

  def read(self, side: int) -> photographs.Pixels:
    try:
      image = _images(self.path, self.group, self.column)[self.place].as_py()
    except Exception as error:  # Arrow's, of many kinds
      raise _damaged(self.path, error) from error
    if not (image and image['bytes']):
      if not (image and image.get('path')):
        raise photographs.BadImageError('there is no picture')
      raise photographs.BadImageError(
        'only its path is stored: write the set with its pictures in it '
        '(push_to_hub of `datasets` does, and embed_table_storage)'
      )
    return photographs.square(image['bytes'], side)


def find(name: str) -> Path:
  """The folder, or the file, of 'hf:NAME'.

  Args:
    name: a path here; or OWNER/NAME, OWNER/NAME/CONFIG, either with @REVISION,
      of the hub, whose Parquet files are fetched into the cache of its library.

  Raises:
    UserError: there is no such thing, or it cannot be fetched.
  """
  shards.require('pyarrow', f'--source=hf:{name}', 'hf')
  if (path := Path(name).expanduser()).exists():
    return path
  text, _, revision = name.partition('@')
  owner, *rest = text.split('/')
  if len(rest) not in (1, 2) or not all((owner, *rest)):
    raise UserError(
      f'--source=hf:{printable(name)}: there is no such file or folder, and a '
      'name of the hub is OWNER/NAME or OWNER/NAME/CONFIG'
    )
  pattern = '/'.join([*rest[1:], '*.parquet'])
  folder = hub.fetch(
    f'--source=hf:{name}', f'{owner}/{rest[0]}', revision, pattern, 'dataset'
  )
  return Path(folder, *rest[1:])


def parquet(root: Path, shares: Mapping[str, float]) -> sources.Source:
  """The set in a folder, or a file, of `find`.

  Args:
    root: with files by split, see `shards.by_split`.
    shares: of 'validation' and 'test', where there is no such split, that is
      held out of the training split, as `sources.folder` does it. A split
      without labels counts as none.

  Raises:
    UserError: there is no such file, one is damaged, or lacks what a set of
      photographs with a class each has.
  """
  files, walk = _files(root)
  if not files:
    raise UserError(
      f'{printable(root)} has no .parquet files: the hub has them of many sets '
      'as OWNER/NAME@refs/convert/parquet'
    )
  root = root if root.is_dir() else root.parent
  shards.refuse_missing(root, files)
  splits = shards.by_split(root, files, walk.unused)
  _refuse_several(root, splits)
  image, label, names = _features(splits['train'][0])
  examples = {}
  for split in sources.SPLITS:
    found = [
      row
      for path in splits.get(split, ())
      for row in _rows(root, path, (image, label, names))
    ]
    if bad := next((r for r in found if not -1 <= r.label < len(names)), None):
      raise UserError(
        f'{bad.path}: {printable(bad.name)} is of class {bad.label}, and the '
        f'set has names of {len(names)} classes: mend its column {label} '
        '(cast_column of `datasets`, to a ClassLabel with names)'
      )
    labelled = [row for row in found if row.label != -1]
    if labelled:
      examples[split] = labelled
    if count := len(found) - len(labelled):
      what = f'{split}/'
      walk.unused.append(listing.Unused(what, 'pictures without label', count))
  listing.warn_unused(root, walk.unused)
  if 'train' not in examples:
    raise UserError(f'{printable(root)}: no training picture has a label')
  source = sources.completed(root, names, examples, shares)
  return dataclasses.replace(
    source, unused=walk.unused, listing=sources.listed(root, files)
  )


def listed(root: Path) -> dict[str, Any]:
  """`sources.listed` of the files that `parquet` would take."""
  files, _ = _files(root)
  return sources.listed(root if root.is_dir() else root.parent, files)


def _files(root: Path) -> tuple[list[Path], listing.Walk]:
  walk = listing.Walk(root)
  paths = walk.files(root) if root.is_dir() else [root]
  files = [path for path in paths if path.suffix == '.parquet']
  for path in paths:
    if path not in files:
      walk.leave_out(path, 'no Parquet file')
  return files, walk


def _refuse_several(root: Path, splits: Mapping[str, list[Path]]) -> None:
  """Refuses a folder with several configurations of a set, such as sizes."""
  configs = set()
  for split, paths in splits.items():
    for path in paths:
      parts = path.relative_to(root).parts[:-1]
      known = sources.FOLDERS[split]
      configs.add('/'.join(p for p in parts if p.lower() not in known))
  if len(configs) > 1:
    raise UserError(
      f'{printable(root)} has several sets, {", ".join(sorted(configs))}: add '
      'the one to take to --source=hf:..., after a /'
    )


def _features(path: Path) -> tuple[str, str, tuple[str, ...]]:
  """The columns of the picture and of its class, and the classes' names."""
  schema = _open(path).schema_arrow
  try:
    described = json.loads(schema.metadata[b'huggingface'])
    about = dict(described['info']['features'])
  # Another program writes nothing there, or something of its own.
  except (KeyError, TypeError, ValueError, RecursionError):
    about = {}
  columns = []
  for kind in ('Image', 'ClassLabel'):
    found = [n for n in schema.names if _type(about.get(n)) == kind]
    usual = [n for n in found if n in ('image', 'label')]
    columns.append(usual if len(found) > 1 else found)
  if any(len(found) != 1 for found in columns):
    there = ', '.join(f'{n} ({_type(about.get(n))})' for n in schema.names)
    raise UserError(
      f'{printable(path)} is no set of photographs with a class each: those '
      f'have one Image and one ClassLabel of `datasets` (its '
      f'class_encode_column makes one of numbers or names), this has {there}'
    )
  (image,), (label,) = columns
  kinds = [schema.field(name).type for name in (image, label)]
  parts = {part.name for part in kinds[0]} if kinds[0].num_fields else set()
  if not ({'bytes', 'path'} <= parts and str(kinds[1]).startswith('int')):
    raise UserError(
      f'{printable(path)}: {image} is of {kinds[0]} and {label} of {kinds[1]}, '
      'which `datasets` does not write: write it again'
    )
  return image, label, shards.class_names(path, about[label].get('names', ()))


def _type(feature: Any) -> str:
  told = isinstance(feature, dict) and feature.get('_type')
  return str(told or 'not described')


def _rows(
  root: Path, path: Path, features: tuple[str, str, tuple[str, ...]]
) -> Iterator[Row]:
  if _features(path) != features:
    raise UserError(
      f'{printable(path)} has other columns or classes than the first file of '
      'the training split'
    )
  image, label, _ = features
  file, number = _open(path), 0
  below = path.relative_to(root).as_posix()
  for group in range(file.num_row_groups):
    try:
      columns = [f'{image}.path', label]
      table = file.read_row_group(group, columns=columns).flatten()
      names, labels = (table.column(name).to_pylist() for name in columns)
    except Exception as error:  # Arrow's, of many kinds
      raise _damaged(path, error) from error
    for place, (name, of) in enumerate(zip(names, labels, strict=True)):
      called = f'{below}/{number}'
      called += f'/{PurePath(name).name}' if name else ''
      of = -1 if of is None else of
      yield Row(called, of, str(path), group, place, image)
      number += 1


def _open(path: Path | str):
  import pyarrow.parquet

  try:
    return pyarrow.parquet.ParquetFile(path)
  except Exception as error:  # Arrow's, of many kinds
    raise _damaged(path, error) from error


@functools.lru_cache(1)  # of 100 MB each, and read in order
def _images(path: str, group: int, column: str):
  return _open(path).read_row_group(group, columns=[column]).column(0)


def _damaged(path: Path | str, why: object) -> UserError:
  reason = ' '.join(str(why).split())[:200]
  return UserError(
    f'{printable(path)} is damaged ({reason}): write or fetch it again'
  )
