"""Image classification sets that a builder of TFDS has prepared, as a source.

Their files are read here: TFDS needs TensorFlow for TFRecords, in which it
writes most of its sets, though a record of those is its length, a checksum,
itself and a checksum.
"""

import dataclasses
import functools
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.core import read_only_builder
from tensorflow_datasets.proto import tf_example_pb2

from alexnet_jax.data import listing, photographs, sources
from alexnet_jax.runtime.errors import UserError

# A TFRecord: the length and its checksum, the record and its own.
_LENGTH, _CHECKSUM = struct.Struct('<Q'), struct.Struct('<I')
_AT_ONCE = 256  # records of an ArrayRecord file read together


@dataclasses.dataclass(frozen=True, slots=True)
class Stored:
  """A record of a set, and where it is: at a byte of a TFRecord file, or the
  number in an ArrayRecord one."""

  name: str
  label: int
  path: str
  place: int
  image: str  # name of the feature

  def read(self, side: int) -> photographs.Pixels:
    if _is_array_record(self.path):
      (record,) = _reader(self.path).read([self.place])
    else:
      with open(self.path, 'rb') as file:
        file.seek(self.place)
        record = _next_record(file, self.path)
    parts = tf_example_pb2.Example.FromString(record).features.feature
    (data,) = parts[self.image].bytes_list.value
    return photographs.square(data, side)


def find(name: str, folder: str | None) -> Path:
  """Where the set that TFDS calls `name` is: 'cifar10', 'imagenette/320px-v2'.

  Args:
    name: with a config and a version, if there are several.
    folder: TFDS's data_dir; None: where TFDS looks.

  Raises:
    UserError: it is not there.
  """
  try:
    builder = read_only_builder.builder_from_files(name, data_dir=folder)
  except Exception as error:  # TFDS's, of names and of files it did not write
    where = folder or tfds.core.constants.DATA_DIR
    raise UserError(
      f'--source=tfds:{name}: TFDS has prepared no such set in {where}. Build '
      f'it (tfds build {name} --data_dir={where}, in an environment with '
      'TensorFlow), or say --input=FOLDER of TFDS. A set with several configs '
      'needs one: tfds:NAME/CONFIG'
    ) from error
  return Path(builder.data_dir)


def prepared(folder: Path, shares: Mapping[str, float]) -> sources.Source:
  """The set in a folder of `find`.

  Args:
    folder: with its version.
    shares: of 'validation' and 'test', where the set has no such split, that is
      held out of its training split, as `sources.folder` does it.

  Raises:
    UserError: not of labelled photographs, without a training split, or in
      files of another kind.
  """
  builder = tfds.builder_from_directory(folder)
  image, label = _features(folder, builder.info)
  names = tuple(builder.info.features[label].names)
  examples = {}
  for split in sources.SPLITS:
    if split not in builder.info.splits:
      continue
    found = [
      Stored(f'{split}/{number}', of, path, place, image)
      for number, (path, place, of) in enumerate(_all(builder, split, label))
    ]
    if any(not 0 <= example.label < len(names) for example in found):
      listing.warn(f'{folder}: the split {split} has no labels: left out')
    else:
      examples[split] = found
  unused = [
    listing.Unused(f'{name}/', 'a split of another name', split.num_examples)
    for name, split in builder.info.splits.items()
    if name not in sources.SPLITS
  ]
  listing.warn_unused(folder, unused)
  if 'train' not in examples:
    there = ', '.join(builder.info.splits)
    raise UserError(f'{folder} has no labelled split train: it has {there}')
  source = sources.completed(folder, names, examples, shares)
  return dataclasses.replace(source, unused=unused)


def _features(folder: Path, info: tfds.core.DatasetInfo) -> tuple[str, str]:
  """The names of the photograph and of its class."""
  features = info.features
  kinds = (tfds.features.Image, tfds.features.ClassLabel)
  found = []
  for kind in kinds:
    names = [n for n, feature in features.items() if type(feature) is kind]
    marked = [n for n in names if n in (info.supervised_keys or ())]
    found.append(marked if len(names) > 1 else names)
  if any(len(names) != 1 for names in found):
    there = ', '.join(
      f'{n} ({type(f).__name__})' for n, f in sorted(features.items())
    )
    raise UserError(
      f'{folder} is no set of photographs with a class each: those have one '
      f'Image and one ClassLabel, this has {there}'
    )
  return found[0][0], found[1][0]


def _all(
  builder: tfds.core.DatasetBuilder, split: str, label: str
) -> Iterator[tuple[str, int, int]]:
  """(file, place, label) of every record of a split, in order."""
  for shard in builder.info.splits[split].file_instructions:
    path, count = shard.filename, 0
    try:
      for place, record in _records(path):
        parts = tf_example_pb2.Example.FromString(record).features.feature
        (value,) = parts[label].int64_list.value
        count += 1
        yield path, place, value
    except UserError:
      raise
    except Exception as error:  # ArrayRecord's, protobuf's, the disk's
      raise _damaged(path, error) from error
    if count != shard.take:
      raise _damaged(path, f'it holds {count} records, not {shard.take}')


def _records(path: str) -> Iterator[tuple[int, bytes]]:
  if _is_array_record(path):
    reader = _reader(path)
    for start in range(0, reader.num_records(), _AT_ONCE):
      places = range(start, min(start + _AT_ONCE, reader.num_records()))
      yield from zip(places, reader.read(list(places)), strict=True)
    return
  if '.tfrecord' not in Path(path).name:
    raise UserError(
      f'{path} is neither a TFRecord nor an ArrayRecord file: build the set '
      'with tfds build --file_format=array_record'
    )
  end = Path(path).stat().st_size
  with open(path, 'rb') as file:
    while (place := file.tell()) < end:
      yield place, _next_record(file, path)


def _next_record(file: BinaryIO, path: str) -> bytes:
  (length,) = _LENGTH.unpack(_checked(file, _LENGTH.size, path))
  return _checked(file, length, path)


def _checked(file: BinaryIO, size: int, path: str) -> bytes:
  """The next `size` bytes, once the masked CRC-32C after them is theirs."""
  # No record has 2 GB, and a wrong length must not ask for all memory.
  data = file.read(size) if size < 2**31 else b''
  checksum = file.read(_CHECKSUM.size)
  if len(data) != size or len(checksum) != _CHECKSUM.size:
    raise _damaged(path, 'it ends within a record')
  crc = google_crc32c.value(data)
  masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32
  if _CHECKSUM.unpack(checksum) != (masked,):
    raise _damaged(path, 'a record has another checksum than was written')
  return data


def _is_array_record(path: str) -> bool:
  return '.array_record' in Path(path).name


@functools.lru_cache(8)
def _reader(path: str) -> array_record_module.ArrayRecordReader:
  return array_record_module.ArrayRecordReader(path)


def _damaged(path: str, why: object) -> UserError:
  reason = str(why).partition('\n')[0][:200]
  return UserError(f'{path} is damaged: {reason}. Have TFDS build the set anew')
