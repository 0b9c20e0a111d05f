"""Overlapping max pooling (§3.4), and averages as cuda-convnet takes them."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from alexnet_jax.kernels import dispatch, geometry, windows
from alexnet_jax.kernels.dispatch import Lowering


def max_pooling(x: jax.Array, window: int = 3, stride: int = 2) -> jax.Array:
  """Overlapping max pooling (§3.4); windows round up, edges never win.

  Args:
    x: [B, H, W, channels].
    window: pixels a window covers.
    stride: pixels between windows.

  Returns:
    [B, H', W', channels].
  """
  return dispatch.differentiable(
    'max_pooling', LOWERINGS, x, window=window, stride=stride
  )


def plain_max_pooling(x: jax.Array, window: int, stride: int) -> jax.Array:
  """`max_pooling` as XLA computes it, with JAX's own gradient: to the first
  of the largest in a window."""
  edges = [geometry.edges(extent, window, stride) for extent in x.shape[1:3]]
  return lax.reduce_window(
    x,
    np.array(-np.inf, x.dtype),
    lax.max,
    (1, window, window, 1),
    (1, stride, stride, 1),
    [(0, 0), *edges, (0, 0)],
  )


def maxima_and_places(
  x: jax.Array, window: int, stride: int
) -> tuple[jax.Array, jax.Array]:
  """The maxima of shifted slices, and which slice is the first to have one.

  That number, a byte for each output, is all that the gradient needs.

  Returns:
    [B, H', W', channels] twice: values, and numbers of places in a window.
  """
  grown = windows.grow(x, window, stride, -jnp.inf)
  down, across = (extent - window + 1 for extent in grown.shape[1:3])
  taps = [
    grown[:, i : i + down : stride, j : j + across : stride]
    for i in range(window)
    for j in range(window)
  ]
  dtype = windows.place_dtype(window)
  y, places = taps[0], jnp.zeros(taps[0].shape, dtype)
  for number, tap in enumerate(taps[1:], start=1):
    places = jnp.where(tap > y, dtype.type(number), places)
    y = jnp.maximum(y, tap)
  return y, places


def by_image(
  x: jax.Array, window: int, stride: int
) -> tuple[jax.Array, jax.Array]:
  """`maxima_and_places`, a few images at a time.

  Of a whole batch, XLA for CPUs finds the places again wherever the gradient
  reads one, from all pixels of the window. Those that a loop has written it
  reads.
  """

  def one(image: jax.Array) -> list[jax.Array]:  # [H, W, channels]
    return [y[0] for y in maxima_and_places(image[None], window, stride)]

  y, places = lax.map(one, x, batch_size=8)
  return y, places


def to_places(
  x: jax.Array, places: jax.Array, g: jax.Array, window: int, stride: int
) -> jax.Array:
  """The gradient: `g` where `maxima_and_places` found the maxima of `x`.

  The input is stride x stride interleaved parts. Windows see the places of one
  part at the same few of their own places, and those of no other part there.
  """
  shape = x.shape[1:3]
  rows, columns = (-(-extent // stride) for extent in shape)
  before = (window - 1) // stride  # windows that start earlier and reach it

  def around(x):  # windows that are not there
    edges = [
      (before, max(n - have, 0))
      for n, have in zip((rows, columns), x.shape[1:3], strict=True)
    ]
    return jnp.pad(x, ((0, 0), *edges, (0, 0)), constant_values=-1)

  g, places = around(g), around(places)
  parts = []
  for row in range(stride):
    for column in range(stride):
      part = jnp.zeros_like(g[:, :rows, :columns])
      for i in range(row, window, stride):
        for j in range(column, window, stride):
          top, left = before - i // stride, before - j // stride
          here = np.s_[:, top : top + rows, left : left + columns]
          part += jnp.where(places[here] == i * window + j, g[here], 0)
      parts.append(part)
  x = jnp.stack(parts).reshape(stride, stride, *parts[0].shape)
  x = x.transpose(2, 3, 0, 4, 1, 5)  # [B, rows, stride, columns, stride, C]
  x = x.reshape(len(g), rows * stride, columns * stride, -1)
  return x[:, : shape[0], : shape[1]]


def _plain(x, window, stride):
  """In place of the places, which nobody reads, zeros."""
  y = plain_max_pooling(x, window, stride)
  return y, jnp.zeros_like(y, dtype=windows.place_dtype(window))


def _plain_gradient(x, _, g, **options):
  return dispatch.autodiff(plain_max_pooling).gradients(x, g, **options)[0]


LOWERINGS = {
  'plain': Lowering(_plain, _plain_gradient, keeps=True),
  'places': Lowering(maxima_and_places, to_places, keeps=True),
  'by_image': Lowering(by_image, to_places, keeps=True),
}


def average_pooling(
  x: jax.Array, window: int = 3, stride: int = 2
) -> jax.Array:
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
