"""Saves that fail, or are killed, leave what was complete."""

import logging
import random
import re
import resource
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from test_checkpoint import last, save_all, small

from alexnet_jax.runtime import files, orbax_logs
from alexnet_jax.runtime.checkpoint import Checkpointer
from alexnet_jax.runtime.errors import UserError


def test_a_full_disk_is_one_message(tmp_path, caplog):
  big = {'w': jnp.asarray(np.random.default_rng(0).normal(size=100_000))}
  unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
  with Checkpointer(tmp_path) as checkpointer:
    checkpointer.save(1, small(1), {'step': 1})
    checkpointer.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, unlimited[1]))
    try:
      checkpointer.save(2, big, {})
      with pytest.raises(UserError, match=r'2 could not be.*File too large'):
        checkpointer.save(3, small(3), {})
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert checkpointer.read_meta('last') == {'step': 1}
    checkpointer.save(3, small(3), {'step': 3})  # and training may go on
  assert last(tmp_path) == 3
  assert 'Traceback' not in caplog.text


def test_a_folder_that_cannot_be_made_is_one_message(tmp_path):
  (tmp_path / 'file').touch()
  code = (
    'import jax.numpy as jnp, sys\n'
    'from alexnet_jax.runtime.checkpoint import Checkpointer\n'
    'with Checkpointer(sys.argv[1]) as checkpointer:\n'
    '  checkpointer.save(1, {"w": jnp.zeros(3)}, {})'
  )
  ended = subprocess.run(
    [sys.executable, '-c', code, tmp_path / 'file' / 'checkpoints'],
    stderr=subprocess.PIPE,
    text=True,
    timeout=100,  # Orbax's threads would wait for the folder for 300 seconds
  )
  assert re.match(
    '.*UserError: .*could not be written: .*Not a dir',
    ended.stderr.splitlines()[-1],
  )


def test_orbax_is_quiet_and_warns(tmp_path, caplog):
  caplog.set_level(logging.INFO)
  save_all(tmp_path, [1, 2])
  assert last(tmp_path) == 2
  assert not [r for r in caplog.records if 'orbax' in r.pathname]
  for path, level, error, shown in (
    ('/x/orbax/checkpoint/y.py', logging.WARNING, None, True),
    ('/x/orbax/checkpoint/y.py', logging.INFO, None, False),
    ('/x/orbax/checkpoint/y.py', logging.ERROR, (OSError, None, None), False),
    ('/x/alexnet_jax/y.py', logging.INFO, None, True),
  ):
    record = logging.LogRecord('absl', level, path, 1, 'x', (), error)
    assert orbax_logs._quiet(record) == shown


_SAVE_FOR_EVER = """
import sys, jax, jax.numpy as jnp
from alexnet_jax.runtime.checkpoint import Checkpointer
save = lambda c, s: c.save(
  s, {'w': jnp.full((3,), s, jnp.float32), 'step': jnp.int32(s)}, {'step': s},
  error=1 / s)
with Checkpointer(sys.argv[1], keep=2) as checkpointer:
  meta = checkpointer.read_meta('last')
  step = meta['step'] if meta else 0
  print('start', step, flush=True)
  while True:
    step += 1
    save(checkpointer, step)
    print(step, flush=True)
"""


def kill_while_saving(folder, seed: int) -> None:
  """One life: starts at the last checkpoint, is killed at a random moment."""
  process = subprocess.Popen(
    [sys.executable, '-c', _SAVE_FOR_EVER, str(folder)],
    stdout=subprocess.PIPE,
    text=True,
  )
  try:
    assert process.stdout is not None
    started = int(process.stdout.readline().split()[1])
    rng = random.Random(seed)
    # The first saves are the slowest: kill there as well.
    for _ in range(rng.choice([0, 1, 5, 15])):
      process.stdout.readline()
    time.sleep(rng.uniform(0, 0.1))
  finally:
    process.kill()
  told = [int(line) for line in process.stdout.read().split()]
  process.wait()
  found = last(folder) if any(folder.glob('*/manifest.json')) else 0
  # `save` of step s returns once that of s - 1 is complete.
  assert found >= max([started, *(step - 1 for step in told)])
  complete = [int(path.parent.name) for path in folder.glob('*/manifest.json')]
  for step in sorted(complete)[-2:]:
    assert files.find_damage(epath.Path(folder / str(step))) is None


def test_kill_at_random_moments(tmp_path):
  for seed in range(3):
    kill_while_saving(tmp_path, seed)


@pytest.mark.slow
def test_kill_at_many_random_moments(tmp_path):
  for seed in range(10, 40):
    kill_while_saving(tmp_path, seed)
