"""What `prepare`, and who opens a data set, refuse in one message."""

from pathlib import Path

import pytest
from small_pictures import prepare, start

from alexnet_jax.data import builders
from alexnet_jax.runtime.errors import UserError


@pytest.mark.parametrize(
  ('kwargs', 'message'),
  [
    ({'name': None}, 'needs --name'),
    ({'name': 'My Pets'}, 'lower-case letters'),
    ({'input_dir': None}, 'needs --input'),
    ({'input_dir': '/nowhere'}, '/nowhere: no such folder'),
    ({'validation_share': 1.0}, '--validation_share=1.0'),
    ({'test_share': -0.1}, 'shares from 0'),
  ],
)
def test_wrong_arguments(tmp_path, pets, kwargs, message):
  with pytest.raises(UserError, match=message):
    prepare('folder', tmp_path, **{'input_dir': pets} | kwargs)


@pytest.mark.parametrize(
  ('name', 'arguments'),
  [
    ('shapes', '--source=shapes'),
    ('imagenet2012', '--source=imagenet2012 --input='),
    ('pets', '--source=folder --input=FOLDER --name=pets'),
  ],
)
def test_missing_data_set_names_the_command(tmp_path, name, arguments):
  with pytest.raises(UserError) as error:
    builders.open_dataset(name, tmp_path)
  message = str(error.value)
  assert f'python -m alexnet_jax.prepare {arguments}' in message
  assert f'--data_dir={tmp_path}' in message
  assert '\n' not in message


def test_unknown_split(tmp_path, pets):
  dataset = prepare('folder', tmp_path, pets)
  with pytest.raises(UserError, match="no split 'dev': it has train"):
    dataset.source('dev')


def test_command_line_prints_no_traceback(tmp_path):
  run = start(tmp_path, Path('/nowhere'))
  output, _ = run.communicate(timeout=200)
  assert run.returncode == 2
  assert output == 'error: --input=/nowhere: no such folder\n'
