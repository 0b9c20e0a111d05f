"""Which way a platform takes, and that nothing else chooses."""

import ast
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import alexnet_jax
from alexnet_jax.kernels import dispatch
from alexnet_jax.kernels.dispatch import Choice

PACKAGE = Path(alexnet_jax.__file__).parent


@pytest.mark.parametrize(
  ('jax_name', 'want'),
  [('cpu', 1), ('cuda', 2), ('rocm', 2), ('tpu', 3)],
)
def test_a_program_has_the_way_of_its_platform(monkeypatch, jax_name, want):
  toy = Choice('plain', cpu='way1', gpu='way2', tpu='way3')
  monkeypatch.setitem(dispatch.CHOICES, 'toy', toy)
  ways = {'plain': lambda x: x + 70, **{f'way{i}': _adds(i) for i in (1, 2, 3)}}
  program = jax.jit(lambda x: dispatch.by_platform('toy', ways, x))
  lowered = program.trace(jnp.ones(3)).lower(lowering_platforms=(jax_name,))
  assert _constants(lowered) == {70 + want}
  # Where it has none of its own, it takes the default.
  monkeypatch.setitem(dispatch.CHOICES, 'toy', Choice('plain'))
  program = jax.jit(lambda x: dispatch.by_platform('toy', ways, x))
  lowered = program.trace(jnp.ones(3)).lower(lowering_platforms=(jax_name,))
  assert _constants(lowered) == {70}


def _adds(number):
  return lambda x: x + (70 + number)


def _constants(lowered) -> set[float]:
  found = re.findall(r'dense<([\d.e+]+)>', lowered.as_text())
  return {float(n) for n in found if float(n) >= 70}


@pytest.mark.parametrize(
  ('layer', 'of_cpus', 'in_bfloat16', 'of_others'),
  [
    ('convolution', 'winograd', 'folded', ['joined', 'plain', 'folded']),
    ('max_pooling', 'by_image', 'by_image', ['places', 'plain', 'places']),
  ],
)
def test_ways_that_cut_a_batch_know_its_size(
  layer, of_cpus, in_bfloat16, of_others
):
  (batch,) = export.symbolic_shape('b')
  known = jax.ShapeDtypeStruct((4, 9, 9, 3), jnp.float32)
  half = jax.ShapeDtypeStruct(known.shape, jnp.bfloat16)
  unknown = jax.ShapeDtypeStruct((batch, 9, 9, 3), jnp.float32)

  def ways(platform):
    return [dispatch.way(layer, platform, x) for x in (known, half, unknown)]

  assert ways('cpu') == [of_cpus, in_bfloat16, of_others[-1]]
  for platform, way in zip(('gpu', 'tpu', 'default'), of_others, strict=True):
    assert ways(platform) == [way] * 3


def test_a_gradient_reads_what_its_own_way_kept(lowered_for, monkeypatch):
  monkeypatch.setitem(dispatch.CHOICES, 'toy', Choice('kept', tpu='given'))
  lowerings = {
    'kept': dispatch.Lowering(
      lambda x, times: (times * x, 10 * x), lambda x, kept, g, times: kept, True
    ),
    'given': dispatch.Lowering(
      lambda x, times: (times * x, 0 * x),
      lambda x, _, g, times: times * g,
      True,
    ),
  }
  x = jnp.arange(3.0)

  def total(x):
    return dispatch.differentiable('toy', lowerings, x, times=3).sum()

  np.testing.assert_array_equal(jax.grad(total)(x), 10 * x)
  lowered_for('tpu')
  np.testing.assert_array_equal(jax.grad(total)(x), [3, 3, 3])


def test_nothing_else_names_a_platform():
  names = {'cpu', 'gpu', 'cuda', 'rocm', 'tpu'}
  for path in sorted(PACKAGE.rglob('*.py')):
    if path == PACKAGE / 'kernels/dispatch.py':
      continue
    for node in ast.walk(ast.parse(path.read_text())):
      assert getattr(node, 'attr', '') != 'platform_dependent', path
      if path.parent.name in ('kernels', 'models'):
        word = getattr(node, 'value', '') or getattr(node, 'arg', '')
        assert not (isinstance(word, str) and word in names), path
