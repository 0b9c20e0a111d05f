"""Locally connected layers against their formula in NumPy."""

import jax.numpy as jnp
import numpy as np
import oracle
from conftest import max_norm_error
from draws import normal
from jax.test_util import check_grads

from alexnet_jax.kernels.locally_connected import locally_connected


def test_local():
  x, kernel = normal(0, (2, 5, 6, 3)), normal(1, (5, 6, 3, 3, 3, 4))
  bias = normal(2, (5, 6, 4))
  got = locally_connected(
    jnp.asarray(x), jnp.asarray(kernel), jnp.asarray(bias), 1
  )
  assert max_norm_error(got, oracle.local(x, kernel, bias, 1)) <= 1e-5
  # With one kernel everywhere it is the convolution.
  same = np.broadcast_to(kernel[:1, :1], kernel.shape)
  got = locally_connected(
    jnp.asarray(x), jnp.asarray(same), jnp.zeros((5, 6, 4)), 1
  )
  want = oracle.conv(x, kernel[0, 0], np.zeros(4), 1, 1)
  assert max_norm_error(got, want) <= 1e-5


def test_gradients():
  shapes = (2, 5, 5, 2), (5, 5, 3, 3, 2, 2), (5, 5, 2)
  args = [jnp.asarray(normal(i, shape)) for i, shape in enumerate(shapes)]
  layer = lambda x, w, b: locally_connected(x, w, b, 1)  # noqa: E731
  check_grads(layer, args, 1, ['rev'], atol=1e-2, rtol=1e-2)
