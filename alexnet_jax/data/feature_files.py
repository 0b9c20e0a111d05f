"""Features of photographs in a file: ArrayRecord or .npy, written whole.

Row i is the vector of photograph i. Its name is a path, or SPLIT:INDEX:FILE
of a data set; its label is -1 where nobody knows it. An ArrayRecord holds
`tf.train.Example`s, as a TFDS data set does; beside an .npy file the names and
labels are in .tsv. Beside either, FILE.json says of what network and layer the
features are.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from etils import epath

from alexnet_jax.runtime.errors import UserError, printable
from alexnet_jax.runtime.files import explained, write_atomically

KINDS = ('.array_record', '.npy')
FORMAT_VERSION = 2  # of FILE.json
_ROWS = 256  # read at a time


class Part(NamedTuple):
  """Some rows.

  Attributes:
    features: float32 [n, D].
    names: n of them.
    labels: n of them.
  """

  features: np.ndarray
  names: Sequence[str]
  labels: Sequence[int]


def check_kind(path: epath.PathLike) -> epath.Path:
  """Refuses a name that `write` would, before anything is computed."""
  path = epath.Path(path)
  if path.suffix not in KINDS:
    raise UserError(f'{path}: features go to a file *{" or *".join(KINDS)}')
  with contextlib.suppress(UnicodeEncodeError):
    os.fspath(path).encode()
    return path
  if path.suffix == '.array_record':
    raise UserError(
      f'{printable(path)}: the path of an ArrayRecord is UTF-8; .npy takes any'
    )
  return path


def write(
  path: epath.PathLike, parts: Iterator[Part], about: Mapping[str, Any]
) -> int:
  """Writes all rows; the file is there once it is whole.

  Args:
    path: ends in .array_record or .npy.
    parts: at least one.
    about: what the features are of, as JSON has it.

  Returns:
    How many rows there are.

  Raises:
    UserError: another ending, or the disk is full.
  """
  path = check_kind(path)
  temporary = path.parent / f'.{path.name}.tmp'
  make = _write_npy if path.suffix == '.npy' else _write_records
  with explained(path), explained(path, RuntimeError):  # ArrayRecord's
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
      lines = make(temporary, parts)
      # What is beside the file is never that of another one.
      path.unlink(missing_ok=True)
      said = {'format_version': FORMAT_VERSION, 'rows': len(lines), **about}
      write_atomically(_beside(path), json.dumps(said, indent=1))
      if path.suffix == '.npy':
        write_atomically(path.with_suffix('.tsv'), b''.join(lines))
      temporary.replace(path)
    finally:
      temporary.unlink(missing_ok=True)
  return len(lines)


def read(path: epath.PathLike) -> Iterator[Part]:
  """The rows of a file that `write` made, some at a time.

  Raises:
    UserError: it is not there, or not such a file.
  """
  path = check_kind(path)
  if not path.exists():
    raise UserError(f'no features in {path}: make them with `features`')
  parts = _read_npy(path) if path.suffix == '.npy' else _read_records(path)
  try:
    yield from parts
  except (RuntimeError, ValueError, OSError) as error:
    raise UserError(
      f'{path} is damaged, or not what `features` writes: {error}'
    ) from error


def check(path: epath.PathLike, about: Mapping[str, Any]) -> None:
  """Refuses features of something else than `about`, field by field.

  Args:
    path: of a file that `write` made.
    about: what `write` should have been given; a field that is None in the
      file is of nothing, such as the data set of single photographs.

  Raises:
    UserError: the file is of something else, or does not say of what.
  """
  path = check_kind(path)
  if not path.exists():
    raise UserError(f'no features in {path}: make them with `features`')
  try:
    said = json.loads(_beside(path).read_text())
    version = said['format_version']
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise UserError(
      f'{_beside(path)} does not say what {path.name} is of ({error}): make '
      'the features anew with `features`'
    ) from error
  if version != FORMAT_VERSION:
    raise UserError(
      f'{path} is of format {version}, and this program reads format '
      f'{FORMAT_VERSION}: make the features anew with `features`'
    )
  for field, here in about.items():
    there = said.get(field)
    if there != here and there is not None:
      raise UserError(
        f'{path} has features of another {field}: {there!r} there, {here!r} '
        'here. Give the file that belongs to it, or make it with `features`'
      )


def _beside(path: epath.Path) -> epath.Path:
  return path.with_name(f'{path.name}.json')


def _lines(part: Part) -> list[bytes]:
  """A label and a name each. A name may have a line break in it."""
  names = (n.replace('\\', r'\\').replace('\n', r'\n') for n in part.names)
  return [
    f'{label}\t{name}\n'.encode(errors='surrogateescape')
    for name, label in zip(names, part.labels, strict=True)
  ]


def _read_line(line: bytes) -> tuple[int, str]:
  label, name = line.decode(errors='surrogateescape').split('\t', 1)
  return int(label), re.sub(
    r'\\(.)', lambda found: '\n' if found[1] == 'n' else found[1], name
  )


def _write_npy(path: epath.Path, parts: Iterator[Part]) -> list[bytes]:
  lines: list[bytes] = []
  width = 0
  with path.open('wb') as file:

    def write_header() -> None:  # of one length, however many rows there are
      form = {'descr': '<f4', 'fortran_order': False}
      shape = (len(lines), width)
      np.lib.format.write_array_header_1_0(file, {**form, 'shape': shape})

    for part in parts:
      if not lines:
        width = part.features.shape[1]
        write_header()
      file.write(part.features.astype('<f4').tobytes())
      lines += _lines(part)
    file.seek(0)
    write_header()
  return lines


def _read_npy(path: epath.Path) -> Iterator[Part]:
  array = np.load(path, mmap_mode='r')  # no pickles
  *lines, end = path.with_suffix('.tsv').read_bytes().split(b'\n')
  if array.ndim != 2 or len(array) != len(lines) or end:
    raise ValueError(f'{list(array.shape)} numbers, {len(lines)} names')
  for start in range(0, len(array), _ROWS):
    rows = list(map(_read_line, lines[start : start + _ROWS]))
    yield Part(
      np.array(array[start : start + _ROWS]),
      [name for _, name in rows],
      [label for label, _ in rows],
    )


def _example(length: int | None) -> tfds.features.FeaturesDict:
  return tfds.features.FeaturesDict(
    {
      'features': tfds.features.Tensor(shape=(length,), dtype=np.float32),
      'name': tfds.features.Text(),
      'label': tfds.features.Scalar(np.int64),
    }
  )


def _write_records(path: epath.Path, parts: Iterator[Part]) -> list[bytes]:
  writer = array_record_module.ArrayRecordWriter(str(path), 'group_size:1')
  lines: list[bytes] = []
  with contextlib.closing(writer):
    for part in parts:
      form = _example(part.features.shape[1])
      for row, name, label in zip(*part, strict=True):
        raw = name.encode(errors='surrogateescape')
        example = {'features': row, 'name': raw, 'label': label}
        writer.write(form.serialize_example(form.encode_example(example)))
      lines += _lines(part)
  return lines


def _read_records(path: epath.Path) -> Iterator[Part]:
  reader = array_record_module.ArrayRecordReader(str(path))
  form = _example(None)
  with contextlib.closing(reader):
    for start in range(0, reader.num_records(), _ROWS):
      stop = min(start + _ROWS, reader.num_records())
      rows = [
        form.deserialize_example_np(record)
        for record in reader.read(list(range(start, stop)))
      ]
      yield Part(
        np.stack([row['features'] for row in rows]),
        [row['name'].decode(errors='surrogateescape') for row in rows],
        [int(row['label']) for row in rows],
      )
