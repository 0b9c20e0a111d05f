"""Caffe's files in and out: to the bit, and its logits."""

import dataclasses

import caffe_peer
import numpy as np
import pytest
from conftest import max_norm_error
from test_weights import as_json, assert_same

from alexnet_jax import library
from alexnet_jax.data import stats
from alexnet_jax.formats import conversion
from alexnet_jax.formats.names import Network
from configs import caffe_alexnet, caffenet

pytestmark = pytest.mark.usefixtures('cached')


def small(config):
  """A tenth of the width, on views of 99 pixels, whose pool5 is 2x2."""
  config.augment.crop_size = 99
  config.model.width = 0.1
  return as_json(config)


@pytest.fixture(scope='module')
def caffe_config():
  return small(caffe_alexnet.get_config())


@pytest.fixture(scope='module')
def blobs(caffe_config):
  """Weights as Caffe has them, drawn by shape."""
  return caffe_peer.draw_blobs(width=0.1, classes=6, crop=99)


@pytest.mark.parametrize(
  ('config', 'old'),
  [(caffe_alexnet, True), (caffe_alexnet, False), (caffenet, True)],
)
def test_caffes_file_gives_caffes_logits(config, blobs, tmp_path, old):
  """So large that normalization matters, across the towers' border, too."""
  blobs = {**blobs, 'conv1/0': blobs['conv1/0'] * np.float32(20)}
  file = tmp_path / 'net.caffemodel'
  file.write_bytes(caffe_peer.encode(blobs, old))
  network = conversion.read(
    file, 'caffe', config=small(config.get_config()), classes='6'
  )
  model = library.Model(network)
  rng = np.random.default_rng(2)
  image = rng.integers(0, 256, (1, 256, 256, 3), dtype=np.uint8)
  low = (256 - 99) // 2
  crop = image[:, low : low + 99, low : low + 99].astype(np.float64)
  bgr = crop[..., ::-1] - np.array([104.00698793, 116.66876762, 122.67891434])
  expected = caffe_peer.forward(blobs, bgr, pool_first=config is caffenet)
  assert max_norm_error(model(model.preprocess(image))[0], expected) < 1e-5


def test_caffes_files_come_back_to_the_bit(caffe_config, blobs, tmp_path):
  """Ours is read by protobuf's own runtime."""
  first, second = tmp_path / 'a.caffemodel', tmp_path / 'b.caffemodel'
  first.write_bytes(caffe_peer.encode(blobs, old=True))
  network = conversion.read(first, 'caffe', config=caffe_config, classes='6')
  conversion.write(second, 'caffe', network)
  found = caffe_peer.decode(second.read_bytes())
  assert found.keys() == blobs.keys()
  for name, x in blobs.items():
    assert x.shape == found[name].shape and x.tobytes() == found[name].tobytes()
  again = conversion.read(second, 'caffe', config=caffe_config, classes='6')
  assert_same(again, network)


def test_caffes_mean_image_is_turned_to_rgb(caffe_config, blobs, tmp_path):
  rng = np.random.default_rng(3)
  bgr = rng.uniform(0, 255, (3, 256, 256)).astype(np.float32)
  (tmp_path / 'mean.binaryproto').write_bytes(caffe_peer.encode_blob(bgr))
  file = tmp_path / 'net.caffemodel'
  file.write_bytes(caffe_peer.encode(blobs, old=True))
  network = conversion.read(
    file,
    'caffe',
    config=caffe_config,
    classes='6',
    mean=str(tmp_path / 'mean.binaryproto'),
  )
  mean = network.statistics.mean_image
  for channel in range(3):
    np.testing.assert_array_equal(mean[..., channel], bgr[2 - channel])


def test_what_caffe_does_as_we_do_needs_no_words(tmp_path):
  config = caffe_alexnet.get_config()
  config.model.width = 0.05
  config.augment.update({'mean': 'none', 'scale': 0.5})
  nothing = stats.of_mean(np.zeros((256, 256, 3)))
  network = Network(as_json(config), {}, tuple('abcdef'), nothing)
  params = {n: np.zeros(x.shape, 'f4') for n, x in network.shapes().items()}
  network = dataclasses.replace(network, params=params)
  assert conversion.write(tmp_path / 'x.caffemodel', 'caffe', network) == [
    'transform_param { scale: 0.5 crop_size: 227 }',
    'lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 k: 1 }',
  ]
  assert [path.name for path in tmp_path.iterdir()] == ['x.caffemodel']
