"""What follows conv1 and conv2 (§3.5) as one function, for TPUs' sake."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from alexnet_jax.models import normalization, pooling, tpu

fits = tpu.fits


def relu_lrn_pool(
  x: jax.Array, lrn: dict[str, Any], pool: dict[str, int]
) -> jax.Array:
  """`max_pool(lrn(relu(x)))`, the same numbers.

  Args:
    x: [B, H, W, channels] that `fits`, the maps of one tower.
    lrn: arguments of `normalization.lrn`.
    pool: of `pooling.max_pool`.

  Returns:
    [B, H', W', channels].
  """
  rest = {'size': 5, 'k': 2.0, 'alpha': 1e-4, 'beta': 0.75} | lrn
  over = rest.pop('alpha_over', 'sum')
  rest['scale'] = normalization.scale_of(rest.pop('alpha'), rest['size'], over)
  return _fused(x, tuple(sorted((rest | pool).items())))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _fused(x: jax.Array, choice: tuple[tuple[str, float], ...]) -> jax.Array:
  return _forward(x, choice)[0]


def _forward(x, choice):
  lrn, pool = _parts(choice)

  def plain(x):
    y = normalization.values(jax.nn.relu(x), normalization.shifted, **lrn)
    return pooling.first(y, **pool)

  y, where = lax.platform_dependent(
    x, tpu=functools.partial(tpu.relu_lrn_pool, **lrn), default=plain
  )
  return y, (x, where)


def _backward(choice, residuals, g):
  lrn, pool = _parts(choice)

  def plain(x, where, g):
    positive = jax.nn.relu(x)
    g = pooling.scattered(x, where, g, **pool)
    g = normalization.gradient(positive, g, normalization.shifted, **lrn)
    return jnp.where(x > 0, g, 0)

  return (
    lax.platform_dependent(
      *residuals,
      g,
      tpu=functools.partial(tpu.relu_lrn_pool_gradient, **lrn),
      default=plain,
    ),
  )


_fused.defvjp(_forward, _backward)


def _parts(choice):
  """Arguments of normalization, and of pooling."""
  lrn, pool = dict(choice), {}
  for name in ('window', 'stride'):
    pool[name] = lrn.pop(name)
  return lrn, pool
