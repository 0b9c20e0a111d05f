"""What follows the sums of conv1 and conv2 (§3.5) as one function: on GPUs
and TPUs memory binds it, and each has its own way to pass less through it."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from alexnet_jax.kernels import (
  dispatch,
  packed,
  pallas,
  pooling,
  response_norm,
)


def relu_norm_pool(
  xs: Sequence[jax.Array],
  biases: Sequence[jax.Array],
  norm: Mapping[str, Any],
  pool: Mapping[str, int],
) -> tuple[jax.Array, ...]:
  """The numbers of `plain_relu_norm_pool` for each tower.

  In bfloat16, TPUs do not round `x + bias`, and GPUs round what is between the
  two sums over channels of the gradient.

  Args:
    xs: [B, H, W, channels], the maps of each tower: those of one convolution,
      which GPUs keep side by side.
    biases: [channels] of each tower.
    norm: options of `response_norm`.
    pool: of `max_pooling`.

  Returns:
    [B, H', W', channels] of each tower.
  """
  return dispatch.differentiable(
    'relu_norm_pool',
    _LOWERINGS,
    tuple(xs),
    tuple(biases),
    norm=response_norm.constants(**norm),
    pool=pool,
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


# -- the ways of one tower keep maps of x's shape, and places


def _parts(norm_way: str, pool_way: str) -> dispatch.Lowering:
  """The layers one after the other, each in the way of this name."""
  norms = response_norm.LOWERINGS[norm_way]
  pools = pooling.LOWERINGS[pool_way]

  def values(x, bias, norm, pool):
    normed = norms.values(jax.nn.relu(x + bias), **norm)
    y, places = pools.values(normed, **pool)
    return y, (normed, places)

  def gradients(x, bias, kept, g, norm, pool):
    positive = jax.nn.relu(x + bias)
    g = pools.gradients(*kept, g, **pool)
    g = norms.gradients(positive, g, **norm)
    g = jnp.where(positive > 0, g, 0)
    return g, g.sum((0, 1, 2))

  return dispatch.Lowering(values, gradients, keeps=True)


_TPU_PARTS = _parts('banded', 'plain')


def _pallas(x, bias, norm, pool):
  if not pallas.fits(x, **pool):
    return _TPU_PARTS.values(x, bias, norm, pool)
  y, places = pallas.relu_norm_pool(x, bias, **norm)
  return y, (x, places)


def _pallas_gradients(x, bias, kept, g, norm, pool):
  if not pallas.fits(x, **pool):
    return _TPU_PARTS.gradients(x, bias, kept, g, norm, pool)
  return pallas.gradients(x, bias, kept[1], g, **norm)


def _each(lowering: dispatch.Lowering) -> dispatch.Lowering:
  """The way of one tower, for several."""

  def values(xs, biases, **options):
    both = [
      lowering.values(x, bias, **options)
      for x, bias in zip(xs, biases, strict=True)
    ]
    ys, kept = zip(*both, strict=True)
    return ys, tuple(zip(*kept, strict=True))

  def gradients(xs, biases, kept, gs, **options):
    of_towers = zip(xs, biases, zip(*kept, strict=True), gs, strict=True)
    found = [lowering.gradients(*one, **options) for one in of_towers]
    return tuple(zip(*found, strict=True))

  return dispatch.Lowering(values, gradients, keeps=True)


_LOWERINGS = {
  'parts': _each(_parts('shifted', 'places')),
  'packed': dispatch.Lowering(
    packed.relu_norm_pool, packed.gradients, keeps=True
  ),
  'pallas': _each(dispatch.Lowering(_pallas, _pallas_gradients, keeps=True)),
}
