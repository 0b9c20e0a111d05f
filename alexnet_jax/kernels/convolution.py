"""Convolution: the sum of products over each window of the maps (§3.5)."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from alexnet_jax.kernels import dispatch, winograd
from alexnet_jax.kernels.windows import Edges

NO_EDGES = ((0, 0), (0, 0))


def convolution(
  x: jax.Array, kernel: jax.Array, stride: int, edges: Edges
) -> jax.Array:
  """What `plain_convolution` computes, in the way of the platform.

  Args:
    x: [B, H, W, in].
    kernel: [k, k, in, out].
    stride: pixels between windows.
    edges: zeros above and below, left and right.

  Returns:
    [B, H', W', out].
  """
  return dispatch.differentiable(
    'convolution', _LOWERINGS, x, kernel, stride=stride, edges=edges
  )


def plain_convolution(
  x: jax.Array, kernel: jax.Array, stride: int = 1, edges: Edges = NO_EDGES
) -> jax.Array:
  """`convolution` as XLA computes it, with JAX's own gradients."""
  return lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    edges,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


def fold(
  x: jax.Array, kernel: jax.Array, stride: int, edges: Edges
) -> tuple[jax.Array, jax.Array]:
  """Maps and kernel whose convolution of stride 1, without edges, is the one
  of stride `stride`: blocks of stride x stride pixels become one.

  conv1 has three input channels, too few to fill a matrix unit. Folded 4x4
  it is a 3x3 convolution of 48 channels: the same sum in another order. TPUs'
  compiler does it better by itself.
  """
  batch, _, _, channels = x.shape
  size, _, _, out = kernel.shape
  blocks = -(-size // stride)
  grow = blocks * stride - size  # the filter's own zeros, right and below
  kernel = jnp.pad(kernel, ((0, grow), (0, grow), (0, 0), (0, 0)))
  kernel = kernel.reshape(blocks, stride, blocks, stride, channels, out)
  kernel = kernel.transpose(0, 2, 1, 3, 4, 5)
  kernel = kernel.reshape(blocks, blocks, -1, out)
  x = jnp.pad(x, ((0, 0), *[(low, high + grow) for low, high in edges], (0, 0)))
  height, width = x.shape[1] // stride, x.shape[2] // stride
  x = x.reshape(batch, height, stride, width, stride, channels)
  x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height, width, -1)
  return x, kernel


def _folded(x, kernel, stride, edges, dense=plain_convolution):
  if stride > 1:
    (x, kernel), edges = fold(x, kernel, stride, edges), NO_EDGES
  return dense(x, kernel, edges=edges)


def _winograd_gradients(x, kernel, g, stride, edges):
  if stride == 1:
    return winograd.gradients(x, kernel, g, edges)
  folding = functools.partial(fold, stride=stride, edges=edges)
  folded, unfold = jax.vjp(folding, x, kernel)
  return unfold(winograd.gradients(*folded, g, NO_EDGES))


_LOWERINGS = {
  'plain': dispatch.autodiff(plain_convolution),
  'folded': dispatch.autodiff(_folded),
  'winograd': dispatch.Lowering(
    functools.partial(_folded, dense=winograd.convolution), _winograd_gradients
  ),
}
