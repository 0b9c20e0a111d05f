"""Windows over maps: how many there are, where they lie, sums over them."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from alexnet_jax.runtime.errors import UserError

# Zeros above and below, left and right of maps.
Edges = tuple[tuple[int, int], ...]


def output_size(size: int, window: int, stride: int, pad: int = 0) -> int:
  """Positions of a window along an axis, rounded up.

  The authors' program lets the last window hang over the far edge, which is
  how an 11-pixel filter at stride 4 makes 55 positions of 224 pixels.

  Args:
    size: pixels along the axis.
    window: pixels a window covers.
    stride: pixels between windows.
    pad: zeros put on each side first.

  Raises:
    UserError: the padded axis is shorter than one window.
  """
  room = size + 2 * pad - window
  if room < 0:
    raise UserError(
      f'a window of {window} does not fit {size} pixels padded by {pad}'
    )
  return 1 + -(-room // stride)


def edges(size: int, window: int, stride: int, pad: int = 0) -> tuple[int, int]:
  """Padding before and after an axis that makes `output_size` exact."""
  last = (output_size(size, window, stride, pad) - 1) * stride + window
  return pad, last - size - pad


def full_size(size: int, window: int, stride: int, pad: int = 0) -> int:
  """Positions of a window along an axis, rounded down: `output_size` of what
  `full_windows` leaves."""
  output_size(size, window, stride, pad)  # refuses what is too small
  return 1 + (size + 2 * pad - window) // stride


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
