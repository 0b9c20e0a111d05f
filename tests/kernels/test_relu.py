"""ReLU in each platform's way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.kernels.relu import relu


@pytest.mark.parametrize('platform', ['default', 'gpu'])
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_relu_and_its_gradient(lowered_for, platform, dtype):
  lowered_for(platform)
  x = jnp.asarray([-2, -0.0, 0, 1e-30, 3, jnp.inf], dtype)
  y, pull = jax.vjp(relu, x)
  np.testing.assert_array_equal(y, jnp.maximum(x, 0))
  (g,) = pull(jnp.full_like(x, 5))
  np.testing.assert_array_equal(g, [0, 0, 0, 5, 5, 5])
