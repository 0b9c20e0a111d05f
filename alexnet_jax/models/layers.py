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
import numpy as np
from jax import lax

from alexnet_jax.models import cpu
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
  edges = tuple(_edges(extent, size, stride, pad) for extent in x.shape[1:3])
  # A kernel is the same on all devices that split the batch. Made varying
  # here, its gradient is summed over them once, not in a lowering's loop.
  varying = jax.typeof(x).mat.varying | jax.typeof(kernel).mat.varying
  x, kernel = (_varying_over(varying, y) for y in (x, kernel))
  if stride > 1:
    x, kernel = _space_to_depth(x, kernel, stride, edges)
    edges = ((0, 0), (0, 0))
  return _dense_conv(x, kernel, edges) + bias


def _varying_over(axes: frozenset[str], x: jax.Array) -> jax.Array:
  return lax.pcast(x, tuple(axes - jax.typeof(x).mat.varying), to='varying')


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


def _plain_conv(x: jax.Array, kernel: jax.Array, edges: cpu.Edges) -> jax.Array:
  return lax.conv_general_dilated(
    x, kernel, (1, 1), edges, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


def _plain_gradients(x, kernel, g, edges: cpu.Edges):
  _, vjp = jax.vjp(functools.partial(_plain_conv, edges=edges), x, kernel)
  return vjp(g)


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
  return _lrn(x, size, k, scale, beta)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _lrn(x: jax.Array, size: int, k: float, scale: float, beta: float):
  """Differentiated by hand, for autodiff keeps every shifted sum: keeps `x`
  alone, and the backward pass has one more window instead of five."""
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  return (wide * _lrn_factor(wide, size, k, scale, beta)[0]).astype(x.dtype)


def _lrn_factor(x: jax.Array, size: int, k: float, scale: float, beta: float):
  """What LRN multiplies by, `d ** -beta`, and `1 / d`."""
  d = k + scale * _channel_window(x * x, size // 2, (size - 1) // 2)
  if beta != 0.75:
    return d**-beta, 1 / d
  root = lax.rsqrt(d)  # two roots are many times cheaper than a power
  return root * jnp.sqrt(root), root * root


def _channel_window(x: jax.Array, before: int, after: int) -> jax.Array:
  """Sums over a window of channels, fewer at the border."""
  channels = x.shape[-1]
  x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(before, after)])
  # Shifted adds: a window over the last axis is slow in XLA on the CPU.
  shifts = [x[..., i : i + channels] for i in range(before + after + 1)]
  return sum(shifts[1:], start=shifts[0])


def _lrn_forward(x, size, k, scale, beta):
  return _lrn(x, size, k, scale, beta), x


def _lrn_backward(size, k, scale, beta, x, g):
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  g = g.astype(wide.dtype)
  factor, inverse = _lrn_factor(wide, size, k, scale, beta)
  # A channel is in the window of those that are in its mirrored window.
  inner = _channel_window(
    g * wide * factor * inverse, (size - 1) // 2, size // 2
  )
  dx = g * factor - 2 * beta * scale * wide * inner
  return (dx.astype(x.dtype),)


_lrn.defvjp(_lrn_forward, _lrn_backward)


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
  """Differentiated by hand, to keep a byte for each output and no more."""
  return _max_pool_forward(x, window, stride)[0]


def _max_pool_forward(x, window, stride):
  """The maxima of shifted slices, and which slice is the first to have one."""
  edges = [_edges(extent, window, stride) for extent in x.shape[1:3]]
  rows, columns = (
    output_size(extent, window, stride) for extent in x.shape[1:3]
  )
  grown = jnp.pad(x, ((0, 0), *edges, (0, 0)), constant_values=-jnp.inf)
  taps = [
    grown[
      :,
      i : i + (rows - 1) * stride + 1 : stride,
      j : j + (columns - 1) * stride + 1 : stride,
    ]
    for i in range(window)
    for j in range(window)
  ]
  dtype = jnp.int8 if len(taps) < 128 else jnp.int16
  y, where = taps[0], jnp.zeros(taps[0].shape, dtype)
  for number, tap in enumerate(taps[1:], start=1):
    where = jnp.where(tap > y, dtype(number), where)
    y = jnp.maximum(y, tap)
  return y, (where, x.shape[1:3])


def _max_pool_backward(window, stride, residuals, g):
  """The input is stride x stride interleaved parts: the places of one are
  seen at the same few places of the windows, and by no other."""
  where, shape = residuals
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
  return (x[:, : shape[0], : shape[1]],)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


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
