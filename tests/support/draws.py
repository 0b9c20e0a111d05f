"""Numbers that tests of layers draw, and gradients that they compare."""

import jax
import jax.numpy as jnp
import numpy as np


def normal(seed, shape, scale=1.0):
  draw = scale * np.random.default_rng(seed).normal(size=shape)
  return draw.astype(np.float32)


def values_and_gradients(function, *args):
  """The values, and the gradients of their sum, each with a weight of its own.

  They are compiled, at every call anew: a function that JAX has compiled keeps
  the lowering that it had then.
  """
  shape = jax.eval_shape(function, *args)
  weight = jnp.asarray(normal(9, shape.shape), shape.dtype)
  values = jax.jit(lambda *args: function(*args))(*args)
  of_arrays = jax.jit(
    jax.grad(
      lambda *args: (function(*args) * weight).sum(), tuple(range(len(args)))
    )
  )(*args)
  return [values, *of_arrays]
