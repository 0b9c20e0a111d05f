"""Whatever goes wrong, nothing saved is lost: the run that goes on afterwards
ends with the bits of one that nothing disturbed (docs/reliability.md)."""

import contextlib
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import small_runs

from alexnet_jax.data import builders, pipeline, preparation
from alexnet_jax.learning import evaluate, train
from alexnet_jax.runtime import signals
from alexnet_jax.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures('cached')

EVALUATED = {5, 9, 14, 18}  # steps, see small_runs.small_config


def refusal(out: str) -> str:
  """The one message that a program ended with."""
  (message,) = re.findall('^error: (.*)', out, re.MULTILINE)
  return message


# ---- SIGKILL.


def kill_at_start(process: subprocess.Popen, _: Path, rng) -> None:
  """While Python and JAX load, or the run is being restored."""
  with contextlib.suppress(subprocess.TimeoutExpired):
    process.wait(rng.uniform(0, 6))


def kill_in_a_step(process: subprocess.Popen, workdir: Path, rng) -> None:
  first = small_runs.last_step(workdir)
  step = first + rng.randint(1, 3)
  wait_for(process, lambda: small_runs.last_step(workdir) >= step)
  time.sleep(rng.uniform(0, 0.1))


def kill_in_a_save(process: subprocess.Popen, workdir: Path, rng) -> None:
  before = set(unfinished(workdir))
  wait_for(process, lambda: set(unfinished(workdir)) - before)
  time.sleep(rng.uniform(0, 0.02))


def kill_in_an_evaluation(process, workdir: Path, rng) -> None:
  wait_for(process, lambda: is_evaluating(workdir))
  time.sleep(rng.uniform(0, 0.02))


def wait_for(process: subprocess.Popen, condition) -> None:
  """Waits for it, or for the end of the process."""
  while process.poll() is None and not condition():
    time.sleep(0.002)


def unfinished(workdir: Path) -> list[Path]:
  folders = (workdir / 'checkpoints').glob('*')
  return [f for f in folders if not (f / 'manifest.json').exists()]


def is_evaluating(workdir: Path) -> bool:
  if small_runs.last_step(workdir) not in EVALUATED:
    return False
  return 'train/loss' in small_runs.rows(workdir)[-1]


def test_a_killed_run_ends_as_if_it_had_not_been(
  program, config, reference, tmp_path
):
  workdir = tmp_path / 'run'
  process = program(workdir).start_until(random.Random(2012).randint(1, 12))
  small_runs.kill(process)
  program(workdir).run()
  small_runs.assert_equal_runs(config, workdir, reference)


@pytest.mark.slow
@pytest.mark.parametrize('seed', [1, 2, 3, 4, 5])
def test_killed_at_random_moments(seed, program, config, reference, tmp_path):
  """Four times a run: with all seeds, twenty times."""
  # Workers change nothing but who reads: the reference had none.
  config.data.workers = seed % 2
  rng = random.Random(seed)
  workdir = tmp_path / 'run'
  moments = [
    kill_at_start,
    kill_in_a_step,
    kill_in_a_save,
    kill_in_an_evaluation,
  ]
  rng.shuffle(moments)
  for moment in moments:
    process = program(workdir, config).start()
    moment(process, workdir, rng)
    small_runs.kill(process)
    print(
      f'{moment.__name__}: after step {small_runs.last_step(workdir)}, '
      f'unfinished saves {[f.name for f in unfinished(workdir)]}, '
      f'evaluating {is_evaluating(workdir)}'
    )
  program(workdir, config).run()
  small_runs.assert_equal_runs(config, workdir, reference)


@pytest.mark.slow
def test_a_killed_run_leaves_no_workers(program, config, tmp_path):
  config.data.workers = 1
  process = program(tmp_path / 'run', config).start_until(2)
  children = descendants(process.pid)
  assert children
  small_runs.kill(process)
  end = time.monotonic() + 60
  while any(alive(child) for child in children):
    assert time.monotonic() < end, 'a worker outlives its run by a minute'
    time.sleep(0.5)


def descendants(pid: int) -> list[int]:
  found = []
  for task in Path(f'/proc/{pid}/task').iterdir():
    with contextlib.suppress(FileNotFoundError):  # threads come and go
      for child in (task / 'children').read_text().split():
        found += [int(child), *descendants(int(child))]
  return found


def alive(pid: int) -> bool:
  try:
    stat = Path(f'/proc/{pid}/stat').read_text()
  except FileNotFoundError:
    return False
  return stat.rpartition(')')[2].split()[0] != 'Z'


# ---- SIGTERM and SIGINT (without workers: test_train).


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_workers_leave_it_to_the_run_to_leave(
  number, program, config, reference, tmp_path
):
  """A terminal's Ctrl-C, like Slurm's SIGTERM, is sent to all processes."""
  config.data.workers = 1
  workdir = tmp_path / 'run'
  process = program(workdir, config).start_until(3, start_new_session=True)
  os.killpg(process.pid, number)
  small_runs.finish(process, signals.STOPPED)
  program(workdir, config).run()
  small_runs.assert_equal_runs(config, workdir, reference)


# ---- A save cut short, or spoilt later.


def largest(folder: Path) -> Path:
  files = [path for path in folder.rglob('*') if path.is_file()]
  return max(files, key=lambda path: path.stat().st_size)


def flip_a_bit(file: Path) -> str:
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 1
  file.write_bytes(content)
  return file.name


def flip_a_bit_of_an_array(checkpoint: Path) -> str:
  return flip_a_bit(largest(checkpoint / 'state'))


def truncate_an_array(checkpoint: Path) -> str:
  file = largest(checkpoint / 'state')
  os.truncate(file, file.stat().st_size // 2)
  return file.name


def remove_a_file(checkpoint: Path) -> str:
  file = largest(checkpoint / 'state')
  file.unlink()
  return file.name


def leave_a_temporary_folder(checkpoint: Path) -> str:
  for name in ('manifest.json', 'meta.json'):
    (checkpoint / name).unlink()
  (checkpoint / 'state').rename(checkpoint / 'state.orbax-checkpoint-tmp')
  return 'it was cut short'


@pytest.mark.parametrize(
  'damage',
  [
    flip_a_bit_of_an_array,
    pytest.param(truncate_an_array, marks=pytest.mark.slow),
    pytest.param(remove_a_file, marks=pytest.mark.slow),
    pytest.param(leave_a_temporary_folder, marks=pytest.mark.slow),
  ],
)
def test_a_damaged_checkpoint(damage, program, config, reference, tmp_path):
  workdir = shutil.copytree(reference, tmp_path / 'run')
  last = workdir / 'checkpoints' / '18'
  what = damage(last)
  out = program(workdir).run()
  assert re.search(f'skipping damaged checkpoint {last}: .*{what}', out)
  assert 'resuming from step 16' in out
  small_runs.assert_equal_runs(config, workdir, reference)


# ---- Disks.


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


# ---- Two runs in one folder.


def test_a_second_run_in_a_folder_is_refused(
  program, config, reference, tmp_path
):
  workdir = tmp_path / 'run'
  process = program(workdir).start_until(2)
  with pytest.raises(UserError, match=f'another run is going on in {workdir}'):
    train.train_and_evaluate(config, workdir)
  small_runs.finish(process)
  small_runs.assert_equal_runs(config, workdir, reference)


# ---- Damaged records.


@pytest.fixture
def damaged(data_dir, tmp_path):
  """Copies the data set and spoils `pictures-<split>`'s records."""

  def damage(split: str, *records: int) -> Path:
    copy = tmp_path / 'damaged'
    if not copy.exists():
      shutil.copytree(data_dir, copy)
    (file,) = copy.glob(f'pictures/*/pictures-{split}.array_record*')
    source = builders.open_dataset('pictures', data_dir).source(split)
    content = bytearray(file.read_bytes())
    for record in records:
      start = content.index(source[record]['image'][100, 50:70].tobytes())
      content[start] ^= 1
    file.write_bytes(content)
    return copy

  return damage


@pytest.mark.parametrize('workers', [0, 1])
def test_a_damaged_record_is_an_error(workers, damaged, config, tmp_path):
  config.data.dir = str(damaged('train', 3))
  config.data.workers = workers
  with pytest.raises(UserError) as error:
    train.train_and_evaluate(config, tmp_path / 'run')
  assert re.match(
    r'record 3 of .*/pictures-train.array_record-00000-of-00001 '
    r'\(example 3 of train\) is damaged: .*hash mismatch.*--overwrite',
    str(error.value),
  )


def test_some_damaged_records_are_replaced(damaged, config, tmp_path, caplog):
  """To the bit as if the next good records had been stored twice."""
  config.data.dir = str(damaged('train', 3, 7, 8, 35))
  config.data.max_bad_records = 4
  config.length, config.evals.every = '6 steps', 'never'
  workdir = tmp_path / 'run'
  assert train.train_and_evaluate(config, workdir) == 0
  _, meta = small_runs.saved(config, workdir)
  assert meta['bad_records'] == [3, 7, 8, 35]
  assert 'examples [' in caplog.text

  dataset = builders.open_dataset('pictures', config.data.dir)
  options = {'seed': 0, 'batch_size': 36, 'rows': range(36)}
  with contextlib.closing(
    pipeline.training_batches(dataset, **options, max_bad_records=4)
  ) as batches:
    batch = next(batches)
  records = dataset.source('train')
  bad = {3: 4, 7: 9, 8: 9, 35: 0}
  good = [bad.get(i, i) for i in range(36)]
  stored = sorted(records[i]['image'].tobytes() for i in good)
  assert sorted(image.tobytes() for image in batch['image']) == stored
  for image, label, index in zip(
    batch['image'], batch['label'], batch['replaced'], strict=True
  ):
    if index >= 0:
      np.testing.assert_array_equal(image, records[bad[index]]['image'])
      assert label == records[bad[index]]['label']

  # One more is too many, though most were met before the run was resumed.
  damaged('train', 20)
  config.length = '18 steps'
  with pytest.raises(UserError) as error:
    train.train_and_evaluate(config, workdir)
  message = 'examples [3, 7, 8, 20, 35] of train are damaged, more than'
  assert str(error.value).startswith(message)


def test_a_damaged_record_of_an_evaluation(damaged, config, reference):
  config.data.dir = str(damaged('test', 10))
  config.data.max_bad_records = 5
  with pytest.raises(UserError, match=r'\(example 10 of test\) is damaged'):
    evaluate.evaluate_checkpoint(config, reference, 'last', 'test', 1)


@pytest.mark.parametrize('length', [0, 1000, 1 << 16, 5 << 16, -1])
def test_a_file_of_records_cut_short(length, damaged, config, tmp_path):
  """Also at the border of a block, where ArrayRecord gives empty records."""
  config.data.dir = str(damaged('train'))
  (file,) = Path(config.data.dir).glob('pictures/*/*-train.array_record*')
  os.truncate(file, length % file.stat().st_size)
  with pytest.raises(UserError, match=f'^{file} is damaged: '):
    train.train_and_evaluate(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


# ---- A worker that dies.


@pytest.mark.slow
def test_a_worker_that_is_killed(program, config, reference, tmp_path):
  config.data.workers = 1
  workdir = tmp_path / 'run'
  process = program(workdir, config).start_until(3)
  for child in descendants(process.pid):
    if b'spawn_main' in Path(f'/proc/{child}/cmdline').read_bytes():
      os.kill(child, signal.SIGKILL)
  message = refusal(small_runs.finish(process, status=2))
  assert message.startswith('a worker process that reads data was killed')
  program(workdir, config).run()
  small_runs.assert_equal_runs(config, workdir, reference)


# ---- A loss that turns NaN.


@pytest.mark.slow
def test_a_loss_that_turns_nan(program, config, reference, tmp_path):
  workdir = tmp_path / 'run'
  process = program(workdir).start_until(6)
  process.terminate()
  small_runs.finish(process, signals.STOPPED)
  step = small_runs.last_step(workdir)
  bad = config.copy_and_resolve_references()
  bad.schedule.rate = 1e30
  # One step of it gives a state that is finite still, and would be saved.
  bad.checkpoint.every = bad.evals.every = 'never'
  message = refusal(program(workdir, bad).run(status=2))
  assert re.search(rf'of step ({step + 1}|{step + 2}) is not finite', message)
  program(workdir, config).run()
  small_runs.assert_equal_runs(config, workdir, reference)
