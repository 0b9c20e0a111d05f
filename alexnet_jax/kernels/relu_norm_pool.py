"""What follows the sums of conv1 and conv2 (§3.5) as one function: on TPUs,
where memory is what binds, it is one kernel."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from alexnet_jax.kernels import dispatch, pallas, pooling, response_norm

fits = pallas.fits


def relu_norm_pool(
  x: jax.Array,
  bias: jax.Array,
  norm: Mapping[str, Any],
  pool: Mapping[str, int],
) -> jax.Array:
  """The numbers of `plain_relu_norm_pool`; on TPUs in bfloat16, `x + bias` is
  not rounded.

  Args:
    x: [B, H, W, channels] that `fits`, the maps of one tower.
    bias: [channels].
    norm: options of `response_norm`.
    pool: of `max_pooling`.

  Returns:
    [B, H', W', channels].
  """
  numbers = response_norm.constants(**norm)
  return dispatch.differentiable(
    'relu_norm_pool', _LOWERINGS, x, bias, norm=numbers, pool=pool
  )


def plain_relu_norm_pool(
  x: jax.Array,
  bias: jax.Array,
  norm: Mapping[str, Any],
  pool: Mapping[str, int],
) -> jax.Array:
  """The three layers of §3.1, §3.3 and §3.4, one after the other."""
  normed = response_norm.plain_response_norm(jax.nn.relu(x + bias), **norm)
  return pooling.plain_max_pooling(normed, **pool)


def _parts(x, bias, norm, pool):
  y = response_norm.values(jax.nn.relu(x + bias), **norm)
  return pooling.maxima_and_places(y, **pool)


def _parts_gradients(x, bias, places, g, norm, pool):
  positive = jax.nn.relu(x + bias)
  g = pooling.to_places(x, places, g, **pool)
  g = response_norm.gradient(positive, g, **norm)
  g = jnp.where(positive > 0, g, 0)
  return g, g.sum((0, 1, 2))


_LOWERINGS = {
  'parts': dispatch.Lowering(_parts, _parts_gradients, keeps=True),
  # Its windows are the only ones that fit.
  'pallas': dispatch.Lowering(
    lambda *arrays, norm, pool: pallas.relu_norm_pool(*arrays, **norm),
    lambda *arrays, norm, pool: pallas.gradients(*arrays, **norm),
    keeps=True,
  ),
}
