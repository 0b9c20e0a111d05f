"""Response normalization against its formula in NumPy float64."""

import functools

import jax
import jax.numpy as jnp
import oracle
import pytest
from conftest import max_norm_error
from draws import normal, values_and_gradients
from jax.test_util import check_grads

from alexnet_jax.kernels.response_norm import (
  map_norm,
  plain_response_norm,
  response_norm,
)


@pytest.mark.parametrize('platform', ['default', 'tpu'])
@pytest.mark.parametrize('alpha_over', ['sum', 'mean'])
@pytest.mark.parametrize('channels', [3, 12, 48])
def test_lrn(lowered_for, platform, alpha_over, channels):
  lowered_for(platform)
  x = normal(0, (2, 5, 5, channels), 100)
  want = oracle.lrn(x, alpha_over=alpha_over)
  for norm in (response_norm, plain_response_norm):
    got = norm(jnp.asarray(x), alpha_over=alpha_over)
    assert max_norm_error(got, want) <= 1e-5
  # The other convention is another network, not a rounding error.
  other = 'mean' if alpha_over == 'sum' else 'sum'
  assert max_norm_error(oracle.lrn(x, alpha_over=other), want) > 1e-2


def test_lrn_with_another_power_and_size():
  x = normal(0, (2, 3, 3, 7), 10)
  choice = {'size': 3, 'k': 1.0, 'alpha': 1e-2, 'beta': 0.5}
  got = response_norm(jnp.asarray(x), **choice)
  assert max_norm_error(got, oracle.lrn(x, **choice)) <= 1e-5


@pytest.mark.parametrize('platform', ['default', 'tpu'])
@pytest.mark.parametrize(
  'choice',
  [
    {},
    {'alpha': 0.1, 'alpha_over': 'mean'},
    {'size': 4, 'k': 1.0, 'beta': 0.5},
  ],
)
def test_lrn_gradient(lowered_for, platform, choice):
  """Against JAX's own of the formula, channel by channel, in float64."""
  lowered_for(platform)
  x = normal(0, (2, 3, 3, 12), 30)
  size, over = choice.get('size', 5), choice.get('alpha_over', 'sum')
  alpha = choice.get('alpha', 1e-4) / (size if over == 'mean' else 1)

  def formula(x):
    out = []
    for i in range(12):
      low, high = max(0, i - size // 2), min(12, i + (size - 1) // 2 + 1)
      total = (x[..., low:high] ** 2).sum(-1)
      scale = choice.get('k', 2.0) + alpha * total
      out.append(x[..., i] / scale ** choice.get('beta', 0.75))
    return jnp.stack(out, -1)

  with jax.enable_x64(True):
    want = values_and_gradients(formula, jnp.asarray(x, jnp.float64))
  ours = functools.partial(response_norm, **choice)
  got = values_and_gradients(ours, jnp.asarray(x))
  for a, b in zip(got, want, strict=True):
    assert max_norm_error(a, b) <= 1e-5


@pytest.mark.parametrize(
  'choice',
  [
    {'size': 3, 'k': 1.0, 'alpha': 5e-5, 'beta': 0.75},
    {'size': 5, 'k': 1.0, 'alpha': 1e-3, 'beta': 0.75},
    {'size': 3, 'k': 2.0, 'alpha': 0.1, 'beta': 0.5},
  ],
)
def test_map_norm(choice):
  x = normal(0, (2, 7, 6, 3), 300)
  got = map_norm(jnp.asarray(x), **choice)
  want = oracle.map_norm(x, **choice)
  assert max_norm_error(got, want) <= 1e-5
  # Not a rounding error: alpha is divided by the places of a window.
  other = choice | {'alpha': choice['alpha'] * choice['size'] ** 2}
  assert max_norm_error(oracle.map_norm(x, **other), want) > 1e-2


def test_map_norm_gradient():
  x = jnp.asarray(normal(0, (2, 5, 5, 2)))
  norm = lambda x: map_norm(x, size=3, alpha=0.5)  # noqa: E731
  check_grads(norm, (x,), 1, ['rev'], atol=1e-2, rtol=1e-2)
