"""docs/pytorch.md gives the logits of the network that was exported."""

import re

import numpy as np
import pytest
import small_runs
from conftest import max_norm_error

import alexnet_jax
from alexnet_jax.data import stats
from alexnet_jax.formats import conversion


def test_the_page_has_our_logits(tmp_path, monkeypatch, capsys):
  torch = pytest.importorskip('torch', reason='a peer: PyTorch is missing')
  text = (small_runs.ROOT / 'docs/pytorch.md').read_text()
  blocks = re.findall(r'```python\n(.*?)```', text, re.DOTALL)
  assert len(blocks) == 3

  rng = np.random.default_rng(0)
  network = alexnet_jax.create_model('alexnet_quarter', 5).network()
  for name, x in network.params.items():  # biases, and signals that differ
    network.params[name] = x + rng.normal(0, 0.01, x.shape).astype(np.float32)
  network.config['augment']['mean'] = 'image'
  mean = stats.of_mean(rng.uniform(0, 255, (256, 256, 3)))
  network = network.__class__(
    network.config, network.params, tuple('abcde'), mean
  )
  conversion.write(tmp_path / 'mine.safetensors', 'grouped', network)
  monkeypatch.chdir(tmp_path)
  names: dict = {}
  images = rng.integers(0, 256, (3, 224, 224, 3)).astype(np.float32)
  for block in blocks:
    exec(compile(block, 'docs/pytorch.md', 'exec'), names)
  assert capsys.readouterr().out.strip() in network.class_names
  views = torch.from_numpy(images) - names['mean']
  with torch.no_grad():
    found = names['net'](views.permute(0, 3, 1, 2)).numpy()
  model = alexnet_jax.load(tmp_path / 'mine.safetensors')
  expected = np.asarray(model.pixels_to_logits(images))
  assert np.ptp(expected) > 1
  assert max_norm_error(found, expected) < 1e-4
