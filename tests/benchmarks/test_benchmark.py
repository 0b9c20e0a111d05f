"""What `benchmark` counts, compares and writes; how fast it is is no test."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import test_communication

from alexnet_jax.benchmarks import peer, results, step_speed, timing
from alexnet_jax.models.describe import describe
from alexnet_jax.runtime.errors import UserError
from configs import imagenet2012

ROOT = Path(__file__).parents[2]


@pytest.fixture
def peer_python() -> str:
  python = os.environ.get('ALEXNET_PEER_PYTHON')
  if not python:
    pytest.skip('ALEXNET_PEER_PYTHON is not set: no Python with torch here')
  return python


def test_the_arithmetic_of_the_papers_network():
  config = imagenet2012.get_config()
  settings = test_communication.configured(config, 1, 1)
  layers = describe(settings.model, 1000, 224)
  # Positions x kernel x inputs x outputs x towers, by hand.
  products = {
    'conv1': 55 * 55 * 11 * 11 * 3 * 48 * 2,
    'conv2': 27 * 27 * 5 * 5 * 48 * 128 * 2,
    'conv3': 13 * 13 * 3 * 3 * 256 * 192 * 2,
    'conv4': 13 * 13 * 3 * 3 * 192 * 192 * 2,
    'conv5': 13 * 13 * 3 * 3 * 192 * 128 * 2,
    'fc6': 9216 * 4096,
    'fc7': 4096 * 4096,
    'fc8': 4096 * 1000,
  }
  assert {row.name: row.forward_flops for row in layers} == {
    name: 2 * n for name, n in products.items()
  }
  # Nobody needs the gradient of the image.
  total = sum(products.values())
  assert sum(row.training_flops for row in layers) == (
    2 * (3 * total - products['conv1'])
  )


def test_contenders_take_turns(capsys):
  """What is measured first after another's turn is slow, and not counted."""
  asked = []

  def contender(name, seconds):
    def measure(times):
      cold = not asked or asked[-1][0] != name
      asked.append((name, times))
      return {'seconds': 9.0 if cold else seconds}

    return timing.Contender(name, measure)

  found = timing.alternate([contender('a', 0.3), contender('b', 2.0)], 2)
  assert found == {'a': [{'seconds': 0.3}] * 2, 'b': [{'seconds': 2.0}] * 2}
  warm = [('a', 1), ('a', 1), ('a', 2), ('a', 4), ('b', 1), ('b', 1)]
  assert asked == warm + [('a', 4), ('a', 4), ('b', 1), ('b', 1)] * 2
  assert '6/6 measurements' in capsys.readouterr().err
  timing.alternate([contender('c', 2.0)], 1, show=False)
  assert not capsys.readouterr().err


def test_what_lies_in_a_buffer_does_not_make_samples_long():
  asked = []

  def measure(times):
    ready = max(0, 4 - sum(asked))
    asked.append(times)
    return {'seconds': 0.5 * max(0, times - ready) / times}

  timing.alternate([timing.Contender('loader', measure)], 1)
  assert asked == [1, 1, 2, 4, 4, 4]


def test_rows_of_other_columns_share_a_table(tmp_path):
  file = tmp_path / 'rows.csv'
  first = {'name': 'a, b', 'images_per_sec': 1234.567891}
  second = {'name': 'c', 'seconds': 0.25, 'n': 3}
  results.append_csv(file, [first])
  results.append_csv(file, [second])
  assert results.read_csv(file) == [
    {'name': 'a, b', 'images_per_sec': '1234.6'},
    {'name': 'c', 'seconds': '0.25', 'n': '3'},
  ]
  results.write_json(tmp_path / 'rows.json', [first])
  assert json.loads((tmp_path / 'rows.json').read_text()) == [first]
  with pytest.raises(UserError, match='nowhere'):
    results.append_csv(tmp_path / 'nowhere' / 'rows.csv', [first])


def test_the_command_measures_a_step(tmp_path):
  file = tmp_path / 'rows.json'
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'alexnet_jax.benchmark', 'step'),
      '--config=configs/default.py',
      '--config.model.width=0.05',
      '--config.augment.crop_size=64',
      *('--batch=2', '--repeats=1', '--classes=7'),
      f'--json={file}',
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  augmentation, ours = json.loads(file.read_text())
  assert augmentation['name'] == 'augmentation'
  assert ours['name'] == 'alexnet_jax, mesh 1,2' and ours['batch'] == 2
  assert ours['name'] in done.stdout
  seconds = [ours[f'{p}_seconds'] for p in ('forward', 'backward', 'update')]
  assert sum(seconds) == pytest.approx(2 / ours['images_per_sec'])
  assert 0 < ours['gemm_share'] < 1
  assert ours['gflops'] == pytest.approx(
    ours['gemm_share'] * ours['gemm_gflops']
  )


def test_the_peer_is_the_same_network(peer_python):
  settings = test_communication.small(1, 1, **{'model.lrn.alpha': 0.01})
  classes = test_communication.CLASSES
  views, labels = step_speed.make_examples(settings, classes)
  setup = test_communication.abstract(settings)
  ours = step_speed.OurStep(setup, views, labels)
  with peer.start_peer(peer_python) as there:
    peer.load_network(
      there, setup, ours.params(), views, labels, compiled=False
    )
    theirs = peer.ask_logits(there)
    step_speed.assert_agree(ours.logits(), theirs)
    with pytest.raises(UserError, match='another network'):
      step_speed.assert_agree(ours.logits(), theirs[::-1])
    taken = there.ask('step', times=1)
    assert taken['seconds'] > 0
    assert np.abs(peer.ask_logits(there) - theirs).max() > 0  # it has learnt


@pytest.mark.parametrize(
  'overrides',
  [
    {'optimizer.kind': 'adamw'},
    {'optimizer.ema': 0.9},
    {'label_smoothing': 0.1},
    {'accumulate': 2},
  ],
)
def test_a_peer_of_another_step_is_refused(overrides):
  settings = test_communication.small(1, 1, **overrides)
  setup = test_communication.abstract(settings)
  with pytest.raises(UserError, match='--peer: PyTorch takes the steps of §5'):
    peer.describe_for_peer(setup, test_communication.CLASSES)


@pytest.mark.parametrize('python', ['/no/python', '/bin/false'])
def test_a_peer_that_is_not_there_is_told(python):
  with (
    pytest.raises(UserError, match='--peer_python'),
    peer.start_peer(python) as there,
  ):
    there.ask('memory')
