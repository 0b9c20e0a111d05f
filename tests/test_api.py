"""The examples of docs/api.md run, in order, and so does README's."""

import re

import numpy as np
import pytest
import small_runs
from PIL import Image


def python_of(page):
  text = (small_runs.ROOT / page).read_text()
  return re.findall(r'```python\n(.*?)```', text, re.DOTALL)


@pytest.mark.usefixtures('cached')
def test_the_examples_run(reference, tmp_path, monkeypatch, capsys):
  (tmp_path / 'runs').mkdir()
  (tmp_path / 'runs/mine').symlink_to(reference)
  pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
  Image.fromarray(pixels).save(tmp_path / 'photo.jpg')
  monkeypatch.chdir(tmp_path)
  blocks = python_of('docs/api.md')
  assert len(blocks) == 5
  names: dict = {}
  for block in blocks:
    exec(compile(block, 'docs/api.md', 'exec'), names)
  assert names['probabilities'].shape == (2, small_runs.CLASSES)
  assert names['logits'].shape == (2, 1, small_runs.CLASSES)
  assert names['best'] in names['model'].class_names
  assert names['features'].shape == (1, names['layers']['fc7'].shape[1])
  printed = capsys.readouterr().out
  assert '(1, 10)' in printed
  assert 'no run in nowhere: ' in printed
  (block,) = python_of('README.md')
  assert len(list(filter(None, block.splitlines()))) == 6
  exec(compile(block, 'README.md', 'exec'), names)
  assert names['probabilities'].shape == (1, small_runs.CLASSES)
  assert names['features'].shape == (1, names['layers']['fc7'].shape[1])
  assert names['untrained'].class_names == tuple(map(str, range(10)))
