"""A network as a program for other systems, run there."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import onnxruntime
import oracle
import pytest
import small_runs
from conftest import max_norm_error
from etils import epath
from flax import traverse_util

from alexnet_jax import library
from alexnet_jax.data import stats
from alexnet_jax.formats import conversion, onnx
from alexnet_jax.formats.names import Network
from configs import caffenet, default, torchvision


def draw(config, crop=67):
  """A small network with drawn weights that all matter."""
  config.augment.crop_size = crop
  config.model.width = 0.05
  rng = np.random.default_rng(0)
  whole = json.loads(config.to_json())
  nothing = stats.of_mean(np.zeros((256, 256, 3)))
  network = Network(whole, {}, tuple('abcdef'), nothing)
  params = {
    name: rng.normal(
      0, (2 / max(1, np.prod(x.shape[1:-1]))) ** 0.5, x.shape
    ).astype(np.float32)
    for name, x in network.shapes().items()
  }
  mean = stats.of_mean(rng.uniform(100, 150, (256, 256, 3)))
  network = dataclasses.replace(network, params=params, statistics=mean)
  return network, library.Model(network)


def pixels(count):
  rng = np.random.default_rng(count)
  return rng.uniform(0, 255, (count, 67, 67, 3)).astype(np.float32)


@pytest.mark.parametrize('config', [default, caffenet, torchvision])
def test_onnxruntime_gives_our_logits(config, tmp_path):
  network, model = draw(config.get_config())
  file = tmp_path / 'net.onnx'
  onnx.write(epath.Path(file), network, model.mean, model.scale)
  session = onnxruntime.InferenceSession(file)
  said = session.get_modelmeta().custom_metadata_map
  assert json.loads(said['class_names']) == list('abcdef')
  for count in (1, 3):
    images = pixels(count)
    (found,) = session.run(['logits'], {'images': images})
    expected = model(images - model.mean)
    assert max_norm_error(found, expected) < 1e-5


def test_a_fresh_process_runs_stablehlo_at_any_batch(tmp_path):
  """Without this package."""
  network, model = draw(default.get_config())
  whole = tmp_path / 'net.safetensors'
  conversion.write(whole, 'safetensors', network)
  file = tmp_path / 'net.stablehlo'
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'alexnet_jax.export', '--format=stablehlo'),
      *(f'--workdir={whole}', f'--file={file}'),
    ],
    cwd=small_runs.ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  code = (
    'import sys, jax, numpy as np\n'
    'from pathlib import Path\n'
    'file, images, logits = sys.argv[1:]\n'
    'program = jax.export.deserialize(bytearray(Path(file).read_bytes()))\n'
    'np.save(logits, program.call(np.load(images)))\n'
    'assert "alexnet_jax" not in sys.modules'
  )
  for count in (1, 3):
    images, logits = pixels(count), tmp_path / f'{count}.npy'
    np.save(tmp_path / 'images.npy', images)
    words = ['-c', code, file, tmp_path / 'images.npy', logits]
    subprocess.run([sys.executable, *words], cwd=tmp_path, check=True)
    expected = model(images - model.mean)
    assert max_norm_error(np.load(logits), expected) < 1e-5


def test_tensorflow_that_is_missing_is_told():
  code = (
    'import sys; sys.modules["tensorflow"] = None\n'
    'from alexnet_jax import export; export.save_tf("net", None)'
  )
  ended = subprocess.run(
    [sys.executable, '-c', code], cwd=small_runs.ROOT, stderr=subprocess.PIPE
  )
  assert b'UserError: --format=tf needs tensorflow' in ended.stderr


def test_tensorflow_gives_our_logits(tmp_path):
  tf = pytest.importorskip('tensorflow', reason='tensorflow is not installed')
  from alexnet_jax import export

  _, model = draw(default.get_config())
  export.save_tf(tmp_path / 'net', model)
  program = tf.saved_model.load(str(tmp_path / 'net'))
  images = pixels(3)
  found = program.logits(images).numpy()
  assert max_norm_error(found, model(images - model.mean)) < 1e-5


def test_onnxruntime_gives_the_papers_formulas(tmp_path):
  """In NumPy. fc6 reads a pool5 of 2x2, where rows are not columns, and the
  share of units that are kept is not the share of those that are dropped."""
  config = default.get_config()
  config.model.dropout = 0.3
  network, _ = draw(config, crop=99)
  rng = np.random.default_rng(3)
  mean = rng.uniform(100, 150, (99, 99, 3)).astype(np.float32)
  images = rng.uniform(0, 255, (2, 99, 99, 3)).astype(np.float32)
  file = tmp_path / 'net.onnx'
  onnx.write(epath.Path(file), network, mean, scale=1.0)
  session = onnxruntime.InferenceSession(file)
  (found,) = session.run(['logits'], {'images': images})
  params = traverse_util.unflatten_dict(network.params, sep='/')
  expected = oracle.forward(params, images - mean, kept=0.7)['fc8']
  assert max_norm_error(found, expected) < 1e-5
