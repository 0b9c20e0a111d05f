"""Numbers that tests of layers draw, and gradients that they compare."""

import jax
import jax.numpy as jnp
import numpy as np


def normal(seed, shape, scale=1.0):
  draw = scale * np.random.default_rng(seed).normal(size=shape)
  return draw.astype(np.float32)


def gradients(function, *args):
  """Of the sum of its values, each with a weight of its own."""
  shape = jax.eval_shape(function, *args)
  weight = jnp.asarray(normal(9, shape.shape), shape.dtype)
  return jax.grad(
    lambda *args: (function(*args) * weight).sum(), tuple(range(len(args)))
  )(*args)
