"""Whatever ends a run, the next one ends as if nothing had happened."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import small_runs

from alexnet_jax.runtime import signals


def kill_at_random(program: small_runs.Program, seed: int) -> None:
  """Runs until a random moment: SIGKILL some time after a random step."""
  rng = random.Random(seed)
  process = program.start_until(rng.randint(1, 12))
  time.sleep(rng.uniform(0, 0.1))
  small_runs.kill(process)


def test_a_killed_run_ends_as_if_it_had_not_been(
  program, config, reference, tmp_path
):
  seed = 2012
  workdir = tmp_path / 'run'
  kill_at_random(program(workdir), seed)
  program(workdir).run()
  small_runs.assert_equal_runs(config, workdir, reference)


@pytest.mark.slow
@pytest.mark.parametrize('seed', [1, 2, 3, 4])
@pytest.mark.parametrize('workers', [0, 1])
def test_killed_at_random_moments(
  seed, workers, program, config, reference, tmp_path
):
  # Workers change nothing but who reads: the reference had none.
  config.data.workers = workers
  workdir = tmp_path / 'run'
  kill_at_random(program(workdir, config), seed)
  program(workdir, config).run()
  small_runs.assert_equal_runs(config, workdir, reference)


@pytest.mark.slow
def test_killed_again_and_again(program, config, reference, tmp_path):
  """Each time two to four steps on, so half-written saves are met, too."""
  rng = random.Random(5)
  workdir = tmp_path / 'run'
  step = 0
  while step < 13:
    step = max(step, small_runs.last_step(workdir)) + rng.randint(2, 4)
    small_runs.kill(program(workdir).start_until(step))
  program(workdir).run()
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
    for child in (task / 'children').read_text().split():
      found += [int(child), *descendants(int(child))]
  return found


def alive(pid: int) -> bool:
  try:
    stat = Path(f'/proc/{pid}/stat').read_text()
  except FileNotFoundError:
    return False
  return stat.rpartition(')')[2].split()[0] != 'Z'


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


def test_a_flipped_bit_in_the_last_checkpoint(
  program, config, reference, tmp_path
):
  workdir = shutil.copytree(reference, tmp_path / 'run')
  last = workdir / 'checkpoints' / '18'
  files = [path for path in (last / 'state').rglob('*') if path.is_file()]
  file = max(files, key=lambda path: path.stat().st_size)
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 1
  file.write_bytes(content)

  out = program(workdir).run()
  assert f'skipping damaged checkpoint {last}: ' in out
  assert str(file.relative_to(last)) in out
  assert 'resuming from step 16' in out
  small_runs.assert_equal_runs(config, workdir, reference)
