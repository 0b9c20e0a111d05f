"""The layers of §3 as pure functions of one tower's feature maps.

Feature maps are [batch, height, width, channels]. How a layer is lowered on a
platform is decided here and nowhere else; the tests hold every lowering to the
plain formula.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from alexnet_jax.runtime.errors import UserError

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'relu': jax.nn.relu,  # §3.1
  'tanh': jnp.tanh,  # what §3.1 compares it with
}


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


def _edges(
  size: int, window: int, stride: int, pad: int = 0
) -> tuple[int, int]:
  """Padding before and after an axis that makes `output_size` exact."""
  last = (output_size(size, window, stride, pad) - 1) * stride + window
  return pad, last - size - pad


def conv(
  x: jax.Array, kernel: jax.Array, bias: jax.Array, stride: int, pad: int
) -> jax.Array:
  """Convolution with the authors' ceil geometry (`output_size`).

  Args:
    x: [B, H, W, in].
    kernel: [k, k, in, out].
    bias: [out].
    stride: pixels between windows.
    pad: zeros on each side, before what the last window hangs over.

  Returns:
    [B, H', W', out].
  """
  size = kernel.shape[0]
  edges = [_edges(extent, size, stride, pad) for extent in x.shape[1:3]]
  if stride == 1:
    return _dense_conv(x, kernel, edges) + bias
  # The kernel is the same on all devices that split the batch. Made varying
  # here, its gradient is summed over them once, not in a lowering's loop.
  axes = jax.typeof(x).mat.varying - jax.typeof(kernel).mat.varying
  kernel = lax.pcast(kernel, tuple(axes), to='varying')
  x, kernel = _space_to_depth(x, kernel, stride, edges)
  y = lax.platform_dependent(
    x, kernel, cpu=_conv_by_patches, default=_dense_conv
  )
  return y + bias


def _dense_conv(x: jax.Array, kernel: jax.Array, edges='VALID') -> jax.Array:
  return lax.conv_general_dilated(
    x, kernel, (1, 1), edges, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


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


def _conv_by_patches(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """A dense convolution as one matrix product per example.

  Patches of one example stay in the cache, and are cut again for the weight
  gradient: on 2 cores, conv1 takes a third of the time of XLA's convolution.
  """
  size, _, channels, out = kernel.shape
  matrix = kernel.reshape(size * size * channels, out)

  @jax.checkpoint
  def one(x: jax.Array) -> jax.Array:  # [H, W, channels]
    height, width = x.shape[0] - size + 1, x.shape[1] - size + 1
    taps = [
      x[i : i + height, j : j + width] for i in range(size) for j in range(size)
    ]
    patches = jnp.concatenate(taps, axis=-1)
    y = patches.reshape(height * width, -1) @ matrix
    return y.reshape(height, width, out)

  return lax.map(one, x)


def lrn(
  x: jax.Array,
  *,
  size: int = 5,
  k: float = 2.0,
  alpha: float = 1e-4,
  beta: float = 0.75,
  alpha_over: Literal['sum', 'mean'] = 'sum',
) -> jax.Array:
  """Local response normalization across channels (§3.3).

  `x / (k + alpha * s) ** beta`, s over the `size` nearest channels (fewer at
  the border).

  Args:
    x: [..., channels], the maps of one tower only.
    size: channels in a neighbourhood, n in the paper.
    k: the constant under the power.
    alpha: weight of the squares.
    beta: the power.
    alpha_over: what alpha multiplies: the plain 'sum' of squares, as the
      paper's text has it, or their 'mean' (the sum over n), as the authors'
      program, Caffe and PyTorch have it.

  Returns:
    The shape and dtype of `x`; sums are taken in float32.

  Raises:
    UserError: another `alpha_over`.
  """
  if alpha_over not in ('sum', 'mean'):
    raise UserError(f"alpha_over is 'sum' or 'mean', not {alpha_over!r}")
  scale = alpha if alpha_over == 'sum' else alpha / size
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  channels = x.shape[-1]
  before, after = size // 2, (size - 1) // 2
  squares = jnp.pad(wide * wide, [(0, 0)] * (x.ndim - 1) + [(before, after)])
  # Shifted adds: a window over the last axis is slow in XLA on the CPU.
  total = sum(squares[..., i : i + channels] for i in range(size))
  denominator = k + scale * total
  if beta == 0.75:  # two square roots are many times cheaper than a power
    root = lax.rsqrt(denominator)
    factor = root * jnp.sqrt(root)
  else:
    factor = denominator**-beta
  return (wide * factor).astype(x.dtype)


def max_pool(x: jax.Array, window: int = 3, stride: int = 2) -> jax.Array:
  """Overlapping max pooling (§3.4); windows round up, edges never win.

  Args:
    x: [B, H, W, channels].
    window: pixels a window covers.
    stride: pixels between windows.

  Returns:
    [B, H', W', channels].
  """
  edges = [_edges(extent, window, stride) for extent in x.shape[1:3]]
  rows, columns = (
    output_size(extent, window, stride) for extent in x.shape[1:3]
  )
  x = jnp.pad(x, ((0, 0), *edges, (0, 0)), constant_values=-jnp.inf)
  # The maximum of shifted slices, whose gradient XLA's CPU backend computes
  # three times faster than a window's. Ties share the gradient.
  y: jax.Array | None = None
  for i in range(window):
    for j in range(window):
      tap = x[
        :,
        i : i + (rows - 1) * stride + 1 : stride,
        j : j + (columns - 1) * stride + 1 : stride,
      ]
      y = tap if y is None else jnp.maximum(y, tap)
  assert y is not None
  return y


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
    edges = [_edges(extent, window, stride) for extent in x.shape[1:3]]
    rows, columns = (
      output_size(extent, window, stride) for extent in x.shape[1:3]
    )
    x = jnp.pad(x, ((0, 0), *edges, (0, 0)))
    # One axis after the other: six shifted adds in place of nine.
    for axis, extent in ((1, rows), (2, columns)):
      last = (extent - 1) * stride + 1
      x = _total(
        lax.slice_in_dim(x, i, i + last, stride, axis) for i in range(window)
      )
    return x

  return total(x) / total(jnp.ones((1, *x.shape[1:3], 1), x.dtype))


def map_norm(
  x: jax.Array,
  *,
  size: int,
  k: float = 1.0,
  alpha: float,
  beta: float = 0.75,
) -> jax.Array:
  """Response normalization within a map, of the authors' programs.

  `x / (k + alpha / size^2 * s) ** beta`, s the sum of squares over the `size`
  by `size` places around, those outside being zero.

  Args:
    x: [B, H, W, channels].
    size: side of the neighbourhood, pixels.
    k: the constant under the power.
    alpha: weight of the squares, divided by `size**2` first.
    beta: the power.

  Returns:
    The shape and dtype of `x`; sums are taken in float32.
  """
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  before, after = size // 2, (size - 1) // 2
  total = wide * wide
  for axis in (1, 2):
    extent = x.shape[axis]
    padding = [(0, 0)] * x.ndim
    padding[axis] = (before, after)
    total = jnp.pad(total, padding)
    total = _total(
      lax.slice_in_dim(total, i, i + extent, axis=axis) for i in range(size)
    )
  return (wide * _power(k + alpha / size**2 * total, beta)).astype(x.dtype)


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


def _total(xs: Iterable[jax.Array]) -> jax.Array:
  return functools.reduce(jnp.add, xs)


def _power(denominator: jax.Array, beta: float) -> jax.Array:
  """denominator ** -beta."""
  if beta == 0.75:  # two square roots are many times cheaper than a power
    root = lax.rsqrt(denominator)
    return root * jnp.sqrt(root)
  return denominator**-beta


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
