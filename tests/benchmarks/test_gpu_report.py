"""`benchmark gpu`: kernels, layers and rooflines by hand; times are no test."""

import types

import pytest

from alexnet_jax.analysis import hlo
from alexnet_jax.benchmarks import gpu, timing
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training.settings import configure
from configs import default

# A convolution of cuDNN with 64 bytes to work in, and a fusion over its result.
PROGRAM = """HloModule step

ENTRY %main (x: bf16[4,8], k: bf16[8,8]) -> bf16[4,8] {
  %x = bf16[4,8]{1,0} parameter(0)
  %k = bf16[8,8]{1,0} parameter(1)
  %conv.1 = (f32[4,8]{1,0}, u8[64]{0}) custom-call(%x, %k), custom_call_target="__cudnn$convForward", metadata={op_name="jit(step)/jvp(conv1)/conv"}
  %out = f32[4,8]{1,0} get-tuple-element(%conv.1), index=0
  ROOT %fusion.2 = bf16[4,8]{1,0} fusion(%out, %x), kind=kLoop, calls=%f, metadata={op_name="jit(step)/transpose(jvp(pool1))/mul"}
}
"""  # noqa: E501


def test_kernels_and_what_they_move():
  first, second = hlo.list_kernels(PROGRAM)
  assert first[:2] == ('conv.1', '__cudnn$convForward')
  assert (first.read, first.written) == (64 + 128, 128)
  assert second[:2] == ('fusion.2', 'fusion')
  assert (second.read, second.written) == (128 + 64, 64)
  assert hlo.bytes_by_scope(PROGRAM) == {
    'jit(step)/jvp(conv1)/conv': 320,
    'jit(step)/transpose(jvp(pool1))/mul': 256,
  }


def event(name, ms):
  return types.SimpleNamespace(
    duration_ns=ms * 1e6, stats=[('hlo_op', name)] if name else []
  )


def test_layers_of_a_trace_of_five_steps():
  lines = [
    types.SimpleNamespace(events=[event('conv.1', 2.0), event('fusion.2', 10)]),
    types.SimpleNamespace(events=[event('conv.1', 3.0), event(None, 99)]),
    types.SimpleNamespace(events=[event('memset.7', 0.5)]),
  ]
  planes = [
    types.SimpleNamespace(name='/device:GPU:0', lines=lines),
    types.SimpleNamespace(name='/device:GPU:1', lines=lines),  # as long
    types.SimpleNamespace(name='/device:GPU:2', lines=[]),  # of no step
    types.SimpleNamespace(name='/host:CPU', lines=lines),
  ]
  layers = {'conv.1': 'conv1', 'fusion.2': 'pool1 backward'}
  found = gpu.add_up(planes, layers)
  assert list(found) == ['pool1 backward', 'conv1', 'rest']
  assert list(found.values()) == pytest.approx([2e-3, 1e-3, 1e-4])
  assert '| conv1 | 1.000 |' in gpu.format_layers(found)


@pytest.mark.parametrize(
  ('dtype', 'precision', 'rate'),
  [
    ('bfloat16', 'default', 798e12),
    ('float32', 'default', 421e12),
    ('float32', 'high', 421e12),
    ('float32', 'highest', 51.6e12),
  ],
)
def test_the_roofline_goes_by_the_dtype(dtype, precision, rate):
  row = {
    'dtype': dtype,
    'precision': precision,
    'flops': 2 * rate,
    'bytes': 2.98e12,
    'received': {'parameters': 450e9, 'activations': 900e9},
  }
  time = gpu.roofline(row)
  assert (time.products, time.memory, time.links) == pytest.approx((2, 1, 3))


def test_a_trace_needs_a_gpu():
  with pytest.raises(UserError, match='no GPU here: --compile_only'):
    gpu.time_layers(configure(default.get_config()), 10)


@pytest.mark.parametrize(('cpu', 'waits'), [(True, 3), (False, 1)])
def test_an_accelerator_has_calls_in_a_queue(cpu, waits, monkeypatch):
  waited = []
  monkeypatch.setattr(timing, 'on_cpu', lambda: cpu)
  monkeypatch.setattr(
    timing.jax, 'block_until_ready', lambda x: waited.append(x)
  )
  calls = iter(range(3))
  timing.time_calls(lambda: next(calls), times=3)
  assert waited[-1] == 2 and len(waited) == waits + cpu
