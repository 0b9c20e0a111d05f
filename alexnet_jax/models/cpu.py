"""Dense convolutions on CPUs: the same sums as XLA's own, sooner.

3x3 by Winograd's minimal filtering F(2x2, 3x3), which takes 16 products where
the plain sum takes 36 (Lavin and Gray, 2016, *Fast Algorithms for
Convolutional Neural Networks*); its factors are 0, 1 and 1/2, so it rounds
like the plain sum. Otherwise XLA's own forward, and gradients as products that
are wide enough. Images go through a few at a time, to stay in the cache.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Edges = tuple[tuple[int, int], ...]

# What a window of 4 inputs, a kernel of 3 and 2 outputs become at 4 points.
_INPUT = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
_KERNEL = np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]]) / 2
_OUTPUT = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])
# Channels: of inputs that fill no product, of outputs that fill one.
_FEW, _WIDE = 8, 128


def conv(x: jax.Array, kernel: jax.Array, edges: Edges) -> jax.Array:
  """A convolution of stride 1.

  Args:
    x: [B, H, W, in].
    kernel: [k, k, in, out].
    edges: zeros above and below, left and right.

  Returns:
    [B, H', W', out].
  """
  if kernel.shape[0] == 3:
    return _winograd(x, kernel, edges)
  if kernel.shape[2] < _FEW:
    return _conv_by_patches(x, kernel, edges)
  return _xla_conv(x, kernel, edges)


def conv_gradients(
  x: jax.Array, kernel: jax.Array, g: jax.Array, edges: Edges
) -> tuple[jax.Array, jax.Array]:
  """Of a sum of `conv(x, kernel, edges) * g`, by `x` and by `kernel`."""
  size = kernel.shape[0]
  turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
  rest = tuple((size - 1 - low, size - 1 - high) for low, high in edges)
  if size == 3:
    return _winograd(g, turned, rest), _winograd_gradient(x, g, edges)
  if kernel.shape[3] < _WIDE:
    by_kernel = jax.linear_transpose(lambda k: _xla_conv(x, k, edges), kernel)
    return _xla_conv(g, turned, rest), *by_kernel(g)
  return _conv_by_rows(g, turned, rest), _gradient_by_rows(x, g, size, edges)


def _xla_conv(x: jax.Array, kernel: jax.Array, edges: Edges) -> jax.Array:
  return lax.conv_general_dilated(
    x, kernel, (1, 1), edges, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


def _conv_by_patches(
  x: jax.Array, kernel: jax.Array, edges: Edges
) -> jax.Array:
  """One product of all windows, whose inputs are few: RGB."""
  size, _, _, out = kernel.shape
  height, width = (
    extent + sum(edge) - size + 1
    for extent, edge in zip(x.shape[1:3], edges, strict=True)
  )

  def some(x: jax.Array) -> jax.Array:  # [b, H, W, in]
    x = jnp.pad(x, ((0, 0), *edges, (0, 0)))
    x = jnp.concatenate([x[:, :, j : j + width] for j in range(size)], -1)
    x = jnp.concatenate([x[:, i : i + height] for i in range(size)], -1)
    return x @ kernel.reshape(-1, out)

  return lax.map(some, _chunks(x, 4)).reshape(len(x), height, width, out)


def _winograd(x: jax.Array, kernel: jax.Array, edges: Edges) -> jax.Array:
  height, width = (
    extent + sum(edge) - 2
    for extent, edge in zip(x.shape[1:3], edges, strict=True)
  )
  points = _by_points('bj,ai,ijco->baco', kernel)

  def some(x: jax.Array) -> jax.Array:  # [b, H, W, in]
    y = jnp.einsum('bamhwc,baco->bamhwo', _input_points(x, edges), points)
    y = _combine(_OUTPUT, list(y))
    y = _combine(_OUTPUT, [y[:, i] for i in range(4)])  # [2, 2, b, h, w, out]
    y = y.transpose(2, 3, 0, 4, 1, 5)
    y = y.reshape(len(x), 2 * y.shape[1], 2 * y.shape[3], -1)
    return y[:, :height, :width]

  return lax.map(some, _chunks(x, 4)).reshape(len(x), height, width, -1)


def _winograd_gradient(x: jax.Array, g: jax.Array, edges: Edges) -> jax.Array:
  """By the kernel."""

  def some(total: jax.Array, xg: tuple[jax.Array, jax.Array]):
    x, g = xg
    g = jnp.pad(g, ((0, 0), *((0, n % 2) for n in g.shape[1:3]), (0, 0)))
    g = _combine(_OUTPUT.T, [g[:, i::2] for i in range(2)])
    g = _combine(_OUTPUT.T, [g[..., j::2, :] for j in range(2)])
    points = _input_points(x, edges)
    return total + jnp.einsum('bamhwc,bamhwo->baco', points, g), None

  shape = (4, 4, x.shape[-1], g.shape[-1])
  total, _ = lax.scan(
    some, _zeros_for(g, shape), (_chunks(x, 4), _chunks(g, 4))
  )
  return _by_points('bj,ai,baco->ijco', total)


def _by_points(sum_: str, kernel: jax.Array) -> jax.Array:
  transform = _KERNEL.astype(kernel.dtype)
  return jnp.einsum(sum_, transform, transform, kernel)


def _input_points(x: jax.Array, edges: Edges) -> jax.Array:
  """[b, H, W, c] as [4, 4, b, h, w, c]: each 4x4 window, 2 apart, at its
  points, columns first."""
  spans = []
  for extent, (low, high) in zip(x.shape[1:3], edges, strict=True):
    odd = (extent + low + high) % 2  # the last window hangs over
    spans.append((low, high + odd))
  x = jnp.pad(x, ((0, 0), *spans, (0, 0)))
  height, width = x.shape[1] - 3, x.shape[2] - 3
  x = _combine(_INPUT, [x[:, i : i + height : 2] for i in range(4)])
  return _combine(_INPUT, [x[..., j : j + width : 2, :] for j in range(4)])


def _combine(matrix: np.ndarray, parts: list[jax.Array]) -> jax.Array:
  """The matrix times the list, stacked: written out as additions."""

  def row(factors: np.ndarray) -> jax.Array:
    terms = [
      part if factor > 0 else -part
      for factor, part in zip(factors, parts, strict=True)
      if factor
    ]
    return sum(terms[1:], start=terms[0])

  return jnp.stack([row(factors) for factors in matrix])


def _conv_by_rows(x: jax.Array, kernel: jax.Array, edges: Edges) -> jax.Array:
  """All rows of the kernel side by side as outputs, then added up: XLA's
  convolution is slow where outputs are few and inputs many."""
  size, _, channels, out = kernel.shape
  wide = kernel.transpose(1, 2, 0, 3).reshape(1, size, channels, size * out)
  x = jnp.pad(x, ((0, 0), *edges, (0, 0)))
  x = lax.conv_general_dilated(
    x, wide, (1, 1), 'VALID', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
  height = x.shape[1] - size + 1
  rows = [x[:, i : i + height, :, i * out : (i + 1) * out] for i in range(size)]
  return sum(rows[1:], start=rows[0])


def _gradient_by_rows(
  x: jax.Array, g: jax.Array, size: int, edges: Edges
) -> jax.Array:
  """By the kernel: one product for each of its rows."""
  channels, out = x.shape[-1], g.shape[-1]
  height, width = g.shape[1:3]

  def some(total: jax.Array, xg: tuple[jax.Array, jax.Array]):
    x, g = xg
    x = jnp.pad(x, ((0, 0), *edges, (0, 0)))
    x = jnp.concatenate([x[:, :, j : j + width] for j in range(size)], -1)
    rows = [
      jnp.tensordot(x[:, i : i + height], g, [(0, 1, 2)] * 2)
      for i in range(size)
    ]
    return total + jnp.stack(rows), None

  shape = (size, size * channels, out)
  total, _ = lax.scan(
    some, _zeros_for(g, shape), (_chunks(x, 2), _chunks(g, 2))
  )
  return total.reshape(size, size, channels, out)


def _chunks(x: jax.Array, most: int) -> jax.Array:
  """[B, ...] as [B / b, b, ...], b at most `most`."""
  return x.reshape(-1, math.gcd(len(x), most), *x.shape[1:])


def _zeros_for(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Zeros that vary over the mesh axes that `x` varies over."""
  zeros = jnp.zeros(shape, x.dtype)
  return lax.pcast(zeros, tuple(jax.typeof(x).mat.varying), to='varying')
