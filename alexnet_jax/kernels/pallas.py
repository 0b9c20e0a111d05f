"""ReLU, response normalization and max pooling as one kernel, for TPUs.

A TPU's products are fast and its memory is not. XLA writes to memory what the
three have in between, in float32; these kernels read maps once and write once.
No TPU was here to run them: tests interpret the kernels on CPUs, and
experiments/results/tpu_leads.csv has what the compiler counts.

A kernel sees maps as [height, width, channels, batch], which is how XLA lays
them out on TPUs: 128 images side by side, channels one below the other.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

_LANES = 128  # images at a time
_ROWS = 2  # of maps at a time


def fits(x: jax.Array, window: int, stride: int) -> bool:
  """Whether the kernels take such maps: the paper's, 128 n images a chip."""
  batch, height, width, channels = x.shape
  return (
    isinstance(batch, int)
    and batch % _LANES == 0
    and (window, stride) == (3, 2)
    and min(height, width) >= 3
    and height % 2 == width % 2 == 1  # no window hangs over
    and channels % 16 == 0
  )


def relu_norm_pool(
  x: jax.Array, bias: jax.Array, **numbers: float
) -> tuple[jax.Array, jax.Array]:
  """ReLU, response normalization, the maxima of windows of 3, 2 apart.

  Args:
    x: [B, H, W, channels] that `fits`.
    bias: [channels], added first.
    **numbers: `size`, `k`, `scale` and `beta` of `response_norm.constants`.

  Returns:
    Maxima [B, H', W', channels], and int8 of that shape: which place of its
    window is the first to have it.
  """
  maps = x.transpose(1, 2, 3, 0)
  height, width, channels, batch = maps.shape
  rows, columns = height // 2, width // 2
  out_shape = [
    _like(x, (rows, columns, channels, batch), dtype)
    for dtype in (x.dtype, jnp.int8)
  ]
  y, where = pl.pallas_call(
    functools.partial(_forward, norm=functools.partial(_norm, **numbers)),
    grid=(batch // _LANES, rows + 1),
    in_specs=[_block(_ROWS, width, channels, lambda i: i), _whole(channels)],
    # Window i - 1 ends with the first row of block i.
    out_specs=[
      _block(1, columns, channels, lambda i: jnp.maximum(i - 1, 0))
      for _ in range(2)
    ],
    out_shape=out_shape,
    scratch_shapes=[
      pltpu.VMEM((_ROWS, width, channels, _LANES), jnp.float32),
      pltpu.VMEM((columns, channels, _LANES), jnp.float32),
      pltpu.VMEM((columns, channels, _LANES), jnp.int32),
    ],
    cost_estimate=_cost(20, maps, *out_shape),
  )(maps, _in_lanes(bias))
  return y.transpose(3, 0, 1, 2), where.transpose(3, 0, 1, 2)


def gradients(
  x: jax.Array,
  bias: jax.Array,
  where: jax.Array,
  g: jax.Array,
  **numbers: float,
) -> tuple[jax.Array, jax.Array]:
  """Gradients by `x` and by `bias`, where `g` [B, H', W', channels] is that of
  the maxima; `where` is what `relu_norm_pool` returned.

  One kernel gives both: XLA would read the first once more for the second.
  """
  maps, places, gs = (a.transpose(1, 2, 3, 0) for a in (x, where, g))
  height, width, channels, batch = maps.shape
  rows, columns = height // 2, width // 2
  window = _block(1, columns, channels, lambda i: jnp.minimum(i, rows - 1))
  block = _block(_ROWS, width, channels, lambda i: i)
  sums = pl.BlockSpec((channels, _LANES), lambda b, i: (0, b))
  dx, by_bias = pl.pallas_call(
    functools.partial(
      _backward, norm=functools.partial(_norm_gradient, **numbers)
    ),
    grid=(batch // _LANES, rows + 1),
    in_specs=[block, _whole(channels), window, window],
    out_specs=[block, sums],
    out_shape=[
      _like(x, maps.shape, x.dtype),
      _like(x, (channels, batch), jnp.float32),
    ],
    scratch_shapes=[
      pltpu.VMEM((3, width, channels, _LANES), jnp.float32),
      pltpu.VMEM((width, channels, _LANES), jnp.float32),
    ],
    cost_estimate=_cost(40, maps, maps, places, gs),
  )(maps, _in_lanes(bias), places, gs)
  return dx.transpose(3, 0, 1, 2), by_bias.sum(1).astype(bias.dtype)


def _forward(x, bias, y, where, normed, best, place, *, norm):
  """Two rows of maps: the last of a window's, and the first of the next's."""
  columns = best.shape[0]

  @_each(x.shape[1])
  def _(column):
    for row in range(_ROWS):
      own = x[row, column].astype(jnp.float32) + bias[...]
      value = norm(jnp.maximum(own, 0))
      normed[row, column] = value.astype(x.dtype).astype(jnp.float32)

  def of_row(row, column):
    value, there = normed[row, 2 * column], jnp.zeros(best.shape[1:], jnp.int32)
    for i in (1, 2):
      value, there = _later(value, there, normed[row, 2 * column + i], i)
    return value, there

  @pl.when(pl.program_id(1) > 0)
  def _():
    @_each(columns)
    def _(column):
      value, there = of_row(0, column)
      value, there = _later(best[column], place[column], value, there + 6)
      y[0, column] = value.astype(y.dtype)
      where[0, column] = there.astype(where.dtype)

  @_each(columns)
  def _(column):
    upper, there = of_row(0, column)
    lower, below = of_row(1, column)
    best[column], place[column] = _later(upper, there, lower, below + 3)


def _later(a, at, b, there):
  """The larger of two and where it is; the first where they are equal."""
  larger = b > a
  return jnp.where(larger, b, a), jnp.where(larger, there, at)


def _backward(x, bias, where, g, dx, by_bias, dy, last, *, norm):
  """A row of windows onto its three rows of maps, the last of which waits."""
  step = pl.program_id(1)
  rows, columns = pl.num_programs(1) - 1, g.shape[1]
  zeros = jnp.zeros(dy.shape[2:], jnp.float32)

  @pl.when(step == 0)
  def _():
    @_each(last.shape[0])
    def _(column):
      last[column] = zeros

    by_bias[...] = zeros

  for row in range(3):
    dy[row, 0] = zeros

  @_each(columns)
  def _(column):
    places = where[0, column].astype(jnp.int32)
    there = g[0, column].astype(jnp.float32)
    for row in range(3):
      one, two, three = (
        jnp.where((places == 3 * row + i) & (step < rows), there, 0)
        for i in range(3)
      )
      dy[row, 2 * column] += one
      dy[row, 2 * column + 1] = two
      dy[row, 2 * column + 2] = three

  @_each(x.shape[1])
  def _(column):
    for row in range(_ROWS):
      total = dy[row, column]
      if not row:
        total += last[column]
      own = x[row, column].astype(jnp.float32) + bias[...]
      value = jnp.where(own > 0, norm(jnp.maximum(own, 0), total), 0)
      dx[row, column] = value.astype(dx.dtype)
      # Below the last row there is whatever memory held.
      there = (step < rows) | (row == 0)
      by_bias[...] += jnp.where(there, value, 0)
    last[column] = dy[2, column]


def _norm(x, size, k, scale, beta):
  d = k + scale * _around(x * x, size // 2, size)
  return x * _power(d, beta)


def _norm_gradient(x, g, size, k, scale, beta):
  d = k + scale * _around(x * x, size // 2, size)
  factor = _power(d, beta)
  inner = _around(g * x * factor / d, (size - 1) // 2, size)
  return g * factor - 2 * beta * scale * x * inner


def _power(d, beta):
  if beta != 0.75:
    return jnp.exp(-beta * jnp.log(d))
  root = lax.rsqrt(d)
  return root * jnp.sqrt(root)


def _around(x, before, size):
  """Sums over windows of channels, [channels, lanes]."""
  channels = x.shape[0]
  own = lax.broadcasted_iota(jnp.int32, x.shape, 0)
  total = x
  for offset in range(-before, size - before):
    if offset:
      moved = pltpu.roll(x, -offset % channels, 0)
      inside = (own + offset >= 0) & (own + offset < channels)
      total += jnp.where(inside, moved, 0)
  return total


def _each(size: int) -> Callable:
  """Calls a function for all columns, in a loop."""
  return lambda function: lax.fori_loop(
    0, size, lambda column, _: function(column), None
  )


def _block(rows: int, width: int, channels: int, row: Callable) -> pl.BlockSpec:
  return pl.BlockSpec(
    (rows, width, channels, _LANES), lambda b, i: (row(i), 0, 0, b)
  )


def _whole(channels: int) -> pl.BlockSpec:
  return pl.BlockSpec((channels, _LANES), lambda b, i: (0, 0))


def _in_lanes(bias: jax.Array) -> jax.Array:
  """[channels] as float32 [channels, lanes]."""
  wide = bias.astype(jnp.float32)[:, None]
  return jnp.broadcast_to(wide, (len(bias), _LANES))


def _like(x: jax.Array, shape: tuple[int, ...], dtype) -> jax.ShapeDtypeStruct:
  mat = jax.typeof(x).mat  # varies over the same axes of a mesh
  return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=mat)


def _cost(flops: int, *arrays: jax.Array | jax.ShapeDtypeStruct):
  """What XLA counts for a kernel, which it cannot see into.

  Args:
    flops: for each number of the first array.
    *arrays: what it reads and writes.
  """
  return pl.CostEstimate(
    flops=flops * arrays[0].size,
    transcendentals=2 * arrays[0].size,
    bytes_accessed=sum(a.size * a.dtype.itemsize for a in arrays),
  )
