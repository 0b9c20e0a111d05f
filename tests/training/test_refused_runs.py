"""Mistakes that only a run can find are one message, before it has begun."""

import re
import shutil

import pytest
import small_runs

from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training import loop as train

pytestmark = pytest.mark.usefixtures('cached')


def test_a_missing_data_set_is_one_line(program, config, tmp_path):
  config.data.name = 'mine'
  out = program(tmp_path / 'run', config).run(status=2)
  (line,) = [x for x in out.splitlines() if not re.match(r'[IW]\d{4} ', x)]
  assert line == (
    f'error: no data set mine in {config.data.dir}: make it with python -m '
    'alexnet_jax.prepare --source=folder --input=FOLDER --name=mine '
    f'--data_dir={config.data.dir}'
  )
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('steps', ['10-20', '20:10'])
def test_a_mistyped_profile_is_one_message(steps, program, tmp_path):
  out = program(tmp_path / 'run').run(f'--profile={steps}', status=2)
  assert f'error: --profile={steps}: write START:STOP, such as 10:20' in out


@pytest.mark.parametrize(
  ('overrides', 'words'),
  [
    ({'mesh__data': 8}, ['16', 'there are 8', 'cpu:0', 'cpu:7']),
    ({'mesh__data': 3}, ['batch of 8', '3 devices']),
    ({'mesh__towers': 3}, ['config.mesh.towers=3', 'use 1 or 2']),
    ({'mesh__data': 0}, ['config.mesh.data=0']),
    ({'evals__split': 'tests'}, ["'tests'", 'train, validation, test']),
    ({'length': '4 weeks'}, ["'4 weeks'", "'90 epochs'"]),
    ({'schedule__kind': 'sine'}, ["'sine'", "'plateau'"]),
    ({'augment__crop_size': 300}, ['augment.crop_size=300', '1..256']),
    ({'augment__crop_size': 10}, ['10 pixels']),
    ({'augment__mean': 'img'}, ['augment.mean', "'img'"]),
    ({'model__activation': 'gelu'}, ['config.model.activation', "'gelu'"]),
    ({'dtype': 'float16'}, ['config.dtype', "'float16'"]),
    (
      {'optimizer__learning_rate_multipliers': (('kernel', 1.0),)},
      ['no rule', 'conv1/bias'],
    ),
    ({'checkpoint__keep': 0}, ['keep at least 1']),
  ],
)
def test_a_run_that_cannot_be_is_refused(overrides, words, data_dir, tmp_path):
  config = small_runs.small_config(data_dir, **overrides)
  with pytest.raises(UserError) as refusal:
    train.train_and_evaluate(config, tmp_path / 'run')
  for word in words:
    assert word in str(refusal.value)
  assert not (tmp_path / 'run').exists()


def test_a_test_that_is_not_there_is_refused_before_training(tmp_path):
  splits = ('train', 'validation')
  data_dir = small_runs.prepare_pictures(tmp_path, 'pictures', splits)
  config = small_runs.small_config(data_dir)
  message = "no split 'test': it has train, validation"
  with pytest.raises(UserError, match=message):
    train.train_and_evaluate(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_a_run_stays_with_the_split_that_says_what_is_best(
  config, reference, tmp_path
):
  workdir = shutil.copytree(reference, tmp_path / 'run')
  config.evals.split, config.length = 'train', '20 steps'
  with pytest.raises(UserError, match='split is train, .* on validation: choo'):
    train.train_and_evaluate(config, workdir)


@pytest.mark.parametrize('steps', [(5, 18), (20, 21)])
def test_a_profile_of_no_step_is_refused(steps, config, reference, tmp_path):
  workdir = shutil.copytree(reference, tmp_path / 'run')
  config.length = '20 steps'
  with pytest.raises(UserError, match='takes the steps from 18 to 20'):
    train.train_and_evaluate(config, workdir, profile=steps)
