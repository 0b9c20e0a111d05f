"""The CIFAR-10 nets of the authors' earlier program, cuda-convnet: what §3.1's
figure 1 and §3.3's "four-layer" net are of. One tower each."""

import jax
import jax.numpy as jnp
from flax import nnx

from alexnet_jax.kernels.locally_connected import locally_connected
from alexnet_jax.models import layers
from alexnet_jax.models.rows import Conv, Dense, Table
from alexnet_jax.models.towers import Maps, TowerParam, Towers


class Weights(nnx.Module):
  """Weights and biases of a layer, with the leading axis of its one tower.

  Attributes:
    kernel: [1, *shape], or [1, H, W, *shape] where every place has its own.
    bias: [1, features], or [1, H, W, features].
  """

  def __init__(self, shape: tuple[int, ...], row: Conv | Dense, key: jax.Array):
    draw = row.init_std * jax.random.normal(key, (1, *shape))
    self.kernel = TowerParam(draw)
    places = shape[:-4]  # of a locally connected layer
    bias = jnp.full((1, *places, shape[-1]), row.init_bias, jnp.float32)
    self.bias = TowerParam(bias)


class CifarNet(nnx.Module):
  """A CIFAR-10 net of a table, with attributes named as its rows.

  Args:
    table: the layers.
    num_classes: outputs of the last layer.
    image_size: side of the square views, pixels: 32, or 24 for crops.
    dtype: what to compute in; parameters and logits are float32.
    towers: where the one tower lives when called inside `shard_map`.
    rngs: stream `params` draws the weights.

  Raises:
    UserError: the views are too small.
  """

  def __init__(
    self,
    table: Table,
    num_classes: int,
    image_size: int = 32,
    *,
    dtype: str = 'float32',
    towers: Towers | None = None,
    rngs: nnx.Rngs,
  ):
    self.table, self.dtype, self.towers = table, dtype, towers or Towers()
    for row, shape in table.kernels(num_classes, image_size):
      setattr(self, row.name, Weights(shape, row, rngs.params()))

  def activations(
    self, images: jax.Array, keys: jax.Array | None = None
  ) -> dict[str, Maps | jax.Array]:
    """Every layer's output, in order, as `AlexNet.activations` has them.

    Args:
      images: [B, size, size, 3], the mean subtracted.
      keys: not used: nothing is random here.

    Returns:
      A list of one array per layer, after the activation function: conv1,
      pool1, map_norm1, ..., and the logits [B, classes], float32.
    """
    del keys
    table = self.table
    out: dict[str, Maps | jax.Array] = {}
    x = images.astype(self.dtype)
    for row in table.convs:
      kernel, bias = self._weights(row)
      with jax.named_scope(row.name):
        if row.local:
          x = locally_connected(x, kernel, bias, row.pad)
        else:
          x = layers.conv(x, kernel, row) + bias
        out[row.name] = [x]
      for step in row.then:
        with jax.named_scope(row.output(step)):
          (x,) = layers.STEPS[step]([x], table, self.towers)
        out[row.output(step)] = [x]
    x = x.reshape(x.shape[0], -1)
    for dense in (*table.denses, table.logits):
      kernel, bias = self._weights(dense)
      with jax.named_scope(dense.name):
        x = x @ kernel + bias
        for step in dense.then:
          (x,) = layers.STEPS[step]([x], table, self.towers)
      out[dense.name] = [x]
    out[dense.name] = self.towers.sum_halves([x.astype(jnp.float32)])
    return out

  def __call__(
    self, images: jax.Array, keys: jax.Array | None = None
  ) -> jax.Array:
    """Logits [B, classes] of `images` [B, size, size, 3]."""
    *_, logits = self.activations(images, keys).values()
    assert isinstance(logits, jax.Array)
    return logits

  def _weights(self, row: Conv | Dense) -> tuple[jax.Array, jax.Array]:
    weights = getattr(self, row.name)
    return (
      weights.kernel[...][0].astype(self.dtype),
      weights.bias[...][0].astype(self.dtype),
    )
