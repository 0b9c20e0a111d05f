"""`prepare` killed, interrupted or run twice at once: whole or not there."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from small_pictures import (
  draw_picture,
  start,
  write_tree,
)

from alexnet_jax.data import (
  builders,
)
from alexnet_jax.runtime.errors import UserError


def _children(pid: int) -> list[int]:
  tasks = Path(f'/proc/{pid}/task').glob('*/children')
  return [int(child) for task in tasks for child in task.read_text().split()]


def _wait_for(condition, seconds: float = 200) -> None:
  deadline = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.01)


def _big_tree(root: Path, count: int) -> Path:
  folder = write_tree(root, {'a': 0}) / 'a'
  draw_picture(0, (1600, 1200)).save(folder / '0.jpg')
  for i in range(1, count):
    (folder / f'{i}.jpg').hardlink_to(folder / '0.jpg')
  return root


def test_killed_run_leaves_nothing_whole_and_the_next_finishes(tmp_path):
  tree = _big_tree(tmp_path / 'tree', 300)
  home = tmp_path / 'data' / 'pets'
  run = start(tmp_path, tree)
  _wait_for(lambda: list(home.glob('incomplete/**/*array_record*')))
  children = _children(run.pid)
  assert len(children) >= 2
  run.kill()
  run.communicate()
  with pytest.raises(UserError, match='no data set pets'):
    builders.open_dataset('pets', tmp_path / 'data')
  # The workers notice (a zombie, where nothing reaps, has no command line).
  _wait_for(
    lambda: (
      not any(
        Path(f'/proc/{child}/cmdline').exists()
        and Path(f'/proc/{child}/cmdline').read_bytes()
        for child in children
      )
    )
  )

  run = start(tmp_path, tree)
  output, _ = run.communicate(timeout=200)
  assert run.returncode == 0, output
  assert sorted(os.listdir(home)) == ['.lock', '1.0.0']
  dataset = builders.open_dataset('pets', tmp_path / 'data')
  assert len(dataset.source('train')) == 270


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path):
  tree = _big_tree(tmp_path / 'tree', 60)
  rng = random.Random(0)
  kills = 0
  while kills < 20:
    run = start(tmp_path, tree)
    with contextlib.suppress(subprocess.TimeoutExpired):
      run.wait(rng.uniform(0, 4))
    if run.poll() is None:
      kills += 1
    run.kill()
    run.communicate()
    with contextlib.suppress(UserError):
      dataset = builders.open_dataset('pets', tmp_path / 'data')
      assert len(list(dataset.source('train'))) == 54
      shutil.rmtree(dataset.path)


def test_interrupt_stops_at_once_and_clears_up(tmp_path):
  run = start(tmp_path, _big_tree(tmp_path / 'tree', 300))
  home = tmp_path / 'data' / 'pets'
  _wait_for(lambda: list(home.glob('incomplete/**/*array_record*')))
  os.killpg(run.pid, signal.SIGINT)  # Ctrl-C: the workers get it too
  run.communicate(timeout=200)
  assert run.returncode != 0
  assert os.listdir(home) == ['.lock']


def test_two_at_once_make_it_once(tmp_path, pets):
  runs = [start(tmp_path, pets) for _ in range(2)]
  outputs = [run.communicate(timeout=200)[0] for run in runs]
  assert [run.returncode for run in runs] == [0, 0], outputs
  assert sum('waiting for another process' in out for out in outputs) <= 1
  assert sum('already there' in out for out in outputs) == 1, outputs


def test_killed_worker_is_reported(tmp_path):
  run = start(tmp_path, _big_tree(tmp_path / 'tree', 300))
  home = tmp_path / 'data' / 'pets'
  _wait_for(lambda: list(home.glob('incomplete/**/*array_record*')))
  children = _children(run.pid)  # a tracker of multiprocessing's, and workers
  command_lines = [Path(f'/proc/{child}/cmdline') for child in children]
  spawned = [b'spawn_main' in line.read_bytes() for line in command_lines]
  os.kill(children[spawned.index(True)], signal.SIGKILL)
  output, _ = run.communicate(timeout=200)
  assert run.returncode == 2
  assert 'error: a worker process was killed' in output
  assert 'Traceback' not in output
  assert os.listdir(home) == ['.lock']
