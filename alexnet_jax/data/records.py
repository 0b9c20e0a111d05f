"""Examples from the records of a prepared data set."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from array_record.python import array_record_module

from alexnet_jax.data import photographs
from alexnet_jax.runtime.errors import UserError, printable
from alexnet_jax.runtime.files import in_bucket

# Of protobuf's wire format: how the value of a field is written.
_NUMBER, _BYTES = 0, 2


@dataclasses.dataclass(frozen=True)
class Records(Sequence):
  """Examples of TFDS's records; errors say which one of which file is bad."""

  split: str
  source: Sequence[bytes]
  shards: tuple[tuple[str, int], ...]  # (file, records)
  files: str  # of `read_files`
  num_classes: int
  side: int
  decoder: str | None  # of `photographs.DECODERS`; None: raw pixels

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index):
    """{'image': uint8 [side, side, 3], read-only, 'label': int}."""
    if not 0 <= index < len(self):
      raise IndexError(index)
    try:
      data, label = take_apart(self.source[index])
      shape = (self.side, self.side, 3)
      if self.decoder:
        image = photographs.decode_jpeg(bytes(data), self.decoder)
      else:
        image = np.frombuffer(data, np.uint8).reshape(shape)
      if image.shape != shape or not 0 <= label < self.num_classes:
        raise ValueError(f'an image {image.shape} of class {label}')
      return {'image': image, 'label': label}
    except Exception as error:  # ArrayRecord's, ours, Pillow's
      position, shards = index, iter(self.shards)
      file, count = next(shards)
      while position >= count:
        position -= count
        file, count = next(shards)
      what = f'example {index} of {self.split}'
      with contextlib.suppress(Exception):  # the first error is the one to tell
        what += f', {read_files(self.files, [index])[0]}'
      raise damaged(f'record {position} of {file} ({what})', error) from error


def read_files(path: str, indices: Sequence[int]) -> list[str]:
  """The names of the files of some pictures, as text on one line each."""
  with contextlib.closing(
    array_record_module.ArrayRecordReader(path)
  ) as reader:
    names = reader.read(list(indices)) if len(indices) else []
  return [printable(name.decode(errors='surrogateescape')) for name in names]


def take_apart(record: bytes) -> tuple[memoryview, int]:
  """The image and the label of a serialized `tf.train.Example`.

  Protobuf would copy the pixels twice, into new memory each time, which takes
  longer than to read them from the file. This copies nothing.

  Args:
    record: of one feature 'image' with one string of bytes, and of one feature
      'label' with one integer.

  Raises:
    ValueError: it is something else.
  """
  try:
    (features,) = _values(memoryview(record), 1)
    values = {}
    for entry in _values(features, 1):
      (key,), (feature,) = _values(entry, 1), _values(entry, 2)
      values[bytes(key)] = feature
    ((image,),) = (_values(x, 1) for x in _values(values[b'image'], 1))
    ((label,),) = (_values(x, 1) for x in _values(values[b'label'], 3))
    if isinstance(label, memoryview):  # numbers are packed, one after another
      packed, (label, end) = label, _number(label, 0)
      if end != len(packed):
        raise ValueError('several labels')
    return image, label - (label >> 63 << 64)  # int64 as two's complement
  except (IndexError, KeyError, TypeError, ValueError) as error:
    raise ValueError('it is no example with an image and a label') from error


def _values(message: memoryview, number: int) -> list[Any]:
  """What a message has in a field: views of bytes, or integers."""
  return [value for field, value in _fields(message) if field == number]


def _fields(message: memoryview) -> Iterator[tuple[int, Any]]:
  at = 0
  while at < len(message):
    tag, at = _number(message, at)
    number, at = _number(message, at)
    value: int | memoryview = number
    if tag & 7 == _BYTES:
      start, at = at, at + number
      if at > len(message):
        raise ValueError('it is cut short')
      value = message[start:at]
    elif tag & 7 != _NUMBER:
      raise ValueError(f'a field of kind {tag & 7}')
    yield tag >> 3, value


def _number(message: memoryview, at: int) -> tuple[int, int]:
  """A number in groups of 7 bits, the lowest first, and where it ends."""
  value = shift = 0
  while True:
    byte = message[at]
    value |= (byte & 127) << shift
    at, shift = at + 1, shift + 7
    if byte < 128:
      return value, at


def check_shard(file: str, count: int) -> None:
  """Refuses a file cut short: ArrayRecord may give empty records for it.

  Raises:
    UserError: it does not hold `count` records.
  """
  try:
    reader = array_record_module.ArrayRecordReader(file)
    found = reader.num_records()
    if in_bucket(file) and not found:
      reader.read([0])  # says why
  except RuntimeError as error:
    raise damaged(file, error) from error
  if found != count:
    raise damaged(file, f'it holds {found} records, not {count}')


def damaged(what: object, why: object) -> UserError:
  """The error for something of a data set that cannot be read."""
  reason = str(why).partition('\n')[0][:200]
  return UserError(
    f'{what} is damaged: {reason}. Put an intact copy back, or prepare the '
    'data set anew with --overwrite'
  )
