"""The CIFAR-10 nets of the authors' earlier program, cuda-convnet: what §3.1's
figure 1 and §3.3's "four-layer" net are of. One tower each."""

import jax
import jax.numpy as jnp

from alexnet_jax.kernels.locally_connected import locally_connected
from alexnet_jax.models import layers
from alexnet_jax.models.alexnet import AlexNet
from alexnet_jax.models.layers import Affine, Row
from alexnet_jax.models.towers import Maps, TowerParam


class Weights(Affine):
  """Weights and biases of a layer, with the leading axis of its one tower.

  Attributes:
    kernel: [1, *shape], or [1, H, W, *shape] where every place has its own.
    bias: [1, features], or [1, H, W, features].
  """

  def __init__(
    self, towers: int, shape: tuple[int, ...], row: Row, key: jax.Array
  ):
    draw = row.init_std * jax.random.normal(key, (towers, *shape))
    self.kernel = TowerParam(draw)
    places = shape[:-4]  # of a locally connected layer
    bias = (towers, *places, shape[-1])
    self.bias = TowerParam(jnp.full(bias, row.init_bias, jnp.float32))


class CifarNet(AlexNet):
  """A CIFAR-10 net of a table, with attributes named as its rows.

  Made as `AlexNet` is, of a table with one tower, for views of 32 pixels, or
  24 for crops.
  """

  kinds = (Weights, Weights)

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
      (kernel,), (bias,) = self._weights(row)
      with jax.named_scope(row.name):
        if row.local:
          x = locally_connected(x, kernel, bias, row.pad)
        else:
          x = layers.conv(x, kernel, row) + bias
        out[row.name] = [x]
      for step in row.then:
        with jax.named_scope(row.output(step)):
          (x,) = layers.take_step(step, [x], table, self.towers)
        out[row.output(step)] = [x]
    x = x.reshape(x.shape[0], -1)
    for dense in table.denses:
      (kernel,), (bias,) = self._weights(dense)
      with jax.named_scope(dense.name):
        x = x @ kernel + bias
        for step in dense.then:
          (x,) = layers.take_step(step, [x], table, self.towers)
      out[dense.name] = [x]
    name = table.logits.name
    (kernel,), _ = self._weights(table.logits)
    with jax.named_scope(name):
      x = jnp.dot(x, kernel, preferred_element_type=jnp.float32)
      x += getattr(self, name).bias[0]
      out[name] = self.towers.sum_halves([x])
    return out
