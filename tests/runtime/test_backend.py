"""What numbers were made with."""

import types

import jax
import pytest

from alexnet_jax.runtime import backend
from alexnet_jax.runtime.errors import UserError


def test_a_gpu_is_named_with_its_driver(monkeypatch, tmp_path):
  smi = tmp_path / 'nvidia-smi'
  smi.write_text('#!/bin/sh\nprintf "580.159.04\\n580.159.04\\n"\n')
  smi.chmod(0o755)
  monkeypatch.setenv('PATH', str(tmp_path), prepend=':')
  gpu = types.SimpleNamespace(
    platform='gpu',
    device_kind='NVIDIA H100 80GB HBM3',
    memory_stats=lambda: {'bytes_limit': 63_700_000_000},
  )
  package = types.SimpleNamespace(name='nvidia-cudnn-cu13', version='9.19.0.56')
  monkeypatch.setattr(jax, 'local_devices', lambda: [gpu, gpu])
  monkeypatch.setattr(
    backend.importlib.metadata, 'distributions', lambda: [package]
  )
  assert backend.describe_gpus() == (
    '2 x NVIDIA H100 80GB HBM3, 63.7 GB of each for JAX; driver 580.159.04, '
    'cuDNN 9.19.0.56'
  )
  smi.write_text('#!/bin/sh\nexit 9\n')
  assert 'driver unknown' in backend.describe_gpus()


def test_without_a_gpu_there_is_no_line():
  assert jax.devices()[0].platform == 'cpu'
  assert backend.describe_gpus() == ''
  assert 'driver' not in backend.describe()


@pytest.mark.parametrize(
  ('nodes', 'shown', 'platforms', 'chosen', 'needed', 'said', 'warned'),
  [
    (['nvidia0'], None, None, 'cpu', False, 'a GPU that JAX does not', True),
    (['nvidia0'], '0', None, 'cpu', False, 'a GPU that JAX does not', False),
    (['nvidia0'], None, None, 'cpu', True, 'a GPU that JAX does not', False),
    (['nvidia0'], '', None, 'cpu', False, '', False),  # the user hides it
    (['nvidia0'], '-1', None, 'cpu', True, 'no GPU', False),
    (['nvidia0'], None, 'cpu', 'cpu', True, '', False),  # the user says so
    (['nvidia0'], None, None, 'gpu', True, '', False),
    (['nvidiactl'], '0', None, 'cpu', False, '', False),
    ([], None, None, 'cpu', False, '', False),
    ([], None, None, 'cpu', True, 'no GPU', False),
    ([], None, None, 'tpu', True, '', False),
  ],
)
def test_cpus_for_want_of_better_are_refused(
  nodes,
  shown,
  platforms,
  chosen,
  needed,
  said,
  warned,
  monkeypatch,
  tmp_path,
  caplog,
):
  """As JAX falls back to them, where its driver or its plugin is missing."""
  for node in nodes:
    (tmp_path / node).touch()
  monkeypatch.setattr(backend, '_DEVICES', tmp_path)
  monkeypatch.setattr(jax, 'default_backend', lambda: chosen)
  monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
  if shown is not None:
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', shown)
  before = jax.config.jax_platforms
  jax.config.update('jax_platforms', platforms)
  try:
    for watched in (False, True):
      caplog.clear()
      if said and not (warned and watched):
        with pytest.raises(UserError, match=f'there is {said}'):
          backend.refuse_fallback(needed, watched)
      else:
        backend.refuse_fallback(needed, watched)
      assert bool(caplog.text) == (warned and watched)
  finally:
    jax.config.update('jax_platforms', before)
