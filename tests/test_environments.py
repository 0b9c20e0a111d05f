"""Machines that lack something: one message each, or no difference at all."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import small_pictures
import small_runs

from alexnet_jax.data import pipeline
from alexnet_jax.runtime import errors, files
from alexnet_jax.runtime.errors import UserError

# `errors.run` around a few lines, as every verb has it.
_VERB = """
import sys
from alexnet_jax.runtime import errors
def main(argv):
  {}
errors.run(main)
"""


def run(body: str, **options) -> subprocess.CompletedProcess:
  environment = os.environ | options.pop('environment', {})
  return subprocess.run(
    [sys.executable, '-c', _VERB.format(body)],
    capture_output=True,
    timeout=200,
    env=environment,
    cwd=small_runs.ROOT,
    **options,
  )


@pytest.mark.parametrize('unbuffered', ['', '1'])
@pytest.mark.parametrize('stream', ['stdout', 'stderr'])
def test_nobody_reads_on(unbuffered, stream):
  read, write = os.pipe()
  os.close(read)
  body = f'for i in range(100000): print(i, file=sys.{stream})'
  ended = subprocess.run(
    [sys.executable, '-c', _VERB.format(body)],
    **{'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, stream: write},
    env=os.environ | {'PYTHONUNBUFFERED': unbuffered},
    timeout=200,
    cwd=small_runs.ROOT,
  )
  os.close(write)
  assert ended.returncode == errors.HUNG_UP
  assert not ended.stdout and not ended.stderr


def test_ctrl_c_is_a_word_and_no_traceback():
  ended = run('import os, signal; os.kill(os.getpid(), signal.SIGINT)')
  assert ended.returncode == errors.INTERRUPTED
  assert ended.stderr == b'stopped\n' and not ended.stdout


def test_another_broken_pipe_is_no_reader_that_left():
  ended = run('raise BrokenPipeError(32, "of a worker")')
  assert ended.returncode == 1
  assert b'of a worker' in ended.stderr


@pytest.mark.parametrize('encoding', ['ascii', 'latin-1', 'utf-8'])
def test_letters_that_the_terminal_lacks(encoding):
  environment = {'PYTHONIOENCODING': encoding}
  ended = run(r'print("\u65e5\udcff")', environment=environment)
  assert ended.returncode == 0
  expected = '\u65e5\\udcff'
  assert ended.stdout.decode(encoding).strip() == (
    expected if encoding == 'utf-8' else '\\u65e5\\udcff'
  )


@pytest.mark.parametrize('platform', ['cuda', 'none_of_these'])
def test_a_platform_that_is_not_there(platform):
  environment = {'JAX_PLATFORMS': platform}
  ended = run('import jax; jax.devices()', environment=environment)
  (line,) = ended.stderr.decode().splitlines()
  assert ended.returncode == 2
  assert line.startswith('error: JAX finds no device to compute on')
  assert f'JAX_PLATFORMS={platform}' in line


@pytest.mark.parametrize(
  'program',
  [
    'import jax.numpy as jnp; jnp.zeros(1 << 50)',
    # As a GPU does that others have filled, in an H100's words.
    'import jax; raise jax.errors.JaxRuntimeError("INTERNAL: Failed to get '
    r'configs for: 2 out of 82 instructions.\n - RESOURCE_EXHAUSTED: : '
    'CUDA_ERROR_OUT_OF_MEMORY: out of memory")',
  ],
)
def test_a_device_without_the_memory(program):
  ended = run(program)
  (line,) = ended.stderr.decode().splitlines()
  assert ended.returncode == 2
  assert line.startswith('error: the device has too little memory')
  assert 'config.batch_size' in line and 'out of memory' in line.lower()


def test_a_bucket_that_has_given_enough_is_not_taken_for_a_device():
  program = 'raise ValueError("RESOURCE_EXHAUSTED: too many requests")'
  assert 'Traceback' in run(program).stderr.decode()


def test_a_user_without_a_name_or_a_home(tmp_path):
  """As in a container: docker run --user 54321."""
  nobody = ['unshare', '--user', '--map-user=54321', '--map-group=54321']
  if subprocess.run([*nobody, 'true'], check=False).returncode:
    pytest.skip('no namespaces of users here')
  tree = small_pictures.write_tree(tmp_path / 'tree', {'a': 2, 'b': 2})
  data_dir = tmp_path / 'data'
  environment = {k: v for k, v in os.environ.items() if k != 'HOME'}
  flags = [f'--input={tree}', '--name=x', f'--data_dir={data_dir}', '--size=8']
  prepare = [sys.executable, '-m', 'alexnet_jax.prepare', '--source=folder']
  ended = subprocess.run(
    [*nobody, *prepare, *flags, '--validation_share=0.5', '--workers=1'],
    env=environment,
    capture_output=True,
    text=True,
    timeout=200,
    cwd=small_runs.ROOT,
  )
  assert ended.returncode == 0, ended.stderr
  assert '2 train, 2 validation' in ended.stdout
  code = (
    'import sys; from alexnet_jax.runtime import files; '
    'from alexnet_jax.runtime.checkpoint import Checkpointer\n'
    'import numpy as np; state = {"w": np.arange(3)}\n'
    'with Checkpointer(sys.argv[1]) as c: c.save(1, state, {})\n'
    'with Checkpointer(sys.argv[1]) as c: print(c.restore("last", state)[1])\n'
    'files.folder("~/x")'
  )
  ended = subprocess.run(
    [*nobody, sys.executable, '-c', code, str(tmp_path / 'run')],
    env=environment,
    capture_output=True,
    text=True,
    timeout=200,
    cwd=small_runs.ROOT,
  )
  assert ended.stdout == '{}\n'
  assert 'the home folder is not known: set HOME' in ended.stderr


@pytest.mark.parametrize(
  ('number', 'advice'),
  [
    (errno.ENOSPC, 'make room'),
    (errno.EDQUOT, 'make room'),
    (errno.EFBIG, 'make room'),
    (errno.EACCES, 'mend this'),
    (errno.EROFS, 'mend this'),
  ],
)
def test_room_is_made_where_it_is_short(number, advice):
  with (
    pytest.raises(UserError, match=f'intact: {advice}, then'),
    files.explained('x'),
  ):
    raise OSError(number, os.strerror(number))


def test_shared_memory_is_named(monkeypatch):
  usage = shutil.disk_usage('/')._replace(total=64_000_000, free=1_000_000)
  monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage)
  assert '/dev/shm holds 64 MB, 1 MB free' in pipeline._shared_memory()


def test_a_configuration_with_an_argument(tmp_path):
  file = tmp_path / 'arg.py'
  file.write_text(
    'from configs import default\n'
    'def get_config(length):\n'
    '  config = default.get_config()\n'
    '  config.length, config.data.name = length, "gone"\n'
    '  return config\n'
  )
  main = [sys.executable, '-m', 'alexnet_jax.main', f'--config={file}:2 steps']
  ended = subprocess.run(
    [*main, '--workdir=~/run', f'--config.data.dir={tmp_path}'],
    env=os.environ | {'HOME': str(tmp_path)},
    capture_output=True,
    text=True,
    timeout=200,
    cwd=small_runs.ROOT,
  )
  assert ended.stderr.startswith('error: no data set gone')
  assert not Path('~').exists()
