"""The examples of docs/api.md run, in order, and so do README's and others."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import small_runs
from PIL import Image

import alexnet_jax


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


def test_the_real_labels_of_pictures(reference, tmp_path, monkeypatch, capsys):
  """Of four pictures two are right, one wrong, and one has no class."""
  rng = np.random.default_rng(0)
  pictures = tmp_path / 'pictures'
  pictures.mkdir()
  for number in (7, 3, 1, 4):
    pixels = rng.integers(0, 256, (280, 256, 3), np.uint8)
    name = f'ILSVRC2012_val_{number:08}.JPEG'
    Image.fromarray(pixels).save(pictures / name, 'JPEG')
  with open(tmp_path / 'predictions.json', 'wb') as file:
    subprocess.run(
      [
        *(sys.executable, '-m', 'alexnet_jax.predict', pictures),
        *(f'--workdir={reference}', '--top=1', '--format=json'),
      ],
      cwd=small_runs.ROOT,
      stdout=file,
      check=True,
    )
  model, real = alexnet_jax.load(reference), [[0]] * 9
  for number, others in ((1, [5]), (3, [0, 5])):
    name = pictures / f'ILSVRC2012_val_{number:08}.JPEG'
    real[number - 1] = [int(model.predict(name).argmax()), *others]
  real[4 - 1] = []
  real[7 - 1] = [small_runs.CLASSES]  # not one of the network's
  (tmp_path / 'real.json').write_text(json.dumps(real))
  monkeypatch.chdir(tmp_path)
  (block,) = [b for b in python_of('docs/running.md') if 'real.json' in b]
  exec(compile(block, 'docs/running.md', 'exec'), {})
  assert capsys.readouterr().out == '33.33% of 3 pictures\n'
