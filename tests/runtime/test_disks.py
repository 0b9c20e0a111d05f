"""A disk that is full, or may not be written: one message, and nothing saved
is lost (docs/reliability.md)."""

import contextlib
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import small_runs
from test_faults import refusal, unfinished, wait_for

from alexnet_jax.data import preparation
from alexnet_jax.runtime import errors, files, signals
from alexnet_jax.runtime.errors import UserError

pytestmark = [pytest.mark.usefixtures('cached'), pytest.mark.fresh]


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
  """A disk of its own of 60 MB."""
  folder = tmp_path / 'disk'
  folder.mkdir()
  mount = ['mount', '-t', 'tmpfs', '-o', 'size=60m', 'tmpfs', str(folder)]
  if subprocess.run(mount, capture_output=True).returncode:
    pytest.skip('no right to mount a small disk')
  yield folder
  subprocess.run(['umount', str(folder)], check=True)


def fill(disk: Path, leave: int = 0) -> Path:
  filler = disk / 'filler'
  size = shutil.disk_usage(disk).free - leave
  with filler.open('wb') as file, contextlib.suppress(OSError):
    os.posix_fallocate(file.fileno(), 0, size)
  return filler


def test_a_full_disk_while_saving(program, config, reference, tmp_path):
  workdir = tmp_path / 'run'
  process = program(workdir).start_until(6)
  resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (50_000, 50_000))
  message = refusal(small_runs.finish(process, status=2))
  folder = re.escape(str(workdir / 'checkpoints'))
  assert re.match(rf'checkpoint {folder}/\d+ could not be written: ', message)
  assert 'File too large' in message
  program(workdir).run()
  small_runs.assert_equal_runs(config, workdir, reference)


@pytest.mark.slow
def test_a_really_full_disk(program, config, reference, small_disk):
  workdir = small_disk / 'run'
  process = program(workdir).start_until(6)
  filler = fill(small_disk)
  message = refusal(small_runs.finish(process, status=2))
  assert str(workdir) in message
  assert 'No space left on device' in message or 'ENOSPC' in message
  filler.unlink()
  program(workdir).run()
  small_runs.assert_equal_runs(config, workdir, reference)


@pytest.mark.slow
def test_a_full_disk_while_logging(program, config, reference, tmp_path):
  config.checkpoint.every = 'never'  # only at evaluations
  workdir = tmp_path / 'run'
  process = program(workdir, config).start_until(6)
  wait_for(process, lambda: not unfinished(workdir))
  size = (workdir / 'metrics.jsonl').stat().st_size
  resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, size))
  message = refusal(small_runs.finish(process, status=2))
  # Where a save is under way as well, it is what is told last.
  assert re.match(
    f'(checkpoint )?{re.escape(str(workdir))}/(metrics|events|checkpoints).* '
    'could not be written: .*File too large',
    message,
  )
  out = program(workdir, config).run()
  assert re.search('resuming from step (5|9|14)', out)
  small_runs.assert_equal_runs(config, workdir, reference)


def test_failures_that_follow_each_other_are_all_told():
  """A log that fails, and then the save that was under way."""

  def write(file: str, problem: str) -> None:
    with files.explained(file):
      raise OSError(problem)

  def run() -> None:
    with contextlib.ExitStack() as stack:
      stack.callback(write, 'checkpoints/4', 'full')
      stack.callback(write, 'metrics.jsonl', 'full')  # again, at its end
      write('metrics.jsonl', 'full')

  with pytest.raises(UserError) as caught:
    run()
  messages = errors.all_of(caught.value).splitlines()
  starts = [message.partition(' could not')[0] for message in messages]
  assert starts == ['metrics.jsonl', 'and then: checkpoints/4']


def test_a_failure_that_is_told_in_other_words_is_told_once():
  def reword() -> None:
    try:
      raise UserError('16 of what')
    except UserError as error:
      raise UserError(f'model.width: {error}') from error

  with pytest.raises(UserError) as caught:
    reword()
  assert errors.all_of(caught.value) == 'model.width: 16 of what'


def files_of(folder: Path) -> dict[str, bytes]:
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file() and path.name != '.lock'
  }


def prepare_again(data_dir: Path, folder: Path) -> None:
  preparation.prepare(
    'folder',
    data_dir=folder,
    name='pictures',
    input_dir=str(data_dir.parent / 'pictures_input'),
    validation_share=0.0,
    num_workers=1,
  )


def test_a_full_disk_while_preparing(data_dir, tmp_path):
  whole = files_of(data_dir / 'pictures')
  folder = tmp_path / 'data'
  unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
  for limit in (0, max(map(len, whole.values())) - 1):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, unlimited[1]))
    try:
      with pytest.raises(UserError, match='could not be written: .*File too'):
        prepare_again(data_dir, folder)
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert not files_of(folder)
  prepare_again(data_dir, folder)
  assert files_of(folder / 'pictures') == whole


@pytest.mark.slow
def test_a_really_full_disk_while_preparing(data_dir, small_disk):
  """There is room for most records; for all, but not for the statistics."""
  whole = files_of(data_dir / 'pictures')
  records = sum(len(b) for name, b in whole.items() if 'array_record' in name)
  folder = small_disk / 'data'
  for room in (12_000_000, records + 500_000):
    filler = fill(small_disk, room)
    with pytest.raises(UserError, match='could not be written: .*No space'):
      prepare_again(data_dir, folder)
    assert not files_of(folder)
    filler.unlink()
  prepare_again(data_dir, folder)
  assert files_of(folder / 'pictures') == whole


def test_a_folder_that_cannot_be_made(program):
  """Not by root either, there."""
  message = refusal(program(Path('/sys/run')).run(status=2))
  reason = 'not permitted|Permission denied|Read-only file system'
  assert re.match(rf'/sys/run could not be written: .*({reason})', message)


@pytest.mark.slow
def test_a_disk_that_is_read_only(program, config, reference, small_disk):
  workdir = small_disk / 'run'
  process = program(workdir).start_until(6)
  process.terminate()
  small_runs.finish(process, signals.STOPPED)
  mount = ['mount', '-o', 'remount,ro', str(small_disk)]
  subprocess.run(mount, check=True)
  message = refusal(program(workdir).run(status=2))
  assert str(workdir) in message and 'Read-only file system' in message
  subprocess.run([*mount[:2], 'remount,rw', mount[3]], check=True)
  program(workdir).run()
  small_runs.assert_equal_runs(config, workdir, reference)
