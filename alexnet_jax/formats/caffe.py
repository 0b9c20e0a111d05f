"""Caffe's binary files: weights (`.caffemodel`) and means (`.binaryproto`).

Protocol buffers, read by a reader of the few fields that hold numbers: every
length is held against the bytes that are there before it is believed.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from alexnet_jax.formats.names import Layout
from alexnet_jax.runtime import files
from alexnet_jax.runtime.errors import UserError

LAYOUT = Layout(names={}, parts={'kernel': '/0', 'bias': '/1'}, bgr=True)

# Numbers of the fields in caffe.proto: what a layer, its name and its blobs
# are, first as in 2014 (V1LayerParameter), then as since.
_LAYERS = {2: (4, 6), 100: (1, 7)}
_SHAPE, _DATA, _DIFF, _LEGACY = 7, 5, 6, (1, 2, 3, 4)
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def read_weights(path: epath.Path) -> dict[str, np.ndarray]:
  """Every blob, as 'conv1/0' (weights) and 'conv1/1' (biases), BGR.

  Raises:
    UserError: it is not such a file, or a part of one.
  """
  with _explained(path):
    blobs: dict[str, np.ndarray] = {}
    for field, value in _fields(memoryview(path.read_bytes())):
      if field not in _LAYERS or not isinstance(value, memoryview):
        continue
      name_field, blob_field = _LAYERS[field]
      parts = list(_fields(value))
      names = [_text(part) for f, part in parts if f == name_field]
      found = [part for f, part in parts if f == blob_field]
      for number, blob in enumerate(found):
        name = f'{names[-1]}/{number}'
        if name in blobs:
          raise ValueError(f'two layers are called {names[-1]}')
        blobs[name] = _read_blob(blob)
    if not blobs:
      raise ValueError('no layer has weights in it')
    return blobs


def read_mean(path: epath.Path) -> np.ndarray:
  """The mean image of a `.binaryproto`: float64 [S, S, 3], RGB."""
  with _explained(path):
    mean = _read_blob(memoryview(path.read_bytes()))
    size = mean.shape[-1]
    if mean.size != 3 * size * size:
      raise ValueError(f'a mean of shape {list(mean.shape)}, not [3, S, S]')
    mean = mean.reshape(3, size, size)
    return mean[::-1].transpose(1, 2, 0).astype(np.float64)


def write_weights(
  path: epath.Path, arrays: Mapping[str, np.ndarray], name: str
) -> None:
  """What `read_weights` reads, in the form since 2014."""
  layers: dict[str, bytes] = {}
  for key, array in sorted(arrays.items()):  # weights before biases
    layer = key.split('/')[0]
    start = _message(1, layer.encode()) + _message(
      2, b'Convolution' if layer.startswith('conv') else b'InnerProduct'
    )
    shape = _message(1, b''.join(map(_varint, array.shape)))
    data = np.ascontiguousarray(array, '<f4').tobytes()
    blob = _message(_SHAPE, shape) + _message(_DATA, data)
    layers[layer] = layers.get(layer, start) + _message(7, blob)
  content = [_message(1, name.encode())]
  content += [_message(100, layer) for layer in layers.values()]
  with files.explained(path):
    files.write_atomically(path, b''.join(content))


def _read_blob(blob: Any) -> np.ndarray:
  if not isinstance(blob, memoryview):
    raise ValueError('weights are not where they should be')
  shape, legacy, data = None, dict.fromkeys(_LEGACY, 1), []
  old = False
  for field, value in _fields(blob):
    if field == _SHAPE:
      shape = _read_shape(value)
    elif field == _DATA and isinstance(value, memoryview):
      data.append(value)
    elif field in _LEGACY and isinstance(value, int):
      legacy[field], old = value, True
    elif field > _SHAPE:
      raise ValueError('numbers of another type than float32')
  if shape is None:
    if not old:
      raise ValueError('a blob without a shape')
    # Four axes always: leading ones stand for axes that are not there.
    shape = tuple(legacy[field] for field in _LEGACY)
    while len(shape) > 1 and shape[0] == 1:
      shape = shape[1:]
  count = sum(map(len, data)) // 4
  wanted = 1
  for size in shape:
    wanted *= size  # Python's integers: no overflow
  if any(len(part) % 4 for part in data) or count != wanted:
    raise ValueError(f'{count} numbers for a shape of {list(shape)}')
  joined = data[0] if len(data) == 1 else b''.join(data)
  return np.frombuffer(joined, '<f4').reshape(shape)


def _text(value: Any) -> str:
  if not isinstance(value, memoryview):
    raise ValueError('a number where a name should be')
  return bytes(value[:200]).decode()


def _read_shape(value: Any) -> tuple[int, ...]:
  sizes: list[int] = []
  for field, part in _fields(value):
    if field == 1 and isinstance(part, int):
      sizes.append(part)
    elif field == 1 and isinstance(part, memoryview) and len(part) <= 64:
      position = 0
      while position < len(part):
        size, position = _read_varint(part, position)
        sizes.append(size)
  if len(sizes) > 8:
    raise ValueError(f'a shape of {len(sizes)} axes')
  return tuple(sizes)


def _fields(data: Any) -> Iterator[tuple[int, int | memoryview]]:
  """(number, value) of each field of a message; numbers that are not varints,
  and submessages, are memoryviews."""
  if not isinstance(data, memoryview):
    raise ValueError('a number where a message should be')
  position = 0
  while position < len(data):
    key, position = _read_varint(data, position)
    field, kind = key >> 3, key & 7
    if kind == _VARINT:
      value, position = _read_varint(data, position)
      yield field, value
      continue
    if kind == _BYTES:
      length, position = _read_varint(data, position)
    elif kind in (_FIXED32, _FIXED64):
      length = 4 if kind == _FIXED32 else 8
    else:
      raise ValueError(f'a field of kind {kind} at byte {position}')
    if not field or length > len(data) - position:
      raise ValueError(
        f'{length} bytes announced at byte {position} of {len(data)}'
      )
    yield field, data[position : position + length]
    position += length


def _read_varint(data: memoryview, position: int) -> tuple[int, int]:
  value = 0
  for shift in range(0, 70, 7):
    if position >= len(data):
      raise ValueError('it ends in the middle of a number')
    byte = data[position]
    position += 1
    value |= (byte & 127) << shift
    if byte < 128:
      return value, position
  raise ValueError(f'a number without end at byte {position}')


def _varint(value: int) -> bytes:
  out = bytearray()
  while value > 127:
    out.append(value & 127 | 128)
    value >>= 7
  return bytes([*out, value])


def _message(field: int, content: bytes) -> bytes:
  return _varint(field << 3 | _BYTES) + _varint(len(content)) + content


@contextlib.contextmanager
def _explained(path: epath.Path) -> Iterator[None]:
  """Whatever is wrong with a file's bytes as one message."""
  try:
    yield
  except (OSError, ValueError, IndexError) as error:
    raise UserError(
      f"{path} is not a whole file of Caffe's: {error}. Fetch it again"
    ) from error
