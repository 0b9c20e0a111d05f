"""Whatever goes wrong, nothing saved is lost: the run that goes on afterwards
ends with the bits of one that nothing disturbed (docs/reliability.md)."""

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import small_runs

from alexnet_jax.runtime import signals
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training import loop as train

pytestmark = [pytest.mark.usefixtures('cached'), pytest.mark.fresh]

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
  bad.schedule.learning_rate = 1e30
  # One step of it gives a state that is finite still, and would be saved.
  bad.checkpoint.every = bad.evals.every = 'never'
  message = refusal(program(workdir, bad).run(status=2))
  assert re.search(rf'of step ({step + 1}|{step + 2}) is not finite', message)
  program(workdir, config).run()
  small_runs.assert_equal_runs(config, workdir, reference)
