"""Convolutions of stride 1 by Winograd's minimal filtering, for CPUs.

The sums are those of XLA, with fewer products: along each row, by F(4, 3) or
F(4, 5), four outputs take 6 products where the plain sum takes 12, or 8 where
it takes 20 (Lavin and Gray, 2016, *Fast Algorithms for Convolutional Neural
Networks*). It filters rows only: the sums over a kernel's rows stay matrix
products that are wide enough. Two images go through at a time, to stay in the
cache.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from alexnet_jax.kernels.windows import Edges

_OUTPUTS = 4  # of a row, at a time
# By size of kernel: at which points, and at infinity, polynomials are
# multiplied. Of those tried, these round least: 2 to 4 times as much as the
# plain sum.
_POINTS = {
  3: (0, 2 / 3, -2 / 3, 3 / 2, -3 / 2),
  5: (0, 1, -1, 1 / 2, -1 / 2, 2, -2),
}
_FEW = 8  # input channels that fill no product


def convolution(x: jax.Array, kernel: jax.Array, edges: Edges) -> jax.Array:
  """A convolution of stride 1.

  Args:
    x: [B, H, W, in].
    kernel: [k, k, in, out].
    edges: zeros above and below, left and right.

  Returns:
    [B, H', W', out].
  """
  size, _, channels, out = kernel.shape
  if size not in _POINTS:
    return _xla_conv(x, kernel, edges)
  of_inputs, of_kernel, of_outputs = _transforms(size)
  height, width = (
    extent + sum(edge) - size + 1
    for extent, edge in zip(x.shape[1:3], edges, strict=True)
  )
  kernel = jnp.einsum('pj,ijco->pico', of_kernel.astype(kernel.dtype), kernel)

  def some(x: jax.Array) -> jax.Array:  # [b, H, W, in]
    x = _at_points(of_inputs, x, edges, width)
    if channels < _FEW:
      flat = kernel.reshape(len(kernel), -1, out)
      y = list(jnp.einsum('pbhtc,pco->pbhto', _rows(x, size), flat))
    else:
      by_rows = functools.partial(_xla_conv, edges=((0, 0), (0, 0)))
      y = list(map(by_rows, x, kernel[:, :, None]))
    four = _combine(of_outputs, y).transpose(1, 2, 3, 0, 4)  # [b, h, t, 4, out]
    return four.reshape(*four.shape[:2], -1, out)[:, :, :width]

  return lax.map(some, _chunks(x)).reshape(len(x), height, width, out)


def gradients(
  x: jax.Array, kernel: jax.Array, g: jax.Array, edges: Edges
) -> tuple[jax.Array, jax.Array]:
  """Gradients by `x` and by `kernel`, where `g` is that of `convolution`."""
  size = kernel.shape[0]
  turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
  rest = tuple((size - 1 - low, size - 1 - high) for low, high in edges)
  inner = g
  for axis, (low, high) in enumerate(rest, 1):
    if min(low, high) < 0:  # windows that see edges alone
      end = g.shape[axis] - max(0, -high)
      inner = lax.slice_in_dim(inner, max(0, -low), end, axis=axis)
  rest = tuple((max(0, low), max(0, high)) for low, high in rest)
  by_x = convolution(inner, turned, rest)
  if size in _POINTS:
    return by_x, _kernel_gradient(x, g, size, edges)
  by_kernel = jax.linear_transpose(lambda k: _xla_conv(x, k, edges), kernel)
  return by_x, *by_kernel(g)


def _kernel_gradient(
  x: jax.Array, g: jax.Array, size: int, edges: Edges
) -> jax.Array:
  """The gradient by the kernel: `convolution`, transposed."""
  of_inputs, of_kernel, of_outputs = _transforms(size)
  channels, out, width = x.shape[-1], g.shape[-1], g.shape[2]

  def some(total: jax.Array, xg: tuple[jax.Array, jax.Array]):
    x, g = xg
    x = _rows(_at_points(of_inputs, x, edges, width), size)
    g = jnp.pad(g, ((0, 0), (0, 0), (0, -width % _OUTPUTS), (0, 0)))
    g = _combine(of_outputs.T, [g[:, :, j::_OUTPUTS] for j in range(_OUTPUTS)])
    return total + jnp.einsum('pbhtc,pbhto->pco', x, g), None

  zeros = _zeros_for(g, (len(of_inputs), size * channels, out))
  total, _ = lax.scan(some, zeros, (_chunks(x), _chunks(g)))
  total = total.reshape(-1, size, channels, out)
  return jnp.einsum('pj,pico->ijco', of_kernel.astype(total.dtype), total)


@functools.cache
def _transforms(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Toom and Cook's matrices: what takes a row's inputs, [p, p], and those of
  a kernel, [p, size], to p points, and their products to outputs, [4, p]."""
  points = np.array(_POINTS[size])
  count = len(points) + 1
  of_inputs = np.zeros((count, count))
  of_kernel = np.zeros((count, size))
  of_outputs = np.zeros((_OUTPUTS, count))
  for i, point in enumerate(points):
    zero_elsewhere = np.poly(np.delete(points, i))
    of_inputs[i, :-1] = zero_elsewhere[::-1]
    of_kernel[i] = point ** np.arange(size) / np.polyval(zero_elsewhere, point)
    of_outputs[:, i] = point ** np.arange(_OUTPUTS)
  of_inputs[-1] = np.poly(points)[::-1]
  of_kernel[-1, -1] = of_outputs[-1, -1] = 1
  return of_inputs, of_kernel, of_outputs


def _at_points(
  of_inputs: np.ndarray, x: jax.Array, edges: Edges, width: int
) -> jax.Array:
  """[b, H, W, c] as [p, b, H', t, c]: of every row, the p inputs of four
  outputs, t times, at their p points."""
  count = len(of_inputs)
  span = _OUTPUTS * (-(-width // _OUTPUTS) - 1) + count
  low = edges[1][0]
  x = jnp.pad(x, ((0, 0), edges[0], (low, span - low - x.shape[2]), (0, 0)))
  last = span - count + 1
  return _combine(
    of_inputs, [x[:, :, j : j + last : _OUTPUTS] for j in range(count)]
  )


def _rows(x: jax.Array, size: int) -> jax.Array:
  """[p, b, H, t, c] as [p, b, h, t, size c]: the rows under each kernel."""
  height = x.shape[2] - size + 1
  return jnp.concatenate([x[:, :, i : i + height] for i in range(size)], -1)


def _combine(matrix: np.ndarray, parts: list[jax.Array]) -> jax.Array:
  """The matrix times the list, stacked: written out as additions."""

  def row(factors: np.ndarray) -> jax.Array:
    terms = [
      part * float(factor)
      for factor, part in zip(factors, parts, strict=True)
      if factor
    ]
    return sum(terms[1:], start=terms[0])

  return jnp.stack([row(factors) for factors in matrix])


def _xla_conv(x: jax.Array, kernel: jax.Array, edges: Edges) -> jax.Array:
  return lax.conv_general_dilated(
    x, kernel, (1, 1), edges, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


def _chunks(x: jax.Array) -> jax.Array:
  """[B, ...] as [B / 2, 2, ...]: two images at a time, one if B is odd."""
  return x.reshape(-1, math.gcd(len(x), 2), *x.shape[1:])


def _zeros_for(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Zeros that vary over the mesh axes that `x` varies over."""
  zeros = jnp.zeros(shape, x.dtype)
  return lax.pcast(zeros, tuple(jax.typeof(x).mat.varying), to='varying')
