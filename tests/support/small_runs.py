"""Small runs of the real program, and the comparison of two of them."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
from etils import epath
from flax import traverse_util
from ml_collections import ConfigDict
from PIL import Image

from alexnet_jax.data import preparation
from alexnet_jax.runtime import checkpoint
from alexnet_jax.training import saved as saved_run
from alexnet_jax.training import state
from alexnet_jax.training.settings import configure
from configs import default

ROOT = Path(__file__).parents[2]
CLASSES = 6
# Not divisible by the batch of 8, nor by the 2 and 4 parts of one.
IMAGES = {'train': 36, 'validation': 13, 'test': 11}


def prepare_pictures(
  folder: Path, name: str, splits=tuple(IMAGES), **options
) -> Path:
  """Prepares a data set of coloured noise; returns the folder of data sets."""
  rng = np.random.default_rng(0)
  for split in splits:
    for index in range(IMAGES[split]):
      label = index % CLASSES
      block = rng.integers(0, 256, (8, 8, 3)) // 2
      block[..., label % 3] += 20 * (label + 1)
      path = folder / f'{name}_input' / split / str(label) / f'{index}.png'
      path.parent.mkdir(parents=True, exist_ok=True)
      image = Image.fromarray(block.astype(np.uint8))
      image.resize((260, 256), Image.Resampling.BICUBIC).save(path)
  preparation.prepare(
    'folder',
    data_dir=folder / 'data',
    name=name,
    input_dir=str(folder / f'{name}_input'),
    validation_share=0.0,
    num_workers=1,
    **options,
  )
  return folder / 'data'


def small_config(data_dir: Path, **overrides) -> ConfigDict:
  """A run of seconds: 18 steps, evaluated at 5, 9, 14 and 18 (an epoch has
  4.5), and a rate that falls after some of these.

  Args:
    data_dir: of `prepare_pictures`.
    **overrides: such as model__width=0.1.
  """
  config = default.get_config()
  config.update_from_flattened_dict(
    {
      'data.name': 'pictures',
      'data.dir': str(data_dir),
      'augment.crop_size': 64,
      'model.width': 0.05,
      'batch_size': 8,
      'length': '4 epochs',
      'log_every': '1 step',
      'checkpoint.every': '2 steps',
      'schedule.kind': 'plateau',
      'schedule.patience': 1.0,
    }
    | {name.replace('__', '.'): value for name, value in overrides.items()}
  )
  return config


@dataclasses.dataclass(frozen=True)
class Program:
  """`python -m alexnet_jax.main` with the flags of one configuration.

  Attributes:
    config: default.py with some values changed.
    workdir: of the run.
    cache: of compiled programs, for speed.
  """

  config: ConfigDict
  workdir: Path
  cache: Path

  def start(self, *more: str, **options) -> subprocess.Popen:
    defaults = flat(default.get_config())
    flags = ['--config=configs/default.py', f'--workdir={self.workdir}']
    if '--mode=eval' not in more:
      flags += ['--noreport']
    flags += [
      f'--config.{name}={value}'
      for name, value in flat(self.config).items()
      if value != defaults[name]
    ]
    program = [sys.executable, '-m', 'alexnet_jax.main']
    return subprocess.Popen(
      [*program, *flags, *more],
      cwd=ROOT,
      env=os.environ
      | {
        'JAX_COMPILATION_CACHE_DIR': str(self.cache),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
      },
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      **options,
    )

  def run(self, *more: str, status: int = 0) -> str:
    """Runs to the end; returns stdout and stderr together."""
    return finish(self.start(*more), status)

  def start_until(self, step: int, **options) -> subprocess.Popen:
    """Starts, and returns once it has logged a step."""
    process = self.start(**options)
    wait_until(process, self.workdir, step)
    return process


def wait_until(process: subprocess.Popen, workdir: Path, step: int) -> None:
  """Returns once a running program has logged a step."""
  while process.poll() is None and last_step(workdir) < step:
    time.sleep(0.005)
  assert process.poll() is None, process.communicate()


def finish(process: subprocess.Popen, status: int = 0) -> str:
  """Waits for a program; no program ever ends in a traceback."""
  out, err = process.communicate(timeout=900)
  assert process.returncode == status, out + err
  assert 'Traceback' not in err, err
  assert status or 'leaked' not in err, err
  return out + err


def kill(process: subprocess.Popen) -> None:
  """SIGKILL; and none of its workers holds on to its pipes for long."""
  process.kill()
  process.communicate(timeout=60)
  assert process.returncode == -signal.SIGKILL


def last_step(workdir: Path) -> int:
  path = workdir / 'metrics.jsonl'
  lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
  whole = [line for line in lines if line.endswith(b'\n')]
  return json.loads(whole[-1])['step'] if whole else 0


def flat(config: ConfigDict) -> dict:
  """{'model.width': 0.25, ...}"""
  return traverse_util.flatten_dict(config.to_dict(), sep='.')


def rows(workdir: Path) -> list[dict]:
  """The rows of metrics.jsonl, without times."""
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [
    {k: v for k, v in json.loads(line).items() if not k.startswith('time/')}
    for line in lines
  ]


def saved(config: ConfigDict, workdir: Path, which='last'):
  """The state of a checkpoint as {path: NumPy array}, and its meta data."""
  dataset, setup = state.open_setup(configure(config))
  folder = epath.Path(workdir) / 'checkpoints'
  with checkpoint.Checkpointer(folder) as checkpointer:
    model, names = config.model.to_dict(), dataset.class_names
    restored = saved_run.restore(checkpointer, which, setup, model, names)
  assert restored is not None
  leaves = jax.tree_util.tree_leaves_with_path(restored[0])
  return (
    {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves},
    restored[1],
  )


def assert_equal_runs(config: ConfigDict, workdir: Path, reference: Path):
  """To the bit: state, position of the schedule, and rows but for times."""
  assert rows(workdir) == rows(reference)
  (state_a, meta_a), (state_b, meta_b) = (
    saved(config, folder) for folder in (workdir, reference)
  )
  assert state_a.keys() == state_b.keys()
  assert any('opt_state' in name for name in state_a)
  for name, array in state_a.items():
    assert array.tobytes() == state_b[name].tobytes(), name
  assert meta_a['schedule'] == meta_b['schedule']
