"""Weight files that are not what they say: one message each, nothing run."""

import dataclasses
import json
import os
import pickle
import struct
import subprocess
import sys

import caffe_peer
import numpy as np
import pytest
import safetensors.numpy
import small_runs

from alexnet_jax.data import stats
from alexnet_jax.formats import conversion
from alexnet_jax.formats.names import Network
from alexnet_jax.runtime.errors import UserError
from configs import default, torchvision

CLASSES = 6


@pytest.fixture(scope='module')
def config():
  config = default.get_config()
  config.augment.crop_size = 67
  config.model.width = 0.05
  return json.loads(config.to_json())


@pytest.fixture(scope='module')
def blobs():
  return caffe_peer.draw_blobs(width=0.05, classes=CLASSES, crop=67)


@pytest.fixture(scope='module')
def ours(config, tmp_path_factory):
  """A whole file of ours, as bytes."""
  mean = stats.of_mean(np.zeros((256, 256, 3)))
  network = Network(config, {}, tuple('abcdef'), mean)
  params = {
    n: np.ones(x.shape, np.float32) for n, x in network.shapes().items()
  }
  network = dataclasses.replace(network, params=params)
  file = tmp_path_factory.mktemp('ours') / 'whole.safetensors'
  conversion.write(file, 'safetensors', network)
  return file.read_bytes()


class Bomb:
  """Unpickled, it makes a file."""

  def __init__(self, mark):
    self.mark = str(mark)

  def __reduce__(self):
    return os.mkdir, (self.mark,)


def refuse(tmp_path, data, form, config, message, name='file.bin'):
  """Reading `data` is one message, and leaves nothing."""
  file = tmp_path / name
  file.write_bytes(data)
  with pytest.raises(UserError, match=message):
    conversion.read(file, form, config=config, classes=str(CLASSES))
  assert [path.name for path in tmp_path.iterdir()] == [name]


def varint(value):
  out = []
  while value > 127:
    out.append(value & 127 | 128)
    value >>= 7
  return bytes([*out, value])


def field(number, content):
  """A submessage."""
  return varint(number << 3 | 2) + varint(len(content)) + content


def layer(*blobs, name=b'conv1'):
  return field(100, field(1, name) + b''.join(field(7, b) for b in blobs))


ONE = field(5, struct.pack('<f', 1.0))  # a blob's data: one number
CAFFE = {
  'empty': (b'', 'no layer has weights'),
  'text': (b'I am a text file, not a network.\n', 'not a whole file'),
  'a pickle': (pickle.dumps({'conv1': [1.0]}), 'not a whole file'),
  'more bytes announced than there are': (
    varint(100 << 3 | 2) + varint(2**40) + b'ab',
    'not a whole file',
  ),
  'a number without end': (varint(100 << 3 | 2) + b'\xff' * 12, 'not a whole'),
  'a group, which caffe.proto has not': (b'\x0b\x0c', 'no layer has weights'),
  'a huge shape': (
    layer(field(7, field(1, varint(2**40) * 3)) + ONE),
    'numbers for a shape of',
  ),
  'a shape of many axes': (
    layer(field(7, field(1, b'\x01' * 40)) + ONE),
    'a shape of 40 axes',
  ),
  'a huge shape of the old form': (
    layer(b''.join(varint(i << 3) + varint(2**31) for i in (1, 2, 3, 4)) + ONE),
    '1 numbers for a shape of',
  ),
  'half a number': (
    layer(field(7, field(1, b'\x01')) + field(5, b'\x00\x00')),
    'numbers for a shape',
  ),
  'no shape': (layer(ONE), 'a blob without a shape'),
  'doubles': (
    layer(field(7, field(1, b'\x01')) + field(8, b'\x00' * 8)),
    'another type than float32',
  ),
  'two layers of a name': (
    layer(field(7, field(1, b'\x01')) + ONE) * 2,
    'two layers are called conv1',
  ),
  'a name that is no text': (
    layer(field(7, field(1, b'\x01')) + ONE, name=b'\xff\xfe'),
    'not a whole file',
  ),
  'a number for a layer': (varint(100 << 3) + b'\x05', 'no layer has weights'),
  'a number for a blob': (
    field(100, field(1, b'conv1') + varint(7 << 3) + b'\x05'),
    'no layer has weights',
  ),
  'another network': (
    layer(field(7, field(1, b'\x01')) + ONE),
    r'another network: conv1/0 is \[1\], not \[4, 3, 11, 11\]; conv1/1 is mis',
  ),
}


@pytest.mark.parametrize('kind', CAFFE)
def test_a_malformed_file_of_caffe_is_told(config, tmp_path, kind):
  data, message = CAFFE[kind]
  refuse(tmp_path, data, 'caffe', config, message)


@pytest.mark.parametrize('end', [1, 0.5, 5, 100_000])
def test_half_a_file_of_caffe_is_told(config, blobs, tmp_path, end):
  data = caffe_peer.encode(blobs, old=True)
  cut = data[: int(len(data) * end) if isinstance(end, float) else -end]
  refuse(tmp_path, cut, 'caffe', config, 'not a whole file|another network')


def test_every_flipped_byte_of_a_small_file_is_told_or_read(config, tmp_path):
  """Nothing but a UserError comes out, whichever byte is wrong."""
  data = layer(field(7, field(1, b'\x01')) + ONE, name=b'conv1')
  for position in range(len(data)):
    for value in (0, 1, 127, 128, 255):
      bad = data[:position] + bytes([value]) + data[position + 1 :]
      refuse(tmp_path, bad, 'caffe', config, '.')


def test_numbers_that_are_not_finite_are_told(config, blobs, tmp_path):
  bad = {**blobs, 'fc7/0': blobs['fc7/0'] * np.float32(np.nan)}
  data = caffe_peer.encode(bad, old=False)
  refuse(tmp_path, data, 'caffe', config, 'fc7/kernel has numbers that are not')


# ---- Safetensors.


def changed(data, change):
  """A file of ours with another header, which `change` changes in place."""
  (length,) = struct.unpack('<Q', data[:8])
  header = json.loads(data[8 : 8 + length])
  change(header)
  text = json.dumps(header).encode()
  return struct.pack('<Q', len(text)) + text + data[8 + length :]


def other_model(**fields):
  def change(header):
    config = json.loads(header['__metadata__']['config'])
    config['model'].update(fields)
    header['__metadata__']['config'] = json.dumps(config)

  return lambda data: changed(data, change)


def meta(**fields):
  return lambda data: changed(data, lambda h: h['__metadata__'].update(fields))


def array(name, **fields):
  return lambda data: changed(data, lambda h: h[name].update(fields))


OURS = {
  'empty': (lambda data: b'', 'not a whole safetensors'),
  'half': (lambda data: data[: len(data) // 2], 'not a whole safetensors'),
  'a byte short': (lambda data: data[:-1], 'not a whole safetensors'),
  'a byte long': (lambda data: data + b'\x00', 'not a whole safetensors'),
  'a huge header': (
    lambda data: struct.pack('<Q', 2**62) + data[8:],
    'not a whole safetensors',
  ),
  'a pickle': (lambda data: pickle.dumps([1]), 'not a whole safetensors'),
  'a huge shape': (
    array('fc6/kernel', shape=[2**40, 2**40]),
    'not a whole safetensors',
  ),
  'numbers beyond the end': (
    array('fc8/bias', data_offsets=[2**40, 2**40 + 24]),
    'not a whole safetensors',
  ),
  'no configuration': (
    lambda data: safetensors.numpy.save({'a': np.zeros(3)}),
    'no configuration of ours',
  ),
  'another format': (
    meta(format_version='3'),
    'is of format 3, and this program reads format 2: export it anew',
  ),
  'a file of before there were versions': (
    lambda data: changed(
      data, lambda h: h['__metadata__'].pop('format_version')
    ),
    'is of format 1, and',
  ),
  'a configuration that is no JSON': (meta(config='{'), 'the header of'),
  'a configuration of nothing': (meta(config='{}'), 'the header of'),
  'a form there is not': (meta(form='circles'), "a form 'circles'"),
  'classes that are no names': (meta(class_names='[1, 2]'), 'the header of'),
  'fewer classes': (meta(class_names='["a"]'), 'of another network: fc8/bias'),
  'a huge network': (other_model(width=100), 'of another network: conv1/bias'),
  'no towers': (other_model(towers=0), 'the header of'),
  'a number for a table': (other_model(lrn=3), 'the header of'),
  'another name': (
    lambda data: changed(data, lambda h: h.update(x=h.pop('fc8/bias'))),
    'fc8/bias is missing',
  ),
  'no mean': (
    lambda data: changed(
      data, lambda h: h.update(x=h.pop('statistics/mean_image'))
    ),
    'x is .*not expected',
  ),
  'whole numbers': (array('fc8/bias', dtype='I32'), 'fc8/bias is I32'),
}


@pytest.mark.parametrize('kind', OURS)
def test_a_malformed_file_of_ours_is_told(ours, config, tmp_path, kind):
  change, message = OURS[kind]
  refuse(tmp_path, change(ours), 'safetensors', None, message)


# ---- Pickles.


def test_a_pickle_bomb_does_not_go_off(tmp_path):
  config = json.loads(torchvision.get_config().to_json())
  mark = tmp_path / 'mark'
  data = pickle.dumps({'features.0.weight': Bomb(mark)})
  for name in ('bomb.pth', 'bomb.safetensors'):
    folder = tmp_path / name.replace('.', '_')
    folder.mkdir()
    refuse(
      folder, data, 'torchvision', config, 'bomb.*(pickle|not a )', name=name
    )
  assert not mark.exists()
  with pytest.raises(AttributeError):  # it would have gone off
    pickle.loads(data).x  # noqa: B018
  assert mark.exists()


def test_the_command_refuses_in_one_message(tmp_path):
  file = tmp_path / 'net.caffemodel'
  file.write_bytes(b'\xff' * 50)
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'alexnet_jax.weights', 'import'),
      *('--format=caffe', '--config=configs/imagenet2012.py'),
      *(f'--file={file}', f'--workdir={tmp_path}/run'),
    ],
    cwd=small_runs.ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 2
  assert done.stderr.startswith(f'error: {file} is not a whole file of Caffe')
  assert done.stderr.count('\n') == 1
  assert not (tmp_path / 'run').exists()
