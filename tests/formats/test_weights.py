"""Weights in and out: round trips to the bit, other programs' logits."""

import dataclasses
import json
import os
import subprocess
import sys

import caffe_peer
import numpy as np
import pytest
import safetensors.numpy
import small_runs
from conftest import max_norm_error

import alexnet_jax
from alexnet_jax import library
from alexnet_jax.data import stats
from alexnet_jax.formats import conversion, programs
from alexnet_jax.formats.names import Network, join
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.runtime.writers import read_rows
from alexnet_jax.training import evaluation as evaluate
from alexnet_jax.training import pretrained
from configs import default, torchvision

pytestmark = pytest.mark.usefixtures('cached')


@pytest.fixture(scope='module')
def network():
  """Two small towers with drawn weights."""
  config = default.get_config()
  config.augment.crop_size = 96  # pool5 is 2x2: its rows are not its columns
  config.model.width = 0.05
  rng = np.random.default_rng(5)
  mean = stats.of_mean(rng.uniform(0, 255, (256, 256, 3)))
  network = Network(as_json(config), {}, tuple('abcdef'), mean, step=7)
  params = {
    name: rng.normal(0, 0.1, x.shape).astype(np.float32)
    for name, x in network.shapes().items()
  }
  return dataclasses.replace(network, params=params)


@pytest.fixture(scope='module')
def model(network):
  return library.Model(network)


def as_json(config):
  return json.loads(config.to_json())


def assert_same(a: Network, b: Network) -> None:
  assert a.params.keys() == b.params.keys()
  for name, x in a.params.items():
    assert x.dtype == np.float32 and x.shape == b.params[name].shape, name
    assert x.tobytes() == b.params[name].tobytes(), name
  assert a.class_names == b.class_names
  assert a.config == b.config


# ---- Files of ours.


@pytest.mark.parametrize('form', ['safetensors', 'grouped'])
def test_a_file_of_ours_is_the_network(model, network, tmp_path, form):
  file = tmp_path / 'network.safetensors'
  assert_same(model.network(), network)
  conversion.write(file, form, network)
  assert_same(conversion.read(file, form), network)
  loaded = alexnet_jax.load(file)
  assert loaded.step == 7
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (2, 256, 256, 3), dtype=np.uint8)
  np.testing.assert_array_equal(loaded.predict(images), model.predict(images))
  for name, value in vars(network.statistics).items():
    np.testing.assert_array_equal(vars(loaded.statistics)[name], value)


def test_the_grouped_form_is_the_network_on_one_device(
  model, network, tmp_path
):
  """A program of plain grouped convolutions, from the file alone."""
  file = tmp_path / 'grouped.safetensors'
  conversion.write(file, 'grouped', network)
  arrays = safetensors.numpy.load_file(file)
  rng = np.random.default_rng(1)
  views = rng.normal(0, 50, (2, 96, 96, 3)).astype(np.float32)
  expected = caffe_peer.grouped_forward(
    arrays, views, groups=2, lrn_groups=2, k=2.0, alpha=1e-4, halve=True
  )
  assert max_norm_error(model(views), expected) < 1e-5


def test_the_command_carries_a_run_out_and_in(
  program, reference, config, tmp_path
):
  def weights(*arguments: str) -> str:
    done = subprocess.run(
      [sys.executable, '-m', 'alexnet_jax.weights', *arguments],
      cwd=small_runs.ROOT,
      capture_output=True,
      text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout

  file = f'--file={tmp_path}/network.safetensors'
  out = weights(
    *('export', '--format=safetensors', file),
    *(f'--workdir={reference}', '--checkpoint=18'),
  )
  assert 'has the network of step 18' in out
  hub = tmp_path / 'hub'
  weights(
    *('export', '--format=hub', '--license=mit', f'--file={hub}'),
    *(f'--workdir={reference}', '--checkpoint=18'),
  )
  card = (hub / 'README.md').read_text()
  assert 'license: mit' in card and '# AlexNet trained on pictures' in card
  (row,) = [x for x in read_rows(reference) if 'test/top1_error' in x]
  assert row['step'] == 18
  assert '| test | 11 |' in card and f'| {row["test/loss"]:.3f} |' in card
  names = pretrained.read(hub).params.keys()
  assert names == pretrained.read(reference, 18).params.keys()
  workdir = tmp_path / 'run'
  weights('import', '--format=safetensors', file, f'--workdir={workdir}')
  values = [
    evaluate.evaluate_checkpoint(folder, which, 'test', 1)
    for folder, which in ((reference, 18), (workdir, 'best'))
  ]
  assert values[0] == values[1]
  config.length = '1 step'
  assert 'resuming from step 0' in program(workdir, config).run()
  meta = small_runs.saved(config, workdir)[1]
  began = meta['config']['pretrained']['source']
  assert began == f'{tmp_path}/network.safetensors'
  config.pretrained.source = 'another.safetensors'
  out = program(workdir, config).run(status=2)
  assert f'and the run in {workdir} began with {began}: choose' in out


# ---- torchvision's.


@pytest.fixture(scope='module')
def peer():
  """PyTorch, and the layers of torchvision.models.alexnet, as it starts."""
  torch = pytest.importorskip('torch', reason='a peer: PyTorch is missing')
  nn = torch.nn
  torch.manual_seed(0)

  def conv(*sizes, **options):
    return nn.Conv2d(*sizes, **options), nn.ReLU()

  features = nn.Sequential(
    *conv(3, 64, 11, stride=4, padding=2),
    nn.MaxPool2d(3, 2),
    *conv(64, 192, 5, padding=2),
    nn.MaxPool2d(3, 2),
    *conv(192, 384, 3, padding=1),
    *conv(384, 256, 3, padding=1),
    *conv(256, 256, 3, padding=1),
    nn.MaxPool2d(3, 2),
  )
  classifier = nn.Sequential(
    *(nn.Dropout(), nn.Linear(256 * 6 * 6, 4096), nn.ReLU()),
    *(nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU()),
    nn.Linear(4096, 7),
  )
  alexnet = nn.Sequential()
  alexnet.add_module('features', features)
  alexnet.add_module('flat', nn.Flatten())
  alexnet.add_module('classifier', classifier)
  return torch, alexnet.eval()


@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
def test_torchvisions_weights_give_its_logits(peer, tmp_path, suffix):
  torch, alexnet = peer
  file = tmp_path / f'alexnet.{suffix}'
  state = {name: x.clone() for name, x in alexnet.state_dict().items()}
  if suffix == 'pth':
    torch.save(state, file)
  else:
    arrays = {name: x.numpy() for name, x in state.items()}
    safetensors.numpy.save_file(arrays, file)
  config = as_json(torchvision.get_config())
  network = conversion.read(file, 'torchvision', config=config, classes='7')
  model = library.Model(network)
  rng = np.random.default_rng(6)
  images = rng.integers(0, 256, (2, 256, 256, 3), dtype=np.uint8)
  cut = images[:, 16:240, 16:240] / 255.0
  cut = (cut - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
  with torch.no_grad():
    expected = alexnet.double()(torch.from_numpy(cut.transpose(0, 3, 1, 2)))
  alexnet.float()
  found = model(model.preprocess(images))[0]
  assert max_norm_error(found, expected.numpy()) < 1e-5
  # And back: to the bit, but for conv1's division, which rounds.
  back = tmp_path / f'back.{suffix}'
  conversion.write(back, 'torchvision', network)
  if suffix == 'pth':
    read = torch.load(back, weights_only=True)
    again = {name: x.numpy() for name, x in read.items()}
  else:
    again = safetensors.numpy.load_file(back)
  assert again.keys() == state.keys()
  for name, x in state.items():
    if name == 'features.0.weight':
      np.testing.assert_allclose(again[name], x.numpy(), rtol=2.4e-7)
    else:
      assert again[name].tobytes() == x.numpy().tobytes(), name


def test_two_towers_are_no_torchvision(network, tmp_path):
  with pytest.raises(UserError, match='has one tower without groups'):
    conversion.write(tmp_path / 'a.safetensors', 'torchvision', network)


def test_a_pickle_bomb_is_refused_by_pytorch(peer, tmp_path):
  mark = tmp_path / 'mark'

  class Bomb:
    def __reduce__(self):
      return os.mkdir, (str(mark),)

  config = as_json(torchvision.get_config())
  peer[0].save({'features.0.weight': Bomb()}, tmp_path / 'bomb.pth')
  with pytest.raises(UserError, match='is not a state dict'):
    conversion.read(tmp_path / 'bomb.pth', 'torchvision', config=config)
  assert not mark.exists()


@pytest.mark.parametrize(
  ('scale', 'prefix', 'dtype'),
  [(1.0, '', 'f4'), (0.3, 'module.', 'f4'), (1.0, 'module.', 'f2')],
)
def test_torchvisions_weights_give_its_logits_in_numpy(
  tmp_path, scale, prefix, dtype
):
  """Where PyTorch is missing, too: its weights on its views, and ours on ours.

  On 95 pixels every window fits, so that the peer, which rounds up, has
  torchvision's positions; pool5 is 2x2.
  """
  shapes = {
    'features.0': (4, 3, 11, 11),
    'features.3': (12, 4, 5, 5),
    'features.6': (24, 12, 3, 3),
    'features.8': (16, 24, 3, 3),
    'features.10': (16, 16, 3, 3),
    'classifier.1': (256, 16 * 2 * 2),
    'classifier.4': (256, 256),
    'classifier.6': (6, 256),
  }
  rng = np.random.default_rng(8)
  state, arrays = {}, {}
  ours = (*caffe_peer.GROUPS, 'fc6', 'fc7', 'fc8')
  for (name, shape), layer in zip(shapes.items(), ours, strict=True):
    weight = rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape)
    weight = weight.astype(dtype)
    bias = rng.normal(0, 0.1, shape[0]).astype(dtype)
    name = prefix + name
    state |= {f'{name}.weight': weight, f'{name}.bias': bias}
    turned = weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight.T
    arrays |= {f'{layer}/kernel': turned, f'{layer}/bias': bias}
  file = tmp_path / 'alexnet.safetensors'
  safetensors.numpy.save_file(state, file)
  config = torchvision.get_config()
  config.augment.crop_size, config.model.width = 95, 1 / 16
  config.augment.scale = scale
  plain = as_json(config)
  network = conversion.read(file, 'torchvision', config=plain, classes='6')
  (note,) = programs.describe_torchvision(network)
  assert 'CenterCrop(95) of squares of 256 pixels' in note
  assert '((0.485000, 0.456000, 0.406000), (0.229, 0.224, 0.225))' in note

  def logits(arrays, views, **options):
    padded = np.pad(views, ((0, 0), (2, 2), (2, 2), (0, 0)))
    one = {'groups': 1, 'lrn_groups': 1, 'k': 1.0, 'alpha': 0.0}  # no norm
    return caffe_peer.grouped_forward(arrays, padded, **one, **options)

  views = rng.uniform(0, 255, (1, 95, 95, 3))
  theirs = (views / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
  mine = scale * (views - network.statistics.mean_image[80:175, 80:175])
  found = logits(join(network.params), mine)
  expected = logits(arrays, theirs, channel_first=True)
  assert max_norm_error(found, expected) < 1e-5


def test_caffes_file_has_what_the_paper_does_when_it_tests(network, tmp_path):
  """The halving of §4.2 is in the kernels after it, to the bit; the rest is
  said, and the mean is beside it."""
  file = tmp_path / 'net.caffemodel'
  notes = conversion.write(file, 'caffe', network)
  rng = np.random.default_rng(1)
  views = rng.normal(0, 50, (2, 96, 96, 3)).astype(np.float32)
  blobs = caffe_peer.decode(file.read_bytes())
  expected = caffe_peer.forward(
    blobs, views[..., ::-1], lrn_groups=2, k=2.0, alpha=1e-4
  )
  found = library.Model(network)(views)
  assert max_norm_error(found, expected) < 1e-5
  text = '\n'.join(notes)
  for words in (
    'mean_file: "net.binaryproto" scale: 1 crop_size: 96',
    'local_size: 5 alpha: 0.0005 beta: 0.75 k: 2',
    'Slice its maps in 2, LRN each, Concat',
    "conv1 has 23 places a side here, and Caffe's 22: pad",
  ):
    assert words in text
  again = conversion.read(
    file,
    'caffe',
    config=network.config,
    classes='6',
    mean=str(tmp_path / 'net.binaryproto'),
  )
  for name, x in network.params.items():
    assert again.params[name].tobytes() == x.tobytes(), name
  mean = network.statistics.mean_image
  np.testing.assert_array_equal(
    again.statistics.mean_image, mean.astype(np.float32)
  )
  config = json.loads(json.dumps(network.config))
  config['augment']['mean'] = 'none'
  with pytest.raises(UserError, match="mean='none' would forget it"):
    conversion.read(file, 'caffe', config=config, classes='6', mean='1,2,3')
