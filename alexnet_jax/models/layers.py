"""The layers of §3 on one tower: parameters, and what is computed of them.

Feature maps are [batch, height, width, channels]. What takes long is computed
in `alexnet_jax.kernels`, each formula beside the ways of the platforms.
"""

from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from alexnet_jax.kernels import geometry, windows
from alexnet_jax.kernels.convolution import convolutions
from alexnet_jax.kernels.pallas import fits
from alexnet_jax.kernels.pooling import average_pooling, max_pooling
from alexnet_jax.kernels.relu import relu
from alexnet_jax.kernels.relu_norm_pool import relu_norm_pool
from alexnet_jax.kernels.response_norm import map_norm, response_norm
from alexnet_jax.models.batch_norm import BatchNorm
from alexnet_jax.models.rows import Conv, Dense, Table
from alexnet_jax.models.towers import Maps, TowerParam, Towers

Row = Conv | Dense
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'relu': relu,  # §3.1
  'tanh': jnp.tanh,  # what §3.1 compares it with
}


class Affine(nnx.Module):
  """Weights and biases of one layer on every tower (§5).

  Attributes:
    kernel: [towers, *shape], the last axis being features; normal.
    bias: [towers, features]; constant.
  """

  def __init__(
    self, towers: int, shape: tuple[int, ...], row: Row, key: jax.Array
  ):
    # One key per tower: the draw does not depend on where a tower lives.
    draw = jax.vmap(lambda key: row.init_std * jax.random.normal(key, shape))
    self.kernel = TowerParam(draw(jax.random.split(key, towers)))
    bias = jnp.full((towers, shape[-1]), row.init_bias, jnp.float32)
    self.bias = TowerParam(bias)
    if 'batch_norm' in row.then:
      self.batch_norm = BatchNorm(towers, shape[-1])

  def on_towers(self, dtype: str) -> Iterator[tuple[jax.Array, jax.Array]]:
    """Kernel and bias of each tower held here, in the dtype to compute in."""
    kernel, bias = self.kernel[...], self.bias[...]
    for i in range(kernel.shape[0]):
      yield kernel[i].astype(dtype), bias[i].astype(dtype)


class Readout(nnx.Module):
  """fc8, split by input: each tower multiplies its half, one bias for all.

  Attributes:
    kernel: [towers, features per tower, classes].
    bias: [classes], the same everywhere.
  """

  def __init__(
    self, towers: int, shape: tuple[int, ...], row: Row, key: jax.Array
  ):
    half = Affine(towers, shape, row, key)
    self.kernel = half.kernel
    self.bias = nnx.Param(half.bias[0])

  def halves(self, xs: Maps, dtype: str) -> Maps:
    """Each local tower's part of the logits, float32 [B, classes]."""
    kernel = self.kernel[...].astype(dtype)
    return [
      jnp.dot(x, kernel[i], preferred_element_type=jnp.float32)
      for i, x in enumerate(xs)
    ]


def conv(
  x: jax.Array, kernel: jax.Array, row: Conv, rounding: str = 'up'
) -> jax.Array:
  """The sums of a convolution, `y[p] = sum_q x[stride p + q - pad] kernel[q]`.

  Args:
    x: [B, H, W, in].
    kernel: [k, k, in, out].
    row: of the table, for stride and padding.
    rounding: 'up', the last window may hang over the far edge, where zeros
      are, as in the authors' program; 'down'.

  Returns:
    [B, H', W', out].
  """
  return _sums(x, [kernel], row, rounding)[0]


def convs(
  xs: Maps, kernels: Sequence[jax.Array], row: Conv, rounding: str = 'up'
) -> Maps:
  """`conv` on each local tower.

  All towers read one image: their sums are asked for at once, and a platform
  may compute them as one convolution.
  """
  if row.reads == 'image':
    return _sums(xs[0], kernels, row, rounding)
  return [
    conv(x, kernel, row, rounding)
    for x, kernel in zip(xs, kernels, strict=True)
  ]


def _sums(
  x: jax.Array, kernels: Sequence[jax.Array], row: Conv, rounding: str
) -> Maps:
  pad = row.pad
  if rounding == 'down':
    x, pad = windows.full_windows(x, row.kernel, row.stride, pad), 0
  top, left = (
    geometry.edges(extent, row.kernel, row.stride, pad)
    for extent in x.shape[1:3]
  )
  return list(convolutions(x, kernels, row.stride, (top, left)))


def response_norms(xs: Maps, table: Table, towers: Towers) -> Maps:
  """Local response normalization (§3.3) over the maps of each tower.

  With `lrn.across_towers`, over those of both, as Caffe's copy of the network
  on one device has it.
  """
  options = table.norm.arguments
  if not table.norm.across_towers:
    return [response_norm(x, **options) for x in xs]
  width = xs[0].shape[-1]
  x = response_norm(towers.read_maps(xs, 'both')[0], **options)
  return [
    lax.dynamic_slice_in_dim(x, i * width, width, axis=-1)
    for i in towers.numbers(len(xs), convs=True)
  ]


def _windows(x: jax.Array, table: Table) -> jax.Array:
  down = table.rounding == 'down'
  return windows.full_windows(x, **vars(table.pool)) if down else x


# What a step of a row's `then` does to the maps [B, H, W, C] of one tower.
_STEPS: dict[str, Callable[[jax.Array, Table], jax.Array]] = {
  # ReLU (§3.1), or tanh, which §3.1 compares it with.
  'act': lambda x, table: ACTIVATIONS[table.activation](x),
  # Response normalization within each map, of the authors' program.
  'map_norm': lambda x, table: map_norm(x, **vars(table.map_norm)),
  # Overlapping pooling (§3.4): the maximum of each window of `table.pool`.
  # Windows round up or down as those of `conv`; what is outside never wins.
  'pool': lambda x, table: max_pooling(_windows(x, table), **vars(table.pool)),
  # The mean of each window's pixels inside the map; else as 'pool'.
  'avg_pool': lambda x, table: average_pooling(
    _windows(x, table), **vars(table.pool)
  ),
}


def take_step(step: str, xs: Maps, table: Table, towers: Towers) -> Maps:
  """A step of a row's `then`, after the maps [B, H, W, C] of each tower."""
  if step == 'norm':
    return response_norms(xs, table, towers)
  return [_STEPS[step](x, table) for x in xs]


def is_one_kernel(table: Table, steps: tuple[str, ...], x: jax.Array) -> bool:
  """Whether `relu_norm_pools` computes these steps on maps such as `x`."""
  return (
    steps == ('act', 'norm', 'pool')
    and (table.activation, table.rounding) == ('relu', 'up')
    and not table.norm.across_towers
    and fits(x, **vars(table.pool))
  )


def relu_norm_pools(
  table: Table, row: Conv, sums: Maps, biases: Sequence[jax.Array]
) -> Maps:
  """Bias, ReLU, LRN and pooling after the sums of conv1 and conv2, in one."""
  norm, pool = table.norm.arguments, vars(table.pool)
  if row.reads == 'image':  # the sums of `convs` are one convolution's
    return list(relu_norm_pool(sums, biases, norm, pool))
  return [
    relu_norm_pool([x], [bias], norm, pool)[0]
    for x, bias in zip(sums, biases, strict=True)
  ]


def dropout(
  x: jax.Array, rate: float, keys: jax.Array | None, form: str = 'paper'
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
  """
  if keys is None:
    return x * (1 - rate) if form == 'paper' else x
  keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(
    keys
  )
  return jnp.where(keep, x if form == 'paper' else x / (1 - rate), 0)


fold = jax.vmap(jax.random.fold_in, (0, None))  # a number into many keys


def dropouts(
  xs: Maps, table: Table, keys: jax.Array | None, towers: Towers
) -> Maps:
  """`dropout` on each local tower, with a mask for each example and tower."""
  rate, form = table.dropout, table.dropout_form
  numbers = towers.numbers(len(xs))
  return [
    dropout(x, rate, None if keys is None else fold(keys, tower), form)
    for x, tower in zip(xs, numbers, strict=True)
  ]
