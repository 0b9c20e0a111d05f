"""The CIFAR-10 nets of the authors' earlier program, cuda-convnet: what §3.1's
figure 1 and §3.3's "four-layer" net are of. One tower each."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from flax import nnx

from alexnet_jax.kernels import pooling, response_norm, windows
from alexnet_jax.models import layers, towers
from alexnet_jax.models.towers import TowerParam
from alexnet_jax.runtime.errors import UserError


class Conv(NamedTuple):
  """A row of a table: a convolution and what follows it.

  Attributes:
    name: of the layer.
    features: kernels at width 1.
    kernel: side of a kernel, pixels; zeros keep the size of the maps.
    std: of the initial weights.
    pool: 'max' or 'avg' pooling 3/2 follows, or ''.
    norm: within-map response normalization follows the pool.
    local: every place has kernels of its own (locally connected).
  """

  name: str
  features: int
  kernel: int
  std: float
  pool: str = ''
  norm: bool = False
  local: bool = False


class Dense(NamedTuple):
  """A row of a table: a fully connected layer; 0 features: the classes."""

  name: str
  features: int
  std: float


NETS: dict[str, tuple[Conv | Dense, ...]] = {
  '80sec': (
    Conv('conv1', 32, 5, 1e-4, pool='max'),
    Conv('conv2', 32, 5, 0.01, pool='avg'),
    Conv('conv3', 64, 5, 0.01, pool='avg'),
    Dense('fc64', 64, 0.1),
    Dense('fc10', 0, 0.1),
  ),
  '18pct': (
    Conv('conv1', 32, 5, 1e-4, pool='max', norm=True),
    Conv('conv2', 32, 5, 0.01, pool='avg', norm=True),
    Conv('conv3', 64, 5, 0.01, pool='avg'),
    Dense('fc10', 0, 0.01),
  ),
  'conv-local-13pct': (
    Conv('conv1', 64, 5, 1e-4, pool='max'),
    Conv('conv2', 64, 5, 0.01, pool='max'),
    Conv('local3', 32, 3, 0.04, local=True),
    Conv('local4', 32, 3, 0.04, local=True),
    Dense('fc10', 0, 0.01),
  ),
}
# Of the file, where alpha is divided by the 9 places of a window.
NORM: dict[str, Any] = {'size': 3, 'k': 1.0, 'alpha': 5e-5, 'beta': 0.75}


class Weights(nnx.Module):
  """Weights and biases of a layer, with the leading axis of its one tower.

  Attributes:
    kernel: [1, *shape], or [1, H, W, *shape] where every place has its own.
    bias: [1, features], or [1, H, W, features].
  """

  def __init__(
    self, places: tuple[int, ...], shape: tuple[int, ...], std, key: jax.Array
  ):
    draw = std * jax.random.normal(key, (1, *places, *shape))
    self.kernel = TowerParam(draw)
    self.bias = TowerParam(jnp.zeros((1, *places, shape[-1])))


class CifarNet(nnx.Module):
  """A net of `NETS`, with attributes named as its rows.

  Args:
    config: `config.model`; `name`, `width`, `activation`, `init_scale` and
      `lrn.enabled` count, the rest is the table's.
    num_classes: outputs of the last layer.
    image_size: side of the square views, pixels: 32, or 24 for crops.
    dtype: what to compute in; parameters and logits are float32.
    tower_axis: the mesh axis of the towers when called inside `shard_map`.
    rngs: stream `params` draws the weights.

  Raises:
    UserError: the views are too small, or a field has no such value.
  """

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    num_classes: int,
    image_size: int = 32,
    *,
    dtype: str = 'float32',
    tower_axis: str | None = None,
    rngs: nnx.Rngs,
  ):
    if config.towers != 1 or config.dropout:
      raise UserError(
        f'{config.name} has one tower and no dropout: config.model.towers=1, '
        f'mesh.towers=1 and model.dropout=0.0, not {config.towers} towers and '
        f'dropout={config.dropout}'
      )
    if config.activation not in layers.ACTIVATIONS:
      raise UserError(
        f'config.model.activation is one of {sorted(layers.ACTIVATIONS)}, not '
        f'{config.activation!r}'
      )
    self.rows = NETS[config.name]
    self.activation = config.activation
    self.has_norm = config.lrn.enabled
    self.dtype, self.tower_axis = dtype, tower_axis
    size, fan_in = image_size, 3
    for row in self.rows:
      features = max(1, round(row.features * config.width))
      places: tuple[int, ...] = ()
      if isinstance(row, Conv):
        shape: tuple[int, ...] = (row.kernel, row.kernel, fan_in, features)
        places = (size, size) if row.local else ()
        fan_in = features
        if row.pool:
          try:
            size = windows.output_size(size, 3, 2)
          except UserError as error:
            raise UserError(
              f'config.augment.crop_size={image_size} is too small for '
              f'{row.name}: {error}'
            ) from None
      else:
        features = features if row.features else num_classes
        # The first fully connected layer reads all that is left of the maps.
        shape = (fan_in * size * size, features)
        fan_in, size = features, 1
      std = row.std * config.init_scale
      setattr(self, row.name, Weights(places, shape, std, rngs.params()))

  def activations(
    self, images: jax.Array, keys: jax.Array | None = None
  ) -> dict[str, list[jax.Array] | jax.Array]:
    """Every layer's output, in order, as `AlexNet.activations` has them.

    Args:
      images: [B, size, size, 3], the mean subtracted.
      keys: not used: nothing is random here.

    Returns:
      A list of one array per layer, after the activation function: conv1,
      pool1, norm1, ..., and the logits [B, classes], float32.
    """
    del keys
    act = layers.ACTIVATIONS[self.activation]
    out: dict[str, list[jax.Array] | jax.Array] = {}
    x = images.astype(self.dtype)
    for number, row in enumerate(self.rows, start=1):
      weights = getattr(self, row.name)
      kernel = weights.kernel[...][0].astype(self.dtype)
      bias = weights.bias[...][0].astype(self.dtype)
      with jax.named_scope(row.name):
        if isinstance(row, Dense):
          x = x.reshape(len(x), -1) @ kernel + bias
        elif row.local:
          x = layers.local(x, kernel, bias, row.kernel // 2)
        else:
          x = layers.conv(x, kernel, 1, row.kernel // 2) + bias
        if row is self.rows[-1]:
          break
        x = act(x)
        out[row.name] = [x]
      if isinstance(row, Dense):
        continue
      if row.pool:
        with jax.named_scope(f'pool{number}'):
          pool = (
            pooling.max_pooling
            if row.pool == 'max'
            else pooling.average_pooling
          )
          x = pool(x)
          out[f'pool{number}'] = [x]
      if row.norm and self.has_norm:
        with jax.named_scope(f'norm{number}'):
          x = response_norm.map_norm(x, **NORM)
          out[f'norm{number}'] = [x]
    logits = towers.total([x.astype(jnp.float32)], self.tower_axis)
    out[self.rows[-1].name] = logits
    return out

  def __call__(
    self, images: jax.Array, keys: jax.Array | None = None
  ) -> jax.Array:
    """Logits [B, classes] of `images` [B, size, size, 3]."""
    *_, logits = self.activations(images, keys).values()
    assert isinstance(logits, jax.Array)
    return logits
