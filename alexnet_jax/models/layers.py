"""The layers of §3 as pure functions of one tower's feature maps.

Feature maps are [batch, height, width, channels]. How a layer is lowered on a
platform is decided here and nowhere else; the tests hold every lowering to the
plain formula. What normalizes and what pools have files of their own.
"""

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from alexnet_jax.kernels import windows
from alexnet_jax.kernels import winograd as cpu
from alexnet_jax.runtime.errors import UserError

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'relu': jax.nn.relu,  # §3.1
  'tanh': jnp.tanh,  # what §3.1 compares it with
}


def conv(x: jax.Array, kernel: jax.Array, stride: int, pad: int) -> jax.Array:
  """Convolution with the authors' ceil geometry (`windows.output_size`).

  Args:
    x: [B, H, W, in].
    kernel: [k, k, in, out].
    stride: pixels between windows.
    pad: zeros on each side, before what the last window hangs over.

  Returns:
    [B, H', W', out].
  """
  size = kernel.shape[0]
  edges = tuple(
    windows.edges(extent, size, stride, pad) for extent in x.shape[1:3]
  )
  # A kernel is the same on all devices that split the batch. Made varying
  # here, its gradient is summed over them once, not in a lowering's loop.
  x, kernel = varying_alike(x, kernel)
  if stride > 1:
    return _strided_conv(x, kernel, stride, edges)
  return _dense_conv(x, kernel, edges)


def varying_alike(*arrays: jax.Array) -> list[jax.Array]:
  """Inside `shard_map`: all vary over every axis that one of them does."""
  own = [jax.typeof(x).mat.varying for x in arrays]
  every = frozenset().union(*own)
  return [
    lax.pcast(x, tuple(every - axes), to='varying')
    for x, axes in zip(arrays, own, strict=True)
  ]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _strided_conv(
  x: jax.Array, kernel: jax.Array, stride: int, edges: cpu.Edges
) -> jax.Array:
  """A convolution with a stride; TPUs' compiler folds it better by itself."""
  return lax.platform_dependent(
    x,
    kernel,
    tpu=functools.partial(_plain_conv, edges=edges, stride=stride),
    default=functools.partial(_folded_conv, stride=stride, edges=edges),
  )


def _strided_conv_forward(x, kernel, stride, edges):
  return _strided_conv(x, kernel, stride, edges), (x, kernel)


def _strided_conv_backward(stride, edges, residuals, g):
  def gradients(conv):
    return lambda x, kernel, g: jax.vjp(conv, x, kernel)[1](g)

  return lax.platform_dependent(
    *residuals,
    g,
    tpu=gradients(functools.partial(_plain_conv, edges=edges, stride=stride)),
    default=gradients(
      functools.partial(_folded_conv, stride=stride, edges=edges)
    ),
  )


_strided_conv.defvjp(_strided_conv_forward, _strided_conv_backward)


def _folded_conv(x, kernel, stride, edges):
  x, kernel = _space_to_depth(x, kernel, stride, edges)
  return _dense_conv(x, kernel, ((0, 0), (0, 0)))


def _space_to_depth(x, kernel, stride, edges):
  """A strided convolution as a dense one over blocks of `stride` pixels.

  conv1 has three input channels, too few to fill a matrix unit: folded 4x4,
  it is a 3x3 convolution of 48 channels, the same sum in another order.
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


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _dense_conv(x: jax.Array, kernel: jax.Array, edges: cpu.Edges) -> jax.Array:
  """A convolution of stride 1, lowered by platform in both directions."""
  return _by_platform(cpu.conv, _plain_conv, x, kernel, edges=edges)


def _dense_conv_forward(x, kernel, edges):
  return _dense_conv(x, kernel, edges), (x, kernel)


def _dense_conv_backward(edges, residuals, g):
  return _by_platform(
    cpu.conv_gradients, _plain_gradients, *residuals, g, edges=edges
  )


_dense_conv.defvjp(_dense_conv_forward, _dense_conv_backward)


def _by_platform(on_cpu, elsewhere, x: jax.Array, *args, **options):
  # bfloat16 has no digits to spare for sums of inputs, and a number of images
  # that an export leaves open cannot be cut.
  if x.dtype == jnp.bfloat16 or not isinstance(x.shape[0], int):
    on_cpu = elsewhere
  return lax.platform_dependent(
    x,
    *args,
    cpu=functools.partial(on_cpu, **options),
    default=functools.partial(elsewhere, **options),
  )


def _plain_conv(
  x: jax.Array, kernel: jax.Array, edges: cpu.Edges, stride: int = 1
) -> jax.Array:
  return lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    edges,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


def _plain_gradients(x, kernel, g, edges: cpu.Edges):
  _, vjp = jax.vjp(functools.partial(_plain_conv, edges=edges), x, kernel)
  return vjp(g)


def dropout(
  x: jax.Array,
  rate: float,
  keys: jax.Array | None,
  form: Literal['paper', 'inverted'] = 'paper',
) -> jax.Array:
  """Dropout (§4.2).

  The two forms are the same function only once the weights have grown to fit:
  from one initialization, 'inverted' trains with 1 / (1 - rate) larger
  activations at each such layer.

  Args:
    x: [B, features].
    rate: share of units set to zero in training.
    keys: [B] typed keys, one per example; None at test time.
    form: 'paper' multiplies by 1 - rate at test time, as §4.2 says;
      'inverted' divides by it in training.

  Returns:
    [B, features].

  Raises:
    UserError: another `form`.
  """
  if form not in ('paper', 'inverted'):
    raise UserError(
      f"model.dropout_form is 'paper' or 'inverted', not {form!r}"
    )
  if keys is None:
    return x * (1 - rate) if form == 'paper' else x
  keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(
    keys
  )
  return jnp.where(keep, x if form == 'paper' else x / (1 - rate), 0)


def local(
  x: jax.Array, kernel: jax.Array, bias: jax.Array, pad: int
) -> jax.Array:
  """A locally connected layer: a convolution whose places share no weights.

  Args:
    x: [B, H, W, in].
    kernel: [H', W', k, k, in, out].
    bias: [H', W', out].
    pad: zeros on each side.

  Returns:
    [B, H', W', out].
  """
  rows, columns, size, _, _, out = kernel.shape
  x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  taps = [
    x[:, i : i + rows, j : j + columns]
    for i in range(size)
    for j in range(size)
  ]
  patches = jnp.concatenate(taps, axis=-1)  # [B, H', W', k k in]
  matrices = kernel.reshape(rows, columns, -1, out)
  return jnp.einsum('bhwi,hwio->bhwo', patches, matrices) + bias
