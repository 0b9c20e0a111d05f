"""The JAX backend: settings that must stand before it starts, and what it
runs on."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax
from absl import logging
from etils import epath

from alexnet_jax.runtime import distributed
from alexnet_jax.runtime.errors import UserError

# Options of `jax.jit` for what runs once or seldom, which takes longer to
# compile well than to run: on CPUs, half the time.
HASTY: dict[str, Any] = {'xla_backend_optimization_level': 1}
# For what is read and never run: a third less again.
UNRUN: dict[str, Any] = {'xla_backend_optimization_level': 0}

_DEVICES = Path('/dev')


def configure(
  devices: int, deterministic: bool, cache: epath.PathLike | None = None
) -> None:
  """Settings that a backend reads once; call before any has started, and
  after `distributed.initialize`.

  Args:
    devices: of the mesh. CPUs get as many virtual ones, each process its
      share, unless the user has chosen a number.
    deterministic: `config.deterministic`, which only GPUs need.
    cache: folder that keeps what is compiled, so that the same command starts
      sooner the next time; where the user has named one, that.
  """
  named = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
  if cache is not None and not named:
    jax.config.update('jax_compilation_cache_dir', str(cache))
  if jax.config.jax_num_cpu_devices < 0:  # type: ignore[attr-defined]
    share = devices // distributed.num_processes()
    jax.config.update('jax_num_cpu_devices', max(share, 1))
  if deterministic:
    flags = os.environ.get('XLA_FLAGS', '')
    os.environ['XLA_FLAGS'] = f'{flags} --xla_gpu_deterministic_ops=true'


def refuse_fallback(needed: bool = False, watched: bool = False) -> None:
  """Refuses CPUs that JAX has fallen back to: only a line among others tells,
  and weeks go by.

  Args:
    needed: a GPU, whether this machine has one or not.
    watched: by whoever started it, who is warned where the GPU is merely there:
      CUDA_VISIBLE_DEVICES does not name it, as launchers do.

  Raises:
    UserError: JAX uses CPUs, JAX_PLATFORMS does not say so, and a GPU is needed
      or there is one of NVIDIA's.
  """
  named = jax.config.jax_platforms  # type: ignore[attr-defined]
  if named or jax.default_backend() != 'cpu':
    return
  shown = os.environ.get('CUDA_VISIBLE_DEVICES')
  there = shown not in ('', '-1') and any(_DEVICES.glob('nvidia[0-9]*'))
  if not needed and not there:
    return
  where = 'a GPU that JAX does not use' if there else 'no GPU'
  text = (
    f"there is {where}: pip install 'alexnet_jax[cuda]', and look at what JAX "
    'says when it starts. CPUs are taken where JAX_PLATFORMS=cpu asks for them'
  )
  if needed or shown or not watched:
    raise UserError(text)
  logging.warning('this trains on a CPU: %s', text)


def describe() -> dict[str, Any]:
  """What numbers were made with: versions, commit, devices, CPU threads."""
  packages = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain')
  devices = jax.devices()
  return {
    'alexnet_jax': importlib.metadata.version('alexnet_jax'),
    'commit': _commit(),
    'python': platform.python_version(),
    **{name: importlib.metadata.version(name) for name in packages},
    'machine': f'{platform.system()} {platform.machine()}',
    'platform': devices[0].platform,
    'devices': [device.device_kind for device in devices],
    'processes': jax.process_count(),
    # XLA's CPU sums in another order with another number of threads.
    'cpu_threads': len(os.sched_getaffinity(0)),
    **(_nvidia() if devices[0].platform == 'gpu' else {}),
  }


def describe_gpus() -> str:
  """Of this process: which, how much memory JAX may take of each, driver and
  cuDNN, in a line; '' without one."""
  devices = jax.local_devices()
  if devices[0].platform != 'gpu':
    return ''
  kinds = ', '.join(sorted({device.device_kind for device in devices}))
  memory = (devices[0].memory_stats() or {}).get('bytes_limit', 0)
  versions = _nvidia()
  return (
    f'{len(devices)} x {kinds}, {memory / 1e9:.1f} GB of each for JAX; driver '
    f'{versions["driver"]}, cuDNN {versions["cudnn"]}'
  )


def _nvidia() -> dict[str, str]:
  query = 'nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader'
  cudnn = [
    package.version
    for package in importlib.metadata.distributions()
    if package.name.startswith('nvidia-cudnn-cu')
  ]
  return {
    'driver': _output(*query).partition('\n')[0] or 'unknown',
    'cudnn': cudnn[0] if cudnn else "the system's",
  }


def _commit() -> str:
  """The commit of the checkout this package is in, '' outside of one."""
  git = 'git', '-C', str(Path(__file__).parents[1])
  commit = _output(*git, 'rev-parse', '--short=12', 'HEAD')
  changed = commit and _output(*git, 'status', '--porcelain', '-uno', '.')
  return f'{commit}+changes' if changed else commit


def _output(*command: str) -> str:
  """What a command prints; '' where it fails, or is not there."""
  try:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
  except (OSError, subprocess.CalledProcessError):
    return ''
  return done.stdout.strip()
