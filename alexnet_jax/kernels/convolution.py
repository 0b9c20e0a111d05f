"""Convolution: the sum of products over each window of the maps (§3.5)."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from alexnet_jax.kernels import dispatch, winograd
from alexnet_jax.kernels.windows import Edges

NO_EDGES = ((0, 0), (0, 0))


def convolutions(
  x: jax.Array, kernels: Sequence[jax.Array], stride: int, edges: Edges
) -> tuple[jax.Array, ...]:
  """Maps convolved with kernels of one size, in the way of the platform.

  The towers read the image so (§3.5): on GPUs their products are one.

  Args:
    x: [B, H, W, in].
    kernels: [k, k, in, out] each.
    stride: pixels between windows.
    edges: zeros above and below, left and right.

  Returns:
    [B, H', W', out] for each kernel: what `plain_convolution` computes.
  """
  return dispatch.differentiable(
    'convolution', _LOWERINGS, x, *kernels, stride=stride, edges=edges
  )


def plain_convolution(
  x: jax.Array, kernel: jax.Array, stride: int = 1, edges: Edges = NO_EDGES
) -> jax.Array:
  """`convolutions` with one kernel as XLA computes it, with JAX's own
  gradients."""
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


def _joined(x, *kernels, stride, edges):
  """One convolution, with the outputs of all kernels side by side: conv1's of
  both towers are 96, of which a GPU's products are wide enough.

  The split costs nothing: `packed` puts the outputs side by side again.
  """
  y = _folded(x, jnp.concatenate(kernels, -1), stride, edges)
  return tuple(jnp.split(y, len(kernels), -1))


def _each(lowering: dispatch.Lowering) -> dispatch.Lowering:
  """A way to convolve with one kernel, for several."""

  def values(x, *kernels, **options):
    return tuple(lowering.values(x, kernel, **options) for kernel in kernels)

  def gradients(x, *args, **options):
    *kernels, gs = args
    by_x, by_kernel = zip(
      *(
        lowering.gradients(x, kernel, g, **options)
        for kernel, g in zip(kernels, gs, strict=True)
      ),
      strict=True,
    )
    return sum(by_x[1:], start=by_x[0]), *by_kernel

  return dispatch.Lowering(values, gradients)


_WINOGRAD = dispatch.Lowering(
  functools.partial(_folded, dense=winograd.convolution), _winograd_gradients
)
_LOWERINGS = {
  'plain': _each(dispatch.autodiff(plain_convolution)),
  'folded': _each(dispatch.autodiff(_folded)),
  'winograd': _each(_WINOGRAD),
  'joined': dispatch.autodiff(_joined),
}
