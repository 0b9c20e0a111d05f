"""Strict JAX, eight CPU devices, and the one tolerance helper."""

import os
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags

jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_dtype_promotion', 'strict')
# Eight devices wait for each other on two busy cores.
os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '')
  + ' --xla_cpu_collective_call_terminate_timeout_seconds=600'
)
if not flags.FLAGS.is_parsed():
  flags.FLAGS.mark_as_parsed()  # Grain reads absl's flags


def max_norm_error(a, b) -> float:
  """max|a - b| / max|b|: what 'within 1e-5' means, per array.

  Args:
    a: what is tested.
    b: the float64 oracle, or the reference mesh.
  """
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  assert a.shape == b.shape
  scale = np.abs(b).max()
  error = np.abs(a - b).max()
  return float(error / scale if scale else error)


@pytest.fixture(scope='session')
def photographs() -> Path:
  """Folder of the archives of real photographs, `ALEXNET_TEST_DATA`."""
  folder = os.environ.get('ALEXNET_TEST_DATA')
  if not folder:
    pytest.skip('ALEXNET_TEST_DATA is not set: no real photographs here')
  return Path(folder)
