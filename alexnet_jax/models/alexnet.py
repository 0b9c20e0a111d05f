"""AlexNet (§3): the paper's table as data, and the module it describes."""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from flax import nnx

from alexnet_jax.models import layers, towers
from alexnet_jax.models.towers import TowerParam
from alexnet_jax.runtime.errors import UserError

Maps = list[jax.Array]  # one array per local tower


@dataclasses.dataclass(frozen=True)
class Conv:
  """A row of the table: a convolution and what follows it.

  Attributes:
    name: conv1 to conv5.
    features: kernels per tower at width 1.
    kernel: side of a kernel, pixels.
    stride: pixels between windows.
    pad: zeros on each side.
    talk: reads the maps of both towers, else of its own.
    lrn: response normalization follows (§3.3).
    pool: max pooling follows (§3.4).
  """

  name: str
  features: int
  kernel: int
  stride: int = 1
  pad: int = 0
  talk: bool = False
  lrn: bool = False
  pool: bool = False


@dataclasses.dataclass(frozen=True)
class Dense:
  """A row of the table: a fully connected layer that reads both towers."""

  name: str
  features: int


# §3.5 and figure 2, one tower of the two.
CONVS = (
  Conv('conv1', 48, 11, stride=4, lrn=True, pool=True),
  Conv('conv2', 128, 5, pad=2, lrn=True, pool=True),
  Conv('conv3', 192, 3, pad=1, talk=True),
  Conv('conv4', 192, 3, pad=1),
  Conv('conv5', 128, 3, pad=1, pool=True),
)
DENSES = (Dense('fc6', 2048), Dense('fc7', 2048))


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

  Attributes conv1 to conv5, fc6 and fc7 are `Affine`, fc8 is a `Readout`.

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
    self.activation = config.activation
    self.dropout = config.dropout
    self.dropout_form = config.dropout_form
    self.lrn = {k: v for k, v in config.lrn.items() if k != 'enabled'}
    self.has_lrn = config.lrn.enabled
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
      std = config.init_std[name] * config.get('init_scale', 1.0)
      if name != CONVS[0].name:
        # A layer's fan-in shrinks with the width, conv1's (RGB) does not:
        # so the signal that reaches fc7 does not depend on the width.
        std *= config.width**-0.5
      init = Init(std, config.init_bias[name])
      setattr(self, name, kind(config.towers, shape, init, rngs.params()))

    size, features = image_size, 3
    for conv in CONVS:
      fan_in = features * config.towers if conv.talk else features
      features = _scaled(conv.features, config.width)
      make(conv.name, Affine, conv.kernel, conv.kernel, fan_in, features)
      try:
        size = layers.output_size(size, conv.kernel, conv.stride, conv.pad)
        if conv.pool:
          size = layers.output_size(size, **self.pool)
      except UserError as error:
        raise UserError(
          f'config.augment.crop_size={image_size} is too small for {conv.name}'
          f': {error}'
        ) from None
    features *= size * size
    for dense in DENSES:
      fan_in = features * config.towers
      features = _scaled(dense.features, config.width)
      make(dense.name, Affine, fan_in, features)
    make('fc8', Readout, features, num_classes)

  def activations(
    self, images: jax.Array, keys: jax.Array | None = None
  ) -> dict[str, Maps | jax.Array]:
    """Every layer's output, in order; jit drops those that are not used.

    Args:
      images: [B, size, size, 3], the mean subtracted (§2).
      keys: typed keys for dropout, one per row of fc6; None at test time.

    Returns:
      conv1, lrn1, pool1, conv2, ... pool5, fc6, fc7: per local tower, after
      the activation function, fc6 and fc7 after dropout, too; fc8: the
      logits [B, classes], float32. With 'owt', fc6 to fc8 have the rows of
      all devices along `tower_axis`.
    """
    act = layers.ACTIVATIONS[self.activation]
    out: dict[str, Maps | jax.Array] = {}
    axis = None if self.owt else self.tower_axis
    # Each tower sees all of the image.
    xs = [images.astype(self.dtype)] * self.conv1.kernel.shape[0]
    for number, row in enumerate(CONVS, start=1):
      with jax.named_scope(row.name):
        if row.talk:
          xs = [towers.exchange(xs, axis, self.exchange_dtype)] * len(xs)
        weights = getattr(self, row.name).towers(self.dtype)
        xs = out[row.name] = [
          act(layers.conv(x, kernel, bias, row.stride, row.pad))
          for x, (kernel, bias) in zip(xs, weights, strict=True)
        ]
      if row.lrn and self.has_lrn:
        with jax.named_scope(f'lrn{number}'):
          xs = out[f'lrn{number}'] = [layers.lrn(x, **self.lrn) for x in xs]
      if row.pool:
        with jax.named_scope(f'pool{number}'):
          xs = out[f'pool{number}'] = [
            layers.max_pool(x, **self.pool) for x in xs
          ]
    xs = [x.reshape(x.shape[0], -1) for x in xs]
    here = towers.indices(self.fc8.kernel.shape[0], self.tower_axis)
    for number, dense in enumerate(DENSES):
      with jax.named_scope(dense.name):
        x = towers.exchange(
          xs, self.tower_axis, self.exchange_dtype, rows=self.owt and not number
        )
        weights = getattr(self, dense.name).towers(self.dtype)
        xs = [act(x @ kernel + bias) for kernel, bias in weights]
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

  def __call__(
    self, images: jax.Array, keys: jax.Array | None = None
  ) -> jax.Array:
    """Logits [B, classes] of `images` [B, size, size, 3]: `activations`."""
    logits = self.activations(images, keys)['fc8']
    assert isinstance(logits, jax.Array)
    return logits


_fold = jax.vmap(jax.random.fold_in, (0, None))


def _scaled(features: int, width: float) -> int:
  return max(1, round(features * width))
