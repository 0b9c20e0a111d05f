"""Configurations: every file, the paper's values, and the flags' refusals."""

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict
from small_runs import flat

from alexnet_jax.models import table

ROOT = Path(__file__).parents[1]
FILES = sorted(path.stem for path in (ROOT / 'configs').glob('[!_]*.py'))


def load(name: str) -> ConfigDict:
  return importlib.import_module(f'configs.{name}').get_config()


def small_fields() -> set[str]:
  """The fields of default.py on a line marked *small*."""
  text = (ROOT / 'configs/default.py').read_text()
  lines = re.findall(r'^  ([\w.]+) = .*# \*small\*$', text, re.MULTILINE)
  return {name.removeprefix('config.') for name in lines}


@pytest.mark.parametrize('name', FILES)
def test_every_file_has_the_fields_of_default_and_no_more(name):
  config = load(name)
  assert config.is_locked
  base = load('default')
  if config.model.name != 'alexnet':  # a table of its own
    base.model = table.TABLES[config.model.name]()
  fields, default = flat(config), flat(base)
  assert fields.keys() == default.keys()
  for field, value in fields.items():
    assert type(value) is type(default[field]), field


@pytest.mark.parametrize('name', FILES)
def test_every_file_says_how_to_run_it(name):
  # As it is written: from 3.13 on Python strips what a module has.
  tree = ast.parse((ROOT / 'configs' / f'{name}.py').read_text())
  doc = ast.get_docstring(tree, clean=False)
  for word in ('command', 'hardware', 'time', 'expected'):
    assert f'\n  {word} ' in doc, word
  assert f'--config=configs/{name}.py' in doc


# What the two files may differ in for reasons of size of the data set alone.
CADENCES = {
  'data.workers',
  'log_every',
  'checkpoint.every',
  'evals.final_split',
}


def test_default_is_the_paper_but_for_lines_marked_small():
  default, paper = flat(load('default')), flat(load('imagenet2012'))
  differ = {field for field in paper if paper[field] != default[field]}
  small = small_fields()
  assert small, 'no line of default.py is marked *small*'
  # `drops` are of the staircase: the paper's plateau does not read them.
  assert differ - CADENCES == small - {'schedule.drops'}


def test_imagenet2012_is_the_text_of_the_paper():
  """Values typed in from the paper, not from the code."""
  paper = flat(load('imagenet2012'))
  text = {
    'batch_size': 128,
    'length': '90 epochs',
    'dtype': 'float32',
    'matmul_precision': 'highest',
    'augment.crop_size': 224,
    'augment.random_crop': True,
    'augment.random_flip': True,
    'augment.color': 0.1,
    'augment.mean': 'image',
    'model.towers': 2,
    'model.width': 1.0,
    'model.activation': 'relu',
    'model.dropout': 0.5,
    'model.lrn.enabled': True,
    'model.lrn.size': 5,
    'model.lrn.k': 2.0,
    'model.lrn.alpha': 1e-4,
    'model.lrn.beta': 0.75,
    'model.lrn.alpha_over': 'sum',
    'model.pool.window': 3,
    'model.pool.stride': 2,
    'optimizer.momentum': 0.9,
    'optimizer.weight_decay': 0.0005,
    'optimizer.learning_rate_multipliers': (('', 1.0),),
    'optimizer.decay_multipliers': (('bias', 0.0), ('', 1.0)),
    'schedule.kind': 'plateau',
    'schedule.learning_rate': 0.01,
    'schedule.patience': 5.0,
    'schedule.max_drops': 3,
    'schedule.factor': 10.0,
    'evals.split': 'validation',
    # The two exceptions of configs/imagenet2012.py.
    'augment.color_units': 'std',
  }
  layers = ('conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'fc6', 'fc7', 'fc8')
  for layer in layers:
    exception = layer in ('conv3', 'conv4', 'conv5')
    ones = ('conv2', 'conv4', 'conv5', 'fc6', 'fc7')
    text[f'model.{layer}.init_std'] = 0.03 if exception else 0.01
    text[f'model.{layer}.init_bias'] = 1.0 if layer in ones else 0.0
  assert {field: paper[field] for field in text} == text


def test_data_dir_follows_the_environment(monkeypatch):
  monkeypatch.delenv('ALEXNET_DATA_DIR', raising=False)
  assert load('default').data.dir == 'data'
  monkeypatch.setenv('ALEXNET_DATA_DIR', '/somewhere')
  assert load('default').data.dir == '/somewhere'


# ---- Mistakes: one message, no traceback.


def refusal(tmp_path, *flags: str) -> str:
  """The one message of the program on these flags."""
  done = subprocess.run(
    [sys.executable, '-m', 'alexnet_jax.main', *flags],
    cwd=ROOT,
    env=os.environ | {'ALEXNET_DATA_DIR': str(tmp_path / 'data')},
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 2
  assert done.stdout == ''
  assert 'Traceback' not in done.stderr
  assert done.stderr.startswith('error: ')
  assert len(done.stderr.splitlines()) <= 2
  return done.stderr


DEFAULT = '--config=configs/default.py'


@pytest.mark.parametrize(
  ('flags', 'words'),
  [
    ([], ['--config']),
    (['--config.length=1'], ['--config.length', '--config=configs/default.py']),
    (['--config=configs/nope.py'], ['configs/nope.py', 'no such file']),
    ([DEFAULT, '--config.nope=1'], ['no field nope']),
    (
      [DEFAULT, '--config.model.widht=1'],
      ['nearest is model.width'],
    ),
    ([DEFAULT, '--config.modle.width=1'], ['the nearest is model.width']),
    ([DEFAULT, '--config.crop=1'], ['crop: the nearest is augment.crop_size']),
    ([DEFAULT, '--config.lr=1'], ['the nearest is schedule.learning_rate']),
    ([DEFAULT, '--lr=1'], ['--lr: use --config.schedule.learning_rate']),
    ([DEFAULT, '--epochs=3'], ['--epochs: use --config.length']),
    ([DEFAULT, '--batch-size=3'], ['--batch-size: use --config.batch_size']),
    ([DEFAULT, '--config.batch_size=many'], ['--config.batch_size=many']),
    ([DEFAULT, '--config.model.width=wide'], ['--config.model.width=wide']),
    ([DEFAULT, '--config.model=3'], ['--config.model=3']),
    ([DEFAULT, '--modus=eval'], ["'modus'", 'mode']),
    ([DEFAULT, '--mode=test'], ['train|eval']),
    ([DEFAULT, '--mode=eval', '--views=5'], ['<1|2|9|10>']),
    ([DEFAULT, '--split=training'], ['<train|validation|test>']),
    ([DEFAULT, 'batch_size=64'], ["'batch_size=64'", 'starts with --']),
  ],
)
def test_flags_are_refused_in_one_message(flags, words, tmp_path):
  message = refusal(tmp_path, *flags)
  for word in words:
    assert word in message


def test_flags_that_would_not_be_used_are_refused():
  """Each verb, all at once; the last flag of each line has no use there."""
  lines = f"""
    main {DEFAULT} --checkpoint=5
    main {DEFAULT} --mode=eval --profile=1:2
    main {DEFAULT} --mode=eval --trackers=wandb
    prepare --source=shapes --input=x
    prepare --source=imagenet2012 --input=x --test_share=0.1
    predict a.png --output=answers.json
    features a.png --output=x.npy --split=test
    neighbours a.png --count=3
    weights export --format=caffe --file=x --workdir=y --mean=1,2,3
    weights import --format=torchvision --file=x --workdir=y --mean=1,2,3
    weights import --format=grouped --file=x --workdir=y --classes=10
    figures architecture x --classes=3
    figures kernels x --split=test
    figures occlusion x a.png --count=3
    benchmark memory {DEFAULT} --mesh=1,2
    benchmark layers {DEFAULT} --peer
    benchmark comms {DEFAULT} --json=x
    benchmark gpu {DEFAULT} --compile_only --peer
    benchmark tpu {DEFAULT} --json=x --report=y --mesh=1,2
  """
  started = [
    subprocess.Popen(
      [sys.executable, '-m', f'alexnet_jax.{verb}', *words],
      cwd=ROOT,
      stderr=subprocess.PIPE,
      text=True,
    )
    for verb, *words in map(str.split, lines.strip().splitlines())
  ]
  for process in started:
    message = process.communicate(timeout=300)[1]
    flag = process.args[-1].partition('=')[0]
    assert message.startswith(f'error: {flag} would not be used: '), message
    assert process.returncode == 2 and message.count('\n') == 1


@pytest.mark.parametrize(
  ('body', 'words'),
  [
    ('  config.modle = 1', ['line 4', '"model" instead of "modle"']),
    ('  config.model.width = "wide"', ['line 4', 'width', 'float']),
    ('  import nothing_of_that_name', ['line 4', 'nothing_of_that_name']),
    ('  raise UserError("as I say")', ['line 4', 'as I say']),
    ('  config.seed = (', ['never closed', 'mine.py']),
  ],
)
def test_a_broken_configuration_file_is_named(body, words, tmp_path):
  file = tmp_path / 'mine.py'
  file.write_text(
    'from configs.default import get_config as default; '
    'from alexnet_jax.runtime.errors import UserError\n'
    'def get_config():\n  config = default()\n' + body + '\n  return config\n'
  )
  message = refusal(tmp_path, f'--config={file}')
  assert len(message) < 500  # not a list of every field
  for word in ['mine.py', *words]:
    assert word in message
