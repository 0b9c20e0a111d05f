"""A network as a folder of a hub: read by JAX, by PyTorch, and through the
cache of huggingface_hub; and its card."""

import dataclasses
import errno
import functools
import http.server
import json
import re
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import small_runs
from conftest import max_norm_error
from etils import epath

import alexnet_jax
from alexnet_jax.data import stats
from alexnet_jax.formats import conversion, hub
from alexnet_jax.formats.names import Network
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training import card, pretrained
from configs import default, finetune, imagenet2012_large_batch, torchvision


def drawn(config, classes='abcdef', seed=0):
  """A network with weights that let signals differ, and odd statistics."""
  plain = json.loads(config.to_json())
  rng = np.random.default_rng(seed)
  mean = stats.of_mean(rng.uniform(0, 255, (256, 256, 3)))
  network = Network(plain, {}, tuple(classes), mean, step=7)
  params = {}
  for name, x in network.shapes().items():
    fan_in = np.prod(x.shape[1:-1]) or 1
    params[name] = (
      rng.uniform(0.5, 2, x.shape)
      if name.endswith(('/var', '/scale'))
      else rng.normal(0, (2 / fan_in) ** 0.5, x.shape)
    ).astype(np.float32)
  return dataclasses.replace(network, params=params)


def small(config, **fields):
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.model.width, config.augment.crop_size = 0.05, 96
    config.update_from_flattened_dict(fields)
  return config


NETWORKS = {
  'paper': lambda: small(default.get_config()),
  'inverted, by RGB': lambda: small(
    default.get_config(),
    **{
      'model.dropout_form': 'inverted',
      'model.lrn.alpha_over': 'mean',
      'model.lrn.across_towers': True,
      'model.fc7.reads': 'own',
      'augment.mean': 'rgb',
      'augment.scale': 0.25,
    },
  ),
  'batch normalization': lambda: small(imagenet2012_large_batch.get_config()),
  'one tower': lambda: small(torchvision.get_config()),
}


@pytest.mark.parametrize('kind', NETWORKS)
def test_jax_and_pytorch_have_the_same_logits(kind, tmp_path, monkeypatch):
  """The page's program in PyTorch, and the folder read by JAX."""
  torch = pytest.importorskip('torch', reason='a peer: PyTorch is missing')
  network = drawn(NETWORKS[kind]())
  hub.write(tmp_path / 'mine', network, 'a card')
  text = (small_runs.ROOT / 'docs/pytorch.md').read_text()
  (block,) = re.findall(r'```python\n(.*?)```', text, re.DOTALL)
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', list(sys.path))
  names: dict = {}
  exec(compile(block, 'docs/pytorch.md', 'exec'), names)
  del sys.modules['alexnet_torch']
  rng = np.random.default_rng(1)
  images = rng.integers(0, 256, (3, 256, 256, 3), dtype=np.uint8)
  net = names['net']
  with torch.no_grad():
    found = net(net.preprocess(torch.from_numpy(images))).numpy()
  model = alexnet_jax.load(tmp_path / 'mine')
  assert net.class_names == list(model.class_names) == list('abcdef')
  expected = np.asarray(model(model.preprocess(images))[0])
  # Units of every image differ, so no part of a layer can be left out unseen.
  assert np.ptp(expected) > 1e-3 and np.ptp(expected, axis=0).min() > 0
  assert max_norm_error(found, expected) < 1e-5


@pytest.fixture(scope='module')
def network():
  return drawn(small(default.get_config()))


@pytest.fixture(scope='module')
def folder(network, tmp_path_factory):
  path = tmp_path_factory.mktemp('hub') / 'mine'
  hub.write(path, network, 'a card')
  return path


def test_the_folder_is_the_network(network, folder):
  assert {path.name for path in folder.iterdir()} == {
    *('README.md', 'config.json', 'preprocessor_config.json'),
    *('model.safetensors', 'alexnet_torch.py'),
  }
  about = json.loads((folder / 'config.json').read_text())
  assert about['id2label'] == dict(zip('012345', 'abcdef', strict=True))
  found = pretrained.read(folder)
  assert found.params.keys() == network.params.keys()
  for name, x in network.params.items():
    assert found.params[name].tobytes() == x.tobytes(), name
  assert (found.step, found.config) == (7, network.config)
  assert conversion.read(folder, 'hub').params.keys() == found.params.keys()
  # What `configs/finetune.py:FOLDER` asks for.
  config = finetune.get_config(str(folder))
  assert config.model.width == 0.05 and config.augment.crop_size == 96
  np.testing.assert_array_equal(
    pretrained.read(folder).statistics.mean_image,
    network.statistics.mean_image,
  )


def test_a_folder_with_something_in_it_is_left_alone(network, tmp_path):
  (tmp_path / 'note').write_text('mine')
  with pytest.raises(UserError, match='is not empty: choose another --file'):
    hub.write(tmp_path, network, 'a card')
  assert [path.name for path in tmp_path.iterdir()] == ['note']


def test_a_disk_that_is_full_leaves_a_folder_to_write_to(
  network, tmp_path, monkeypatch
):
  write, full = Path.write_bytes, OSError(errno.ENOSPC, 'No space left')

  def fail(path, data):
    write(path, data[:9])
    if 'safetensors' in path.name:
      raise full

  with monkeypatch.context() as patch:
    patch.setattr(type(epath.Path(tmp_path)), 'write_bytes', fail)
    with pytest.raises(UserError, match='could not be written'):
      hub.write(tmp_path, network, 'a card')
  assert not list(tmp_path.iterdir())
  hub.write(tmp_path, network, 'a card')
  (tmp_path / 'model.safetensors').unlink()
  with pytest.raises(UserError, match='has no model.safetensors: fetch'):
    alexnet_jax.load(tmp_path)


def test_a_folder_below_a_file_is_one_message(network, tmp_path):
  (tmp_path / 'file').touch()
  with pytest.raises(UserError, match='could not be written'):
    hub.write(tmp_path / 'file/x', network, 'a card')


def test_pytorch_refuses_squares_of_another_size(folder, monkeypatch):
  """The centre of larger ones would be a part of what JAX looks at."""
  torch = pytest.importorskip('torch', reason='a peer: PyTorch is missing')
  from alexnet_jax.formats.alexnet_torch import AlexNet

  net = AlexNet(folder)
  for shape in ((1, 300, 300, 3), (1, 256, 300, 3), (1, 3, 256, 256)):
    with pytest.raises(ValueError, match=r'resize yours to \[N, 256, 256, 3\]'):
      net.preprocess(torch.zeros(shape))


def test_a_network_that_pytorch_lacks_comes_without_the_program(tmp_path):
  from configs import cifar10_80sec

  network = drawn(cifar10_80sec.get_config())
  text = card.make_card(network, None, [], 'mit')
  hub.write(tmp_path / 'x', network, text)
  assert not (tmp_path / 'x/alexnet_torch.py').exists()
  assert 'no program for PyTorch' in text and 'import torch' not in text
  assert pretrained.read(tmp_path / 'x').class_names == tuple('abcdef')


# ---- hf://


class _Hub(http.server.BaseHTTPRequestHandler):
  """What huggingface_hub asks of huggingface.co for one repository."""

  COMMIT = 'c0ffee' + 34 * '0'

  def __init__(self, folder, asked, *rest):
    self._folder, self._asked = folder, asked
    super().__init__(*rest)

  def do_GET(self):
    self._asked.append(self.path)
    path = self.path.partition('?')[0]
    if path.startswith('/api/models/owner/name/tree/'):
      files = [
        {'type': 'file', 'path': x.name, 'size': x.stat().st_size, 'oid': '0'}
        for x in self._folder.iterdir()
      ]
      self._answer(json.dumps(files).encode(), 'application/json')
    elif path.startswith('/api/models/owner/name'):
      files = [{'rfilename': x.name} for x in self._folder.iterdir()]
      about = {'id': 'owner/name', 'sha': self.COMMIT, 'siblings': files}
      self._answer(json.dumps(about).encode(), 'application/json')
    elif path.startswith(f'/owner/name/resolve/{self.COMMIT}/'):
      file = self._folder / path.rpartition('/')[2]
      self._answer(file.read_bytes(), 'application/octet-stream')
    else:
      self.send_error(404)

  do_HEAD = do_GET

  def _answer(self, body, kind):
    self.send_response(200)
    self.send_header('Content-Type', kind)
    self.send_header('Content-Length', str(len(body)))
    self.send_header('ETag', f'"{len(body):040x}"')
    self.send_header('X-Repo-Commit', self.COMMIT)
    self.end_headers()
    if self.command == 'GET':
      self.wfile.write(body)

  def log_message(self, *_):
    pass


@pytest.fixture
def served(folder, tmp_path, monkeypatch):
  """huggingface_hub with an empty cache, and a hub that has `folder`."""
  constants = pytest.importorskip(
    'huggingface_hub.constants', reason="what asks hubs is missing: '.[hub]'"
  )
  asked: list[str] = []
  handler = functools.partial(_Hub, folder, asked)
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  at = f'http://127.0.0.1:{server.server_port}'
  monkeypatch.setattr(constants, 'ENDPOINT', at)
  monkeypatch.setattr(
    constants,
    'HUGGINGFACE_CO_URL_TEMPLATE',
    at + '/{repo_id}/resolve/{revision}/{filename}',
  )
  monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'cache'))
  monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
  yield asked
  server.shutdown()
  server.server_close()


def test_a_network_is_fetched_once_and_then_read_offline(
  served, network, tmp_path, monkeypatch
):
  model = alexnet_jax.load('hf://owner/name')
  for name, x in network.params.items():
    np.testing.assert_array_equal(model.network().params[name], x)
  assert any('model.safetensors' in path for path in served)
  assert not any('README' in path for path in served)  # the weights alone
  monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
  served.clear()
  assert pretrained.read('hf://owner/name').config == network.config
  assert not served


def test_what_the_hub_does_not_have_is_one_line(served):
  with pytest.raises(UserError, match='hf://owner/other cannot be fetched'):
    alexnet_jax.load('hf://owner/other')


def test_a_name_of_the_hub_has_two_parts():
  with pytest.raises(UserError, match='write it as hf://OWNER/NAME'):
    alexnet_jax.load('hf://name')


def test_without_the_library_it_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
  with pytest.raises(UserError, match=r"pip install -e '.\[hub\]'"):
    alexnet_jax.load('hf://owner/name')


# ---- The card.


def test_the_card_of_a_run(network, tmp_path):
  meta = {
    'data': {'examples': {'train': 1000, 'validation': 200, 'test': 400}},
    'position': {'examples': 12345},
    'environment': {
      **{'devices': ['cpu', 'cpu'], 'alexnet_jax': '9.9', 'commit': 'abc'},
      **{'jax': '1', 'flax': '2'},
    },
  }
  rows = [
    {'step': 6, 'validation/top1_error': 0.9, 'validation/top5_error': 0.9},
    {
      'step': 7,
      **{'validation/top1_error': 0.25, 'validation/top5_error': 0.05},
      'validation/loss': 1.2345,
    },
  ]
  text = card.make_card(network, meta, rows, 'cc-by-4.0')
  assert '`width` 0.05, not 1.0.' in text
  assert 'At step 7.' in text and 'Of the 2 networks' in text
  before = dataclasses.replace(
    network, config=json.loads(json.dumps(network.config))
  )
  del before.config['optimizer']['ema']  # of a run of an earlier version
  assert 'momentum 0.9' in card.make_card(before, meta, rows, 'mit')
  chosen = card.make_card(network, meta, rows[1:], 'mit')
  assert 'networks of the run that' not in chosen  # there was no choice
  text = card.make_card(network, meta, rows, 'cc-by-4.0')
  assert text.startswith('---\nlicense: cc-by-4.0\n')
  # sqrt(0.25 * 0.75 / 200) = 3.06 %, sqrt(0.05 * 0.95 / 200) = 1.54 %.
  line = '| validation | 200 | 25.0 ± 3.1% | 5.0 ± 1.5% | 1.234 |'
  assert line in text
  assert '90' not in line and '| test |' not in text
  for words in ('1,000 train', '12,345 pictures were seen', '2 x cpu'):
    assert words in text, words
  assert "alexnet_jax.load('hf://OWNER/NAME')" in text
  # Both programs of the card compile.
  blocks = re.findall(r'```python\n(.*?)```', text, re.DOTALL)
  assert len(blocks) == 2
  for block in blocks:
    compile(block, 'card', 'exec')
