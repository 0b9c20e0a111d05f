"""Caffe's binary files: weights (`.caffemodel`) and means (`.binaryproto`).

Protobuf's own parser reads the few fields of caffe.proto that hold weights;
what they say of each other is checked here.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from alexnet_jax.formats.names import Layout
from alexnet_jax.runtime import files
from alexnet_jax.runtime.errors import UserError

LAYOUT = Layout(names={}, parts={'kernel': '/0', 'bias': '/1'}, bgr=True)

# Numbers, types and names of fields; * stands for repeated. Numbers in a row
# are read as the bytes that they are, for NumPy.
_PROTO = {
  'BlobShape': '1 int64* dim',
  # A shape of before 2014: four sizes.
  'BlobProto': '1 int32 num, 2 int32 channels, 3 int32 height, 4 int32 width, '
  '5 bytes* data, 7 BlobShape shape, 8 bytes* double_data',
  'V1LayerParameter': '4 string name, 6 BlobProto* blobs',  # before 2014
  'LayerParameter': '1 string name, 2 string type, 7 BlobProto* blobs',
  'NetParameter': '1 string name, 2 V1LayerParameter* layers, '
  '100 LayerParameter* layer',
}


def _make_messages() -> dict[str, Any]:
  """The classes of `_PROTO`, by name."""
  file = descriptor_pb2.FileDescriptorProto(name='caffe', syntax='proto3')
  kind = descriptor_pb2.FieldDescriptorProto
  for message, fields in _PROTO.items():
    added = file.message_type.add(name=message)
    for field in fields.split(', '):
      number, of, name = field.split()
      repeated, of = of.endswith('*'), of.removesuffix('*')
      new = added.field.add(name=name, number=int(number))
      new.label = kind.LABEL_REPEATED if repeated else kind.LABEL_OPTIONAL
      if of in _PROTO:
        new.type_name = of
      else:
        new.type = kind.Type.Value(f'TYPE_{of.upper()}')
  pool = descriptor_pool.DescriptorPool()
  pool.Add(file)
  return {
    name: message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
    for name in _PROTO
  }


_MESSAGES = _make_messages()


def read_weights(path: epath.Path) -> dict[str, np.ndarray]:
  """Every blob, as 'conv1/0' (weights) and 'conv1/1' (biases), BGR.

  Raises:
    UserError: it is not such a file, or a part of one.
  """
  with _explain(path):
    net = _MESSAGES['NetParameter'].FromString(path.read_bytes())
    arrays: dict[str, np.ndarray] = {}
    for layer in (*net.layers, *net.layer):
      for number, blob in enumerate(layer.blobs):
        name = f'{layer.name}/{number}'
        if name in arrays:
          raise ValueError(f'two layers are called {layer.name}')
        arrays[name] = _read_blob(blob)
    if not arrays:
      raise ValueError('no layer has weights in it')
    return arrays


def read_mean(path: epath.Path) -> np.ndarray:
  """The mean image of a `.binaryproto`: float64 [S, S, 3], RGB."""
  with _explain(path):
    mean = _read_blob(_MESSAGES['BlobProto'].FromString(path.read_bytes()))
    size = mean.shape[-1]
    if mean.size != 3 * size * size:
      raise ValueError(f'a mean of shape {list(mean.shape)}, not [3, S, S]')
    mean = mean.reshape(3, size, size)
    return mean[::-1].transpose(1, 2, 0).astype(np.float64)


def write_weights(
  path: epath.Path, arrays: Mapping[str, np.ndarray], name: str
) -> None:
  """What `read_weights` reads, in the form since 2014."""
  net = _MESSAGES['NetParameter'](name=name)
  for key, array in sorted(arrays.items()):  # weights before biases
    layer, number = key.split('/')
    if number == '0':
      kind = 'Convolution' if layer.startswith('conv') else 'InnerProduct'
      net.layer.add(name=layer, type=kind)
    blob = net.layer[-1].blobs.add(data=[array.astype('<f4').tobytes()])
    blob.shape.dim.extend(array.shape)
  with files.explained(path):
    files.write_atomically(path, net.SerializeToString())


def write_mean(path: epath.Path, mean: np.ndarray) -> None:
  """What `read_mean` reads: a mean image [S, S, 3], RGB."""
  planes = mean.transpose(2, 0, 1)[::-1].astype('<f4')
  blob = _MESSAGES['BlobProto'](data=[planes.tobytes()])
  blob.num, blob.channels, blob.height, blob.width = 1, *planes.shape
  with files.explained(path):
    files.write_atomically(path, blob.SerializeToString())


def _read_blob(blob: Any) -> np.ndarray:
  if blob.double_data:
    raise ValueError('numbers of another type than float32')
  # Four axes always: leading ones stand for axes that are not there.
  shape = [blob.num, blob.channels, blob.height, blob.width]
  while len(shape) > 1 and shape[0] == 1:
    del shape[0]
  if blob.HasField('shape'):
    shape = list(blob.shape.dim)
  elif not any(shape):
    raise ValueError('a blob without a shape')
  if len(shape) > 8:
    raise ValueError(f'a shape of {len(shape)} axes')
  data = b''.join(blob.data)
  if len(data) != 4 * math.prod(shape):
    raise ValueError(f'{len(data) / 4:g} numbers for a shape of {shape}')
  return np.frombuffer(data, '<f4').reshape(shape)


@contextlib.contextmanager
def _explain(path: epath.Path) -> Iterator[None]:
  """Whatever is wrong with a file's bytes as one message."""
  try:
    yield
  except (OSError, ValueError, IndexError, DecodeError) as error:
    raise UserError(
      f"{path} is not a whole file of Caffe's: {error}. Fetch it again"
    ) from error
