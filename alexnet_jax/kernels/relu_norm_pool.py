"""What follows the sums of conv1 and conv2 (§3.5) as one function, for TPUs'
sake."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from alexnet_jax.kernels import pooling, tpu
from alexnet_jax.kernels import response_norm as normalization
from alexnet_jax.models import layers

fits = tpu.fits


def relu_lrn_pool(
  x: jax.Array, bias: jax.Array, lrn: dict[str, Any], pool: dict[str, int]
) -> jax.Array:
  """`max_pool(lrn(relu(x + bias)))`, the same numbers; on TPUs in bfloat16,
  `x + bias` is not rounded.

  Args:
    x: [B, H, W, channels] that `fits`, the maps of one tower.
    bias: [channels].
    lrn: arguments of `normalization.lrn`.
    pool: of `pooling.max_pool`.

  Returns:
    [B, H', W', channels].
  """
  rest = {'size': 5, 'k': 2.0, 'alpha': 1e-4, 'beta': 0.75} | lrn
  over = rest.pop('alpha_over', 'sum')
  rest['scale'] = normalization.scale_of(rest.pop('alpha'), rest['size'], over)
  choice = tuple(sorted((rest | pool).items()))
  return _fused(*layers.varying_alike(x, bias), choice)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _fused(
  x: jax.Array, bias: jax.Array, choice: tuple[tuple[str, float], ...]
) -> jax.Array:
  return _forward(x, bias, choice)[0]


def _forward(x, bias, choice):
  lrn, pool = _parts(choice)

  def plain(x, bias):
    y = jax.nn.relu(x + bias)
    y = normalization.values(y, normalization.shifted, **lrn)
    return pooling.first(y, **pool)

  y, where = lax.platform_dependent(
    x, bias, tpu=functools.partial(tpu.relu_lrn_pool, **lrn), default=plain
  )
  return y, (x, bias, where)


def _backward(choice, residuals, g):
  lrn, pool = _parts(choice)

  def plain(x, bias, where, g):
    positive = jax.nn.relu(x + bias)
    g = pooling.scattered(x, where, g, **pool)
    g = normalization.gradient(positive, g, normalization.shifted, **lrn)
    g = jnp.where(positive > 0, g, 0)
    return g, g.sum((0, 1, 2))

  return lax.platform_dependent(
    *residuals,
    g,
    tpu=functools.partial(tpu.relu_lrn_pool_gradient, **lrn),
    default=plain,
  )


_fused.defvjp(_forward, _backward)


def _parts(choice):
  """Arguments of normalization, and of pooling."""
  lrn, pool = dict(choice), {}
  for name in ('window', 'stride'):
    pool[name] = lrn.pop(name)
  return lrn, pool
