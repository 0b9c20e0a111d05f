"""AlexNet (§3): the paper's table as data, and the module it describes."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from flax import nnx
from jax import lax

from alexnet_jax.kernels import pooling, relu_norm_pool, response_norm, windows
from alexnet_jax.models import layers, table, towers
from alexnet_jax.models.batch_norm import BatchNorm
from alexnet_jax.models.table import Conv
from alexnet_jax.models.towers import TowerParam
from alexnet_jax.runtime import sharding
from alexnet_jax.runtime.errors import UserError

Maps = list[jax.Array]  # one array per local tower


class Init(NamedTuple):
  """How a layer starts: normal weights, constant biases (§5)."""

  std: float
  bias: float


class Affine(nnx.Module):
  """Weights and biases of one layer on every tower.

  Attributes:
    kernel: [towers, *shape], the last axis being features.
    bias: [towers, features].
  """

  def __init__(
    self, num: int, shape: tuple[int, ...], init: Init, key: jax.Array
  ):
    # One key per tower: the draw does not depend on where a tower lives.
    draw = jax.vmap(lambda key: init.std * jax.random.normal(key, shape))
    self.kernel = TowerParam(draw(jax.random.split(key, num)))
    self.bias = TowerParam(jnp.full((num, shape[-1]), init.bias, jnp.float32))

  def towers(self, dtype) -> Iterator[tuple[jax.Array, jax.Array]]:
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
    self, num: int, shape: tuple[int, ...], init: Init, key: jax.Array
  ):
    half = Affine(num, shape, init, key)
    self.kernel = half.kernel
    self.bias = nnx.Param(half.bias[0])


class AlexNet(nnx.Module):
  """The network of the paper; `config.model` documents every choice.

  Attributes conv1 to conv5 (or those of `config.convs`), fc6 and fc7 are
  `Affine`, fc8 is a `Readout`.

  Args:
    config: `config.model`.
    num_classes: outputs of fc8.
    image_size: side of the square views, pixels.
    dtype: what to compute in; parameters, LRN sums and logits are float32.
    tower_axis: the mesh axis of the towers when called inside `shard_map`.
    parallelism: how that axis is used, as `config.mesh` has it: 'towers', or
      'owt': the convolutions of all towers on each device's own rows, the
      fully connected layers of its own tower on the rows of all.
    exchange_dtype: what towers send each other; 'float32': as computed.
    rngs: stream `params` draws the weights.

  Raises:
    UserError: the views are too small, or a field has no such value.
  """

  conv1: Affine
  fc8: Readout

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    num_classes: int,
    image_size: int = 224,
    *,
    dtype: str = 'float32',
    tower_axis: str | None = None,
    parallelism: str = 'towers',
    exchange_dtype: str = 'float32',
    rngs: nnx.Rngs,
  ):
    for field, value, known in (
      ('model.activation', config.activation, sorted(layers.ACTIVATIONS)),
      ('dtype', dtype, ['bfloat16', 'float32']),
      ('mesh.parallelism', parallelism, ['owt', 'towers']),
      (
        'mesh.exchange_dtype',
        exchange_dtype,
        ['bfloat16', 'float16', 'float32'],
      ),
    ):
      if value not in known:
        raise UserError(f'config.{field} is one of {known}, not {value!r}')
    if not (config.width > 0 and config.towers > 0 and config.dropout < 1):
      raise UserError(
        f'config.model.width={config.width}, towers={config.towers} and '
        f'dropout={config.dropout}: above 0, above 0 and below 1, please'
      )
    config = table.completed(config)
    self.convs, self.denses = table.rows(config)
    self.activation = config.activation
    self.dropout = config.dropout
    self.dropout_form = config.dropout_form
    self.rounding = config.rounding
    self.lrn = dict(config.lrn)
    self.has_lrn = self.lrn.pop('enabled')
    self.lrn_across = self.lrn.pop('across_towers')
    self.map_norm = dict(config.map_norm)
    self.batch_norm = dict(config.batch_norm)
    self.pool = dict(config.pool)
    self.dtype = dtype
    self.tower_axis = tower_axis
    self.owt = parallelism == 'owt'
    self.exchange_dtype = (
      exchange_dtype if exchange_dtype != 'float32' else None
    )

    def make(
      name: str, kind: type[Affine] | type[Readout], *shape: int
    ) -> None:
      std = config.init_std[name] * config.init_scale
      if name != 'conv1':
        # A layer's fan-in shrinks with the width, conv1's (RGB) does not:
        # so the signal that reaches fc7 does not depend on the width.
        std *= config.width**-0.5
      init = Init(std, config.init_bias[name])
      setattr(self, name, kind(config.towers, shape, init, rngs.params()))

    size = table.map_size(config, self.convs, image_size)
    features = 3
    for row in self.convs:
      fan_in = features * config.towers if row.talk else features
      make(row.name, Affine, row.kernel, row.kernel, fan_in, row.features)
      if 'batch_norm' in row.then:
        layer = getattr(self, row.name)
        layer.batch_norm = BatchNorm(config.towers, row.features)
      features = row.features
    features *= size * size
    for dense in self.denses:
      fan_in = features * config.towers if dense.talk else features
      make(dense.name, Affine, fan_in, dense.features)
      features = dense.features
    make('fc8', Readout, features, num_classes)

  def activations(
    self, images: jax.Array, keys: jax.Array | None = None
  ) -> dict[str, Maps | jax.Array]:
    """Every layer's output, in order; jit drops those that are not used.

    Args:
      images: [B, size, size, 3], the mean subtracted (§2).
      keys: typed keys for dropout, one per row of fc6; None at test time.
        With them, batch normalization is by the batch, and its running
        averages move.

    Returns:
      conv1, lrn1, pool1, conv2, ... pool5, fc6, fc7: per local tower, after
      the activation function (a convolution that another step follows first
      is linear, and 'act1' comes later), fc6 and fc7 after dropout, too; fc8:
      the logits [B, classes], float32. With 'owt', fc6 to fc8 have the rows of
      all devices along `tower_axis`.
    """
    out: dict[str, Maps | jax.Array] = {}
    with jax.named_scope('conv1'):  # each tower sees all of the image
      xs = [images.astype(self.dtype)] * self.conv1.kernel.shape[0]
    for row in self.convs:
      with jax.named_scope(row.name):
        if row.talk:
          xs = self._exchange(xs)
        kernels, biases = zip(
          *getattr(self, row.name).towers(self.dtype), strict=True
        )
        sums = [
          self._conv(x, kernel, row)
          for x, kernel in zip(xs, kernels, strict=True)
        ]
        xs = [x + bias for x, bias in zip(sums, biases, strict=True)]
      out[row.name] = xs
      for step in row.then:
        if step == 'norm' and not self.has_lrn:
          continue
        name = row.follower(step, 'lrn')
        with jax.named_scope(name):
          if step == 'batch_norm':
            xs = self._batch_norm(row, xs, training=keys is not None)
          else:
            xs = self._follow(step, xs)
        out[name] = xs
      if keys is not None and self._fuses(row, sums):
        # The same maps by a shorter way: jit drops the longer one.
        name = row.follower('pool', 'lrn')
        with jax.named_scope(name):
          xs = out[name] = [
            relu_norm_pool.relu_norm_pool(x, bias, self.lrn, self.pool)
            for x, bias in zip(sums, biases, strict=True)
          ]
    xs = [x.reshape(x.shape[0], -1) for x in xs]
    here = towers.indices(self.fc8.kernel.shape[0], self.tower_axis)
    for number, dense in enumerate(self.denses):
      with jax.named_scope(dense.name):
        weights = getattr(self, dense.name).towers(self.dtype)
        if dense.talk:
          x = towers.exchange(
            xs,
            self.tower_axis,
            self.exchange_dtype,
            rows=self.owt and not number,
          )
          xs = [x] * len(here)
        elif self.owt and not number:
          xs = towers.regroup(xs, self.tower_axis, self.exchange_dtype)
        xs = [
          self._act(x @ kernel + bias)
          for x, (kernel, bias) in zip(xs, weights, strict=True)
        ]
        # A mask is a function of example, layer and tower (§4.2).
        own = None if keys is None else _fold(keys, number)
        xs = [
          layers.dropout(
            x,
            self.dropout,
            None if own is None else _fold(own, tower),
            self.dropout_form,
          )
          for x, tower in zip(xs, here, strict=True)
        ]
        out[dense.name] = xs
    with jax.named_scope('fc8'):
      kernel = self.fc8.kernel[...].astype(self.dtype)
      halves = [
        jnp.dot(x, kernel[i], preferred_element_type=jnp.float32)
        for i, x in enumerate(xs)
      ]
      out['fc8'] = towers.total(halves, self.tower_axis) + self.fc8.bias[...]
    return out

  def _exchange(self, xs: Maps) -> Maps:
    """The maps of both towers, for each local one."""
    axis = None if self.owt else self.tower_axis
    return [towers.exchange(xs, axis, self.exchange_dtype)] * len(xs)

  def _conv(self, x: jax.Array, kernel: jax.Array, row: Conv) -> jax.Array:
    pad = row.pad
    if self.rounding == 'down':
      x, pad = windows.full_windows(x, row.kernel, row.stride, pad), 0
    return layers.conv(x, kernel, row.stride, pad)

  def _follow(self, step: str, xs: Maps) -> Maps:
    """What follows a convolution, on each local tower."""
    if step == 'norm':
      return self._lrn(xs)
    return [getattr(self, f'_{step}')(x) for x in xs]

  def _fuses(self, row: Conv, xs: Maps) -> bool:
    """Whether what follows a convolution in training is one function."""
    return (
      row.then == ('act', 'norm', 'pool')
      and (self.activation, self.rounding) == ('relu', 'up')
      and self.has_lrn
      and not self.lrn_across
      and relu_norm_pool.fits(xs[0], **self.pool)
    )

  def _batch_norm(self, row: Conv, xs: Maps, training: bool) -> Maps:
    rows: tuple[str, ...] = ()
    if self.tower_axis is not None:  # inside `shard_map`
      rows = (sharding.DATA, self.tower_axis) if self.owt else (sharding.DATA,)
    layer = getattr(self, row.name)
    return layer.batch_norm(xs, **self.batch_norm, training=training, axes=rows)

  def _lrn(self, xs: Maps) -> Maps:
    if not self.lrn_across:
      return [response_norm.response_norm(x, **self.lrn) for x in xs]
    axis = None if self.owt else self.tower_axis
    width = xs[0].shape[-1]
    x = response_norm.response_norm(self._exchange(xs)[0], **self.lrn)
    return [
      lax.dynamic_slice_in_dim(x, i * width, width, axis=-1)
      for i in towers.indices(len(xs), axis)
    ]

  def _act(self, x: jax.Array) -> jax.Array:
    return layers.ACTIVATIONS[self.activation](x)

  def _map_norm(self, x: jax.Array) -> jax.Array:
    return response_norm.map_norm(x, **self.map_norm)

  def _pool(self, x: jax.Array) -> jax.Array:
    if self.rounding == 'down':
      x = windows.full_windows(x, **self.pool)
    return pooling.max_pooling(x, **self.pool)

  def __call__(
    self, images: jax.Array, keys: jax.Array | None = None
  ) -> jax.Array:
    """Logits [B, classes] of `images` [B, size, size, 3]: `activations`."""
    logits = self.activations(images, keys)['fc8']
    assert isinstance(logits, jax.Array)
    return logits


_fold = jax.vmap(jax.random.fold_in, (0, None))
