"""Batch normalization (Ioffe and Szegedy 2015), which the paper did not know:
a step of a row's `then` that can stand in for §3.3's response norm."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from alexnet_jax.models import rows
from alexnet_jax.models.towers import Maps, TowerAverage, TowerParam


class BatchNorm(nnx.Module):
  """Normalizes each map of a convolution over the batch and its places.

  Attributes:
    scale: [towers, features], and
    bias: what the normalized maps are multiplied by and get added.
    mean: [towers, features], and
    var: running averages of the training batches, for test time.
  """

  def __init__(self, num: int, features: int):
    shape = (num, features)
    self.scale = TowerParam(jnp.ones(shape))
    self.bias = TowerParam(jnp.zeros(shape))
    self.mean = TowerAverage(jnp.zeros(shape))
    self.var = TowerAverage(jnp.ones(shape))

  def __call__(
    self,
    xs: Maps,
    options: rows.BatchNorm,
    training: bool,
    axes: tuple[str, ...] = (),
  ) -> Maps:
    """In training moves the running averages, too.

    Args:
      xs: [b, H, W, features] of each tower held here.
      options: the share of a running average that a step leaves, and what is
        added to the variance.
      training: normalize by the batch's own mean and variance.
      axes: of the mesh, that the rows of the batch are spread over.

    Returns:
      Arrays as `xs`, of their dtype; statistics are taken in float32.
    """
    momentum, epsilon = options.momentum, options.epsilon
    mean, var = self.mean[...], self.var[...]
    if training:
      found = [moments(x, axes) for x in xs]
      mean, var = (jnp.stack(parts) for parts in zip(*found, strict=True))
      count = math.prod(xs[0].shape[:-1]) * math.prod(map(lax.axis_size, axes))
      unbiased = var * (count / max(count - 1, 1))
      for average, new in ((self.mean, mean), (self.var, unbiased)):
        new = lax.stop_gradient(new)
        old = average[...]
        average.set_value(momentum * old + (1 - momentum) * new)
    factor = self.scale[...] * lax.rsqrt(var + epsilon)
    bias = self.bias[...]
    return [
      # Centred first: what is left may be a thousandth of the mean.
      ((x.astype(jnp.float32) - mean[i]) * factor[i] + bias[i]).astype(x.dtype)
      for i, x in enumerate(xs)
    ]


def moments(
  x: jax.Array, axes: tuple[str, ...] = ()
) -> tuple[jax.Array, jax.Array]:
  """Mean and variance [features] of [..., features], over all devices of
  `axes` as over one, in float32."""
  x = x.astype(jnp.float32)
  places = tuple(range(x.ndim - 1))

  def mean(x: jax.Array) -> jax.Array:
    return lax.pmean(x.mean(places), axes) if axes else x.mean(places)

  # Two passes: the mean of squares, less the square, would lose digits.
  center = mean(x)
  return center, mean(jnp.square(x - center))
