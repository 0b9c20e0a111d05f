"""A run that keeps an average of its parameters (`config.optimizer.ema`): it is
measured beside them, resumed, and taken wherever a checkpoint is."""

import numpy as np
import pytest
import small_runs
from etils import epath

from alexnet_jax import library
from alexnet_jax.formats import safetensors
from alexnet_jax.runtime import writers
from alexnet_jax.runtime.checkpoint import Checkpointer
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.runtime.metrics import format_error
from alexnet_jax.training import card, evaluation, loop, saved

pytestmark = pytest.mark.usefixtures('cached')


class Left(Exception):
  """Ends a run as a crash does."""


@pytest.fixture(scope='module')
def averaged(data_dir, tmp_path_factory):
  """Two runs of one configuration: uninterrupted, and left at step 9."""
  config = small_runs.small_config(data_dir, optimizer__ema=0.9)
  whole, left = (tmp_path_factory.mktemp('average') / name for name in 'ab')
  assert loop.train_and_evaluate(config, whole) == 0

  def leave(params):
    raise Left

  with pytest.raises(Left):
    loop.train_and_evaluate(
      config.copy_and_resolve_references(), left, pictures={'conv1': leave}
    )
  assert loop.train_and_evaluate(config, left) == 0
  return config, whole, left


def test_it_resumes_to_the_bit(averaged):
  config, whole, left = averaged
  small_runs.assert_equal_runs(config, left, whole)
  arrays, _ = small_runs.saved(config, left)
  assert any(name.startswith('.average') for name in arrays)
  assert sum('validation_ema/loss' in row for row in small_runs.rows(left)) == 4


def test_an_evaluation_of_it_is_what_the_run_has_measured(averaged, capsys):
  _, whole, _ = averaged
  last = small_runs.rows(whole)[-1]
  for name, split in (('last-ema', 'test_ema'), ('18', 'test')):
    values = evaluation.evaluate_checkpoint(whole, name, 'test', 1)
    for key, value in values.items():
      assert value == pytest.approx(last[f'{split}/{key}'], rel=1e-6), key
  assert last['test_ema/loss'] != last['test/loss']
  said = capsys.readouterr().out
  assert said.count('step 18, the average of the parameters\n') == 1


def test_a_network_of_it_stays_one_in_a_file(averaged, tmp_path):
  config, whole, _ = averaged
  arrays, _ = small_runs.saved(config, whole)
  model = library.load(whole, '18-ema')
  assert model.stage == 'step 18, averaged'
  path = epath.Path(tmp_path / 'averaged.safetensors')
  safetensors.write(path, model.network())
  for network in (model.network(), safetensors.read(path)):
    assert network.average and network.step == 18
    for name, array in network.params.items():
      parts = ''.join(f"['{part}']" for part in name.split('/'))
      assert (array == arrays[f'.average{parts}.value']).all(), name
  assert not library.load(whole, 'last').average


def test_its_card_has_its_own_errors(averaged):
  _, whole, _ = averaged
  rows = writers.read_rows(whole)
  with Checkpointer(whole / 'checkpoints') as checkpointer:
    meta = saved.read_meta(checkpointer, 'last')
  for name, split in (('last-ema', 'validation_ema'), ('last', 'validation')):
    network = library.load(whole, name).network()
    text = card.make_card(network, meta, rows, 'mit')
    (row,) = (row for row in rows[-3:] if f'{split}/loss' in row)
    count = small_runs.IMAGES['validation']
    error = format_error(row[f'{split}/top1_error'], count)
    loss = row[f'{split}/loss']
    (line,) = (s for s in text.splitlines() if s.startswith('| validation |'))
    assert f'| {error} |' in line and f'| {loss:.3f} |' in line
    assert ('the average of its parameters' in text) == ('ema' in name)
    assert ('averaged with 0.9' in text) == ('ema' in name)
    assert 'Of the 4 networks' not in text or (
      ('before it was averaged this had' in text) == ('ema' in name)
    )


@pytest.mark.parametrize('name', ['best-ema', '18-ema'])
def test_a_run_without_one_has_none_to_give(name, reference):
  said = 'the run keeps no average of its parameters'
  with pytest.raises(UserError, match=said):
    library.load(reference, name)
  with pytest.raises(UserError, match=said):
    evaluation.evaluate_checkpoint(reference, name, 'test', 1)


def test_a_run_can_begin_with_it(averaged, data_dir, tmp_path):
  _, whole, _ = averaged
  config = small_runs.small_config(data_dir, length='1 step')
  config.pretrained.source = str(whole)
  config.pretrained.checkpoint = 'last-ema'
  config.pretrained.fresh = ()
  config.schedule.learning_rate = 0.0
  assert loop.train_and_evaluate(config, tmp_path / 'run') == 0
  found = library.load(tmp_path / 'run', 'last').network().params
  wanted = library.load(whole, 'last-ema').network().params
  for name, array in wanted.items():
    np.testing.assert_array_equal(found[name], array)
