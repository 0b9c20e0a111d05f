"""The command `alexnet`, and flags that several verbs have."""

import configparser
import importlib
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import small_pictures
import small_runs

import alexnet_jax
from alexnet_jax import __main__ as command
from alexnet_jax.runtime import errors

ROOT = Path(alexnet_jax.__file__).parent


def said(monkeypatch, capsys, *words: str) -> tuple[int, str]:
  """The exit code of `alexnet WORDS`, and its output and its errors."""
  monkeypatch.setattr(sys, 'argv', ['alexnet', *words])
  status = command.main()
  return status, ''.join(capsys.readouterr())


def run(*words: str) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, *words],
    capture_output=True,
    text=True,
    timeout=200,
    cwd=small_runs.ROOT,
  )


@pytest.mark.parametrize(
  ('config', 'said'),
  [('folder.py', 'no data set none'), ('finetune.py:none', 'no run in none')],
)
def test_the_command_that_pip_installs_reads_configurations(config, said):
  """Its folder is not the checkout's, as that of `python -m` is."""
  installed = shutil.which('alexnet', path=Path(sys.executable).parent)
  if installed is None:
    pytest.skip('the package is not installed beside this Python')
  environment = {n: x for n, x in os.environ.items() if n != 'PYTHONPATH'}
  ended = subprocess.run(
    [
      *(installed, 'train'),
      *(f'--config=configs/{config}', '--config.data.name=none'),
    ],
    capture_output=True,
    text=True,
    timeout=200,
    cwd=small_runs.ROOT,
    env=environment,
  )
  assert f'error: {said}' in ended.stderr


@pytest.mark.parametrize('words', [('--help',), ('-h',), ('help',), ()])
def test_help_names_each_verb_on_a_line(monkeypatch, capsys, words):
  status, out = said(monkeypatch, capsys, *words)
  assert status == (0 if words else 2)
  modules = {path.stem for path in ROOT.glob('*.py')}
  verbs = modules - {'__init__', '__main__', 'library', 'main'}
  listed = [line.split()[0] for line in out.splitlines() if line[:2] == '  ']
  assert sorted(listed[1:]) == sorted(verbs | {'train', 'eval'})
  assert all(len(line) <= 80 for line in out.splitlines())


def test_nobody_reads_the_help():
  read, write = os.pipe()
  os.close(read)
  command = [sys.executable, '-m', 'alexnet_jax', '--help']
  ended = subprocess.run(
    command, stdout=write, stderr=subprocess.PIPE, cwd=small_runs.ROOT
  )
  os.close(write)
  assert (ended.returncode, ended.stderr) == (errors.HUNG_UP, b'')


@pytest.mark.parametrize(
  ('word', 'near'),
  [
    *(('trian', 'train'), ('neighbors', 'neighbours'), ('bench', 'benchmark')),
    *(('evaluate', 'eval'), ('test', 'eval'), ('import', 'weights')),
  ],
)
def test_an_unknown_verb_names_the_nearest(monkeypatch, capsys, word, near):
  assert said(monkeypatch, capsys, word) == (
    2,
    f'error: there is no command {word}: try {near}\n',
  )


def test_a_verb_like_no_other_names_all(monkeypatch, capsys):
  status, out = said(monkeypatch, capsys, 'xyz')
  assert status == 2
  assert out.strip().endswith(f': try {" or ".join(command.VERBS)}')


def test_flags_come_after_the_verb(monkeypatch, capsys):
  status, out = said(monkeypatch, capsys, '--config=x', 'train')
  assert status == 2
  assert 'the command comes first: alexnet train' in out


def test_the_version(monkeypatch, capsys):
  version = f'alexnet_jax {alexnet_jax.__version__}\n'
  assert said(monkeypatch, capsys, '--version') == (0, version)


def test_a_verb_is_the_module():
  """With the flags that it shares with other verbs, and its own."""
  short, long = (
    run('-m', *words, '--help')
    for words in (('alexnet_jax', 'features'), ('alexnet_jax.features',))
  )
  assert short.stdout == long.stdout and short.stdout.startswith('Writes what')
  shared = ('workdir', 'checkpoint', 'data_dir', 'split', 'layer', 'output')
  assert all(f'\n  --{name}: ' in short.stdout for name in shared)


def test_eval_is_a_mode_of_the_training_program():
  ended = run('-m', 'alexnet_jax', 'eval', '--workdir=/nowhere')
  assert ended.returncode == 2
  assert ended.stderr == 'error: no run in /nowhere: train first\n'
  ended = run('-m', 'alexnet_jax', 'eval', '--help')
  assert '--views: <1|2|9|10>: eval: ' in ended.stdout


def test_the_installed_script_with_processes_of_its_own(tmp_path):
  """As pip writes it. Workers of `prepare` import the verb again."""
  setup = configparser.ConfigParser()
  setup.read(ROOT.parent / 'setup.cfg')
  name, where = setup['options.entry_points']['console_scripts'].split(' = ')
  module, function = where.split(':')
  assert getattr(importlib.import_module(module), function) is command.main
  script = tmp_path / name.strip()
  script.write_text(
    f'#!{sys.executable}\nimport sys\nfrom {module} import {function}\n'
    f"if __name__ == '__main__':\n  sys.exit({function}())\n"
  )
  script.chmod(stat.S_IRWXU)
  tree = small_pictures.write_tree(tmp_path / 'tree', {'a': 2, 'b': 2})
  ended = subprocess.run(
    [
      *(script, 'prepare', '--source=folder', f'--input={tree}', '--name=x'),
      *(f'--data_dir={tmp_path}', '--size=8', '--validation_share=0.5'),
      '--workers=2',
    ],
    env=os.environ | {'PYTHONPATH': str(ROOT.parent)},
    capture_output=True,
    text=True,
    timeout=200,
  )
  assert ended.returncode == 0, ended.stderr
  assert '2 train, 2 validation' in ended.stdout
