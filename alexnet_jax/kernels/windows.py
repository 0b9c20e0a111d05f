"""Windows over maps: what they cover, and sums over them."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from alexnet_jax.kernels.geometry import edges

# Zeros above and below, left and right of maps.
Edges = tuple[tuple[int, int], ...]


def full_windows(
  x: jax.Array, window: int, stride: int, pad: int = 0
) -> jax.Array:
  """The part of `x` that whole windows cover, with its padding.

  What a convolution (or, unpadded, a pool) does to it, without more padding,
  is what programs that round down do to `x`.

  Args:
    x: [B, H, W, channels].
    window: pixels a window covers.
    stride: pixels between windows.
    pad: zeros on each side.
  """
  if pad:
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  height, width = (n - (n - window) % stride for n in x.shape[1:3])
  return x[:, :height, :width]


def grow(x: jax.Array, window: int, stride: int, fill: float) -> jax.Array:
  """Maps with the places that the last windows hang over.

  Args:
    x: [B, H, W, channels].
    window: pixels a window covers.
    stride: pixels between windows.
    fill: what stands there.
  """
  over = (edges(extent, window, stride) for extent in x.shape[1:3])
  return jnp.pad(x, ((0, 0), *over, (0, 0)), constant_values=fill)


def place_dtype(window: int) -> jnp.dtype:
  """The type of a place's number in a window of `window` x `window`."""
  return jnp.dtype(jnp.int8 if window**2 < 128 else jnp.int16)


def total(x: jax.Array, axis: int, window: int, stride: int = 1) -> jax.Array:
  """Sums over the whole windows along an axis.

  Shifted adds, for a window over the last axis is slow in XLA on the CPU.
  """
  span = x.shape[axis] - window + 1
  return functools.reduce(
    jnp.add,
    (
      lax.slice_in_dim(x, i, i + span, stride, axis=axis) for i in range(window)
    ),
  )
