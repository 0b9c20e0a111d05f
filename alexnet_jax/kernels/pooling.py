"""Overlapping pooling (§3.4), and averages as cuda-convnet takes them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from alexnet_jax.kernels import tpu, windows


def max_pool(x: jax.Array, window: int = 3, stride: int = 2) -> jax.Array:
  """Overlapping max pooling (§3.4); windows round up, edges never win.

  Args:
    x: [B, H, W, channels].
    window: pixels a window covers.
    stride: pixels between windows.

  Returns:
    [B, H', W', channels].
  """
  return _max_pool(x, window, stride)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _max_pool(x: jax.Array, window: int, stride: int) -> jax.Array:
  """Differentiated by hand, to keep a byte for each output and no more; on
  TPUs the input."""
  return _max_pool_forward(x, window, stride)[0]


def _max_pool_forward(x, window, stride):
  y, where = lax.platform_dependent(
    x,
    tpu=functools.partial(tpu.max_pool, window=window, stride=stride),
    default=functools.partial(first, window=window, stride=stride),
  )
  # Of the two, a compiled program keeps the one that its platform reads.
  return y, (x, where)


def _max_pool_backward(window, stride, residuals, g):
  gradient = lax.platform_dependent(
    *residuals,
    g,
    tpu=functools.partial(tpu.max_pool_gradient, window=window, stride=stride),
    default=functools.partial(scattered, window=window, stride=stride),
  )
  return (gradient,)


def first(x, window, stride):
  """The maxima of shifted slices, and which slice is the first to have one."""
  grown = windows.grow(x, window, stride, -jnp.inf)
  down, across = (extent - window + 1 for extent in grown.shape[1:3])
  taps = [
    grown[:, i : i + down : stride, j : j + across : stride]
    for i in range(window)
    for j in range(window)
  ]
  dtype = windows.place_dtype(window)
  y, where = taps[0], jnp.zeros(taps[0].shape, dtype)
  for number, tap in enumerate(taps[1:], start=1):
    where = jnp.where(tap > y, dtype.type(number), where)
    y = jnp.maximum(y, tap)
  return y, where


def scattered(x, where, g, window, stride):
  """The gradient: `g` where `first` found the maxima.

  The input is stride x stride interleaved parts: the places of one are
  seen at the same few places of the windows, and by no other."""
  shape = x.shape[1:3]
  rows, columns = (-(-extent // stride) for extent in shape)
  before = (window - 1) // stride  # windows that start earlier and reach it

  def around(x):  # windows that are not there
    edges = [
      (before, max(n - have, 0))
      for n, have in zip((rows, columns), x.shape[1:3], strict=True)
    ]
    return jnp.pad(x, ((0, 0), *edges, (0, 0)), constant_values=-1)

  g, where = around(g), around(where)
  parts = []
  for row in range(stride):
    for column in range(stride):
      part = jnp.zeros_like(g[:, :rows, :columns])
      for i in range(row, window, stride):
        for j in range(column, window, stride):
          top, left = before - i // stride, before - j // stride
          here = np.s_[:, top : top + rows, left : left + columns]
          part += jnp.where(where[here] == i * window + j, g[here], 0)
      parts.append(part)
  x = jnp.stack(parts).reshape(stride, stride, *parts[0].shape)
  x = x.transpose(2, 3, 0, 4, 1, 5)  # [B, rows, stride, columns, stride, C]
  x = x.reshape(len(g), rows * stride, columns * stride, -1)
  return x[:, : shape[0], : shape[1]]


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def avg_pool(x: jax.Array, window: int = 3, stride: int = 2) -> jax.Array:
  """Average pooling; windows round up and divide by the pixels inside.

  Args:
    x: [B, H, W, channels].
    window: pixels a window covers.
    stride: pixels between windows.

  Returns:
    [B, H', W', channels].
  """

  def total(x: jax.Array) -> jax.Array:
    x = windows.grow(x, window, stride, 0)
    # One axis after the other: six shifted adds in place of nine.
    return windows.total(windows.total(x, 1, window, stride), 2, window, stride)

  return total(x) / total(jnp.ones((1, *x.shape[1:3], 1), x.dtype))
