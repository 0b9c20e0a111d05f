"""Pooling against its formula in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from conftest import max_norm_error
from draws import normal
from jax.test_util import check_grads

from alexnet_jax.kernels.pooling import average_pooling, max_pooling


@pytest.mark.parametrize('platform', ['default', 'cpu', 'tpu'])
@pytest.mark.parametrize('size', [55, 27, 13, 8, 6])
def test_max_pool(lowered_for, platform, size):
  lowered_for(platform)
  x = normal(0, (9, size, size + 1, 4))
  got = max_pooling(jnp.asarray(x))
  np.testing.assert_array_equal(got, oracle.max_pool(x).astype(np.float32))


@pytest.mark.parametrize(
  ('platform', 'size', 'window', 'stride'),
  [
    (platform, *case)
    for platform in ('default', 'cpu', 'tpu')
    for case in ((7, 3, 2), (8, 3, 2), (8, 2, 2), (9, 3, 1))
  ]
  # Of more places than a byte can number.
  + [('default', 14, 12, 2), ('tpu', 14, 12, 2)],
)
def test_max_pool_gradient_goes_to_the_first_of_the_largest(
  lowered_for, platform, size, window, stride
):
  lowered_for(platform)
  # Whole numbers: many places share a maximum, and sums are exact.
  rng = np.random.default_rng(0)
  x = rng.integers(0, 4, (9, size, size + 1, 3)).astype(np.float32)
  pool = functools.partial(max_pooling, window=window, stride=stride)
  shape = pool(jnp.asarray(x)).shape
  weight = rng.integers(1, 100, shape).astype(np.float32)
  got = jax.jit(jax.grad(lambda x: (pool(x) * weight).sum()))(x)
  want = np.zeros_like(x)
  for b, i, j, c in np.ndindex(shape):
    top, left = i * stride, j * stride
    seen = x[b, top : top + window, left : left + window, c]
    row, column = np.unravel_index(seen.argmax(), seen.shape)
    want[b, top + row, left + column, c] += weight[b, i, j, c]
  np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize('size', [16, 7])
def test_avg_pool_divides_by_the_pixels_inside(size):
  x = normal(0, (2, size, size + 1, 3), 10)
  got = jax.jit(average_pooling)(x)
  assert max_norm_error(got, oracle.avg_pool(x)) <= 1e-5


def test_average_pooling_gradient():
  x = jnp.asarray(normal(0, (2, 5, 5, 2)))
  check_grads(average_pooling, (x,), 1, ['rev'], atol=1e-2, rtol=1e-2)
