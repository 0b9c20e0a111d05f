"""Caffe's AlexNet without our code: its files by protobuf's own runtime, from
the published layout of caffe.proto, and its arithmetic in float64."""

import numpy as np
import oracle
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

GROUPS = {'conv1': 1, 'conv2': 2, 'conv3': 1, 'conv4': 2, 'conv5': 2}
_STRIDE = {'conv1': 4}
_PAD = {'conv2': 2, 'conv3': 1, 'conv4': 1, 'conv5': 1}


def _messages():
  """NetParameter and BlobProto, the fields that hold weights."""
  file = descriptor_pb2.FileDescriptorProto(
    name='caffe_test.proto', package='caffe', syntax='proto2'
  )
  kinds = descriptor_pb2.FieldDescriptorProto

  def message(name, *fields):
    added = file.message_type.add(name=name)
    for field, number, kind, repeated, packed in fields:
      new = added.field.add(
        name=field,
        number=number,
        label=kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL,
      )
      if isinstance(kind, str):
        new.type, new.type_name = kinds.TYPE_MESSAGE, f'.caffe.{kind}'
      else:
        new.type = kind
      if packed:
        new.options.packed = True

  text, integer = kinds.TYPE_STRING, kinds.TYPE_INT32
  message('BlobShape', ('dim', 1, kinds.TYPE_INT64, True, True))
  message(
    'BlobProto',
    ('num', 1, integer, False, False),
    ('channels', 2, integer, False, False),
    ('height', 3, integer, False, False),
    ('width', 4, integer, False, False),
    ('data', 5, kinds.TYPE_FLOAT, True, True),
    ('shape', 7, 'BlobShape', False, False),
  )
  message(
    'LayerParameter',
    ('name', 1, text, False, False),
    ('type', 2, text, False, False),
    ('bottom', 3, text, True, False),
    ('blobs', 7, 'BlobProto', True, False),
  )
  message(
    'V1LayerParameter',
    ('bottom', 2, text, True, False),
    ('name', 4, text, False, False),
    ('type', 5, integer, False, False),
    ('blobs', 6, 'BlobProto', True, False),
    ('blobs_lr', 7, kinds.TYPE_FLOAT, True, False),
  )
  message(
    'NetParameter',
    ('name', 1, text, False, False),
    ('layers', 2, 'V1LayerParameter', True, False),
    ('layer', 100, 'LayerParameter', True, False),
  )
  pool = descriptor_pool.DescriptorPool()
  pool.Add(file)
  return {
    name: message_factory.GetMessageClass(
      pool.FindMessageTypeByName(f'caffe.{name}')
    )
    for name in ('NetParameter', 'BlobProto')
  }


_MESSAGES = _messages()


def _fill(blob, array, old):
  blob.data.extend(array.ravel().tolist())
  if old:
    sizes = (1,) * (4 - array.ndim) + array.shape
    blob.num, blob.channels, blob.height, blob.width = sizes
  else:
    blob.shape.dim.extend(array.shape)


def encode_blob(array) -> bytes:
  """A .binaryproto."""
  blob = _MESSAGES['BlobProto']()
  _fill(blob, array, old=True)
  return blob.SerializeToString()


def encode(blobs, old: bool) -> bytes:
  """A .caffemodel of {'conv1/0': array, ...}; `old`: as of before 2014."""
  net = _MESSAGES['NetParameter'](name='CaffeNet')
  layers = list(dict.fromkeys(name.split('/')[0] for name in blobs))
  for name in ['data', *layers, 'prob']:  # layers without weights, too
    layer = net.layers.add() if old else net.layer.add()
    layer.name = name
    layer.bottom.append('below')
    if old:
      layer.type = 4
      layer.blobs_lr.extend([1.0, 2.0])
    for key in (f'{name}/0', f'{name}/1'):
      if key in blobs:
        _fill(layer.blobs.add(), blobs[key], old)
  return net.SerializeToString()


def decode(data: bytes):
  """What `encode` was given, of a file without `old`."""
  net = _MESSAGES['NetParameter'].FromString(data)
  return {
    f'{layer.name}/{i}': np.array(blob.data, np.float32).reshape(
      tuple(blob.shape.dim)
    )
    for layer in net.layer
    for i, blob in enumerate(layer.blobs)
  }


def draw_blobs(width: float, classes: int, crop: int):
  """Random weights of Caffe's shapes: [out, in of a group, k, k], [out, in]."""
  rng = np.random.default_rng(4)
  sizes = [2 * round(n * width) for n in (48, 128, 192, 192, 128, 2048, 2048)]
  kernels = {'conv1': 11, 'conv2': 5, 'conv3': 3, 'conv4': 3, 'conv5': 3}
  blobs, fan_in, side = {}, 3, crop
  for (name, k), out in zip(kernels.items(), sizes, strict=False):
    shape = (out, fan_in // GROUPS[name], k, k)
    blobs[f'{name}/0'] = rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape)
    blobs[f'{name}/1'] = rng.normal(0, 0.1, out)
    fan_in = out
    pad, stride = _PAD.get(name, 0), _STRIDE.get(name, 1)
    side = (side + 2 * pad - k) // stride + 1
    if name in ('conv1', 'conv2', 'conv5'):
      side = 1 + -(-(side - 3) // 2)
  fan_in *= side * side
  units = (*sizes[5:], classes)
  for name, out in zip(('fc6', 'fc7', 'fc8'), units, strict=True):
    blobs[f'{name}/0'] = rng.normal(0, fan_in**-0.5, (out, fan_in))
    blobs[f'{name}/1'] = rng.normal(0, 0.1, out)
    fan_in = out
  return {name: x.astype(np.float32) for name, x in blobs.items()}


def forward(blobs, bgr, lrn_groups=1, pool_first=False, k=1.0, alpha=1e-4 / 5):
  """Caffe's logits of [B, S, S, 3] in BGR: bvlc_alexnet.prototxt, or, with
  `pool_first`, that of CaffeNet.

  Args:
    lrn_groups: 1 as Caffe, which normalizes over the maps of both groups.
    k: of the normalization.
    alpha: of it, times the plain sum.
  """
  arrays = {}
  for name, x in blobs.items():
    layer, part = name.split('/')
    if part == '1':
      arrays[f'{layer}/bias'] = x
    elif x.ndim == 4:
      arrays[f'{layer}/kernel'] = x.transpose(2, 3, 1, 0)
    else:
      arrays[f'{layer}/kernel'] = x.T
  return grouped_forward(
    *(arrays, bgr),
    groups=2,
    lrn_groups=lrn_groups,
    k=k,
    alpha=alpha,
    channel_first=True,
    pool_first=pool_first,
  )


def grouped_forward(
  arrays,
  x,
  *,
  groups,
  lrn_groups,
  k,
  alpha,
  halve=False,
  channel_first=False,
  pool_first=False,
):
  """A program of grouped convolutions on one device, in float64.

  Args:
    arrays: conv [k, k, in of a group, out], fc [in, out].
    x: [B, S, S, 3].
    groups: of conv2, conv4 and conv5.
    lrn_groups: parts of the maps that are normalized each by itself.
    k: of the normalization.
    alpha: of it, times the plain sum.
    halve: units of fc6 and fc7 (dropout of §4.2).
    channel_first: how fc6 reads the maps.
    pool_first: before normalization.
  """

  def normalized(x):
    parts = np.split(x, lrn_groups, axis=-1)
    return np.concatenate(
      [oracle.lrn(p, k=k, alpha=alpha) for p in parts], axis=-1
    )

  for name in GROUPS:
    kernel, bias = arrays[f'{name}/kernel'], arrays[f'{name}/bias']
    number = groups if GROUPS[name] == 2 else 1
    x = np.concatenate(
      [
        oracle.conv(a, b, c, _STRIDE.get(name, 1), _PAD.get(name, 0))
        for a, b, c in zip(
          np.split(x, number, axis=-1),
          np.split(kernel, number, axis=-1),
          np.split(bias, number),
          strict=True,
        )
      ],
      axis=-1,
    )
    x = np.maximum(x, 0)
    if name in ('conv1', 'conv2'):
      x = oracle.max_pool(x) if pool_first else normalized(x)
      x = normalized(x) if pool_first else oracle.max_pool(x)
    elif name == 'conv5':
      x = oracle.max_pool(x)
  x = x.transpose(0, 3, 1, 2) if channel_first else x
  x = x.reshape(len(x), -1)
  for name in ('fc6', 'fc7', 'fc8'):
    x = x @ arrays[f'{name}/kernel'].astype(np.float64) + arrays[f'{name}/bias']
    if name != 'fc8':
      x = np.maximum(x, 0) * (0.5 if halve else 1)
  return x
