"""What numbers were made with."""

import types

import jax

from alexnet_jax.runtime import backend


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
