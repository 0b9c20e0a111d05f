"""Imports go one way, and each library has one owner."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import alexnet_jax

ROOT = Path(alexnet_jax.__file__).parent
FILES = sorted(ROOT.rglob('*.py'))
ALLOWED = {
  'runtime': {'runtime'},
  'models': {'models', 'runtime'},
  'data': {'data', 'runtime'},
  'learning': {'learning', 'data', 'models', 'runtime'},
}
OWNERS = {
  'grain': 'data',
  'tensorflow_datasets': 'data',
  'array_record': 'data',
  'orbax': 'runtime/checkpoint.py',
  'tensorboard': 'runtime/writers.py',
  'tensorflow': None,
  'torch': None,
  'configs': None,
}


def imports(file):
  for node in ast.walk(ast.parse(file.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
      yield node.module
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


@pytest.mark.parametrize('file', FILES, ids=str)
def test_rooms_and_owners(file):
  place = file.relative_to(ROOT)
  for name in imports(file):
    parts = name.split('.')
    if parts[0] == 'alexnet_jax' and len(parts) > 1:
      room = place.parts[0]
      assert parts[1] in ALLOWED.get(room, set().union(*ALLOWED.values()))
    if parts[0] in OWNERS:
      owner = OWNERS[parts[0]]
      assert owner and place.as_posix().startswith(owner), name


@pytest.mark.parametrize('file', FILES, ids=str)
def test_only_verbs_define_flags(file):
  if file.parent != ROOT:
    assert 'flags.DEFINE' not in file.read_text()


def test_the_package_is_light():
  check = (
    'import sys, alexnet_jax; assert not {"jax", "numpy"} & set(sys.modules)'
  )
  subprocess.run([sys.executable, '-c', check], check=True)


@pytest.mark.parametrize('verb', ['main', 'prepare'])
def test_workers_that_import_a_verb_start_nothing(verb):
  check = f'import sys, alexnet_jax.{verb}; assert "jax" not in sys.modules'
  subprocess.run([sys.executable, '-c', check], check=True)
