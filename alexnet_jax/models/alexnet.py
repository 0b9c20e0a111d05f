"""AlexNet (§3): its layers, and the way of an image through them."""

from collections.abc import Callable, Sequence

import jax
from flax import nnx

from alexnet_jax.models import layers
from alexnet_jax.models.layers import Affine, Readout
from alexnet_jax.models.rows import Conv, Dense, Table
from alexnet_jax.models.towers import Maps, Towers

Arrays = Sequence[jax.Array]  # one per local tower


class AlexNet(nnx.Module):
  """The network of a table; `models/table.py` documents every choice.

  Attributes conv1 to conv5, fc6 and fc7 (the rows of the table) are `Affine`,
  fc8 is a `Readout`.

  Args:
    table: the layers, and what is chosen for all of them.
    num_classes: outputs of fc8.
    image_size: side of the square views, pixels.
    dtype: what to compute in; parameters, LRN sums and logits are float32.
    towers: where the towers live when called inside `shard_map`.
    rngs: stream `params` draws the weights.

  Raises:
    UserError: the views are too small.
  """

  conv1: Affine
  fc8: Readout
  # What layers are, and the last one.
  kinds: tuple[Callable[..., nnx.Module], ...] = (Affine, Readout)

  def __init__(
    self,
    table: Table,
    num_classes: int,
    image_size: int = 224,
    *,
    dtype: str = 'float32',
    towers: Towers | None = None,
    rngs: nnx.Rngs,
  ):
    self.table, self.dtype, self.towers = table, dtype, towers or Towers()
    for row, shape in table.kernels(num_classes, image_size):
      kind = self.kinds[row is table.logits]
      setattr(self, row.name, kind(table.towers, shape, row, rngs.params()))

  def activations(
    self, images: jax.Array, keys: jax.Array | None = None
  ) -> dict[str, Maps | jax.Array]:
    """Every layer's output, in order; jit drops those that are not used.

    Args:
      images: [B, size, size, 3], the mean subtracted (§2).
      keys: typed keys for dropout, one per row of fc6; None at test time.
        With them, batch normalization is by the batch, its running averages
        move, and steps that one kernel computes have one output, the last.

    Returns:
      conv1, lrn1, pool1, conv2, ... pool5, fc6, fc7: per local tower, after
      the activation function (a convolution that another step follows first
      is linear, and 'act1' comes later), fc6 and fc7 after dropout, too; fc8:
      the logits [B, classes], float32. With 'owt', fc6 to fc8 have the rows of
      all devices along the towers' axis.
    """
    out: dict[str, Maps | jax.Array] = {}
    readout = getattr(self, self.table.logits.name)
    with jax.named_scope('conv1'):  # each tower sees all of the image
      xs = [images.astype(self.dtype)] * self.conv1.kernel.shape[0]
    for row in self.table.convs:
      with jax.named_scope(row.name):
        xs = self.towers.read_maps(xs, row.reads)
        kernels, biases = self._weights(row)
        xs = layers.convs(xs, kernels, row, self.table.rounding)
      steps = self._follow(row, xs, biases, keys is not None)
      out |= steps
      *_, xs = steps.values()
    xs = [x.reshape(x.shape[0], -1) for x in xs]
    here = readout.kernel.shape[0]  # towers of the fully connected layers
    for number, dense in enumerate(self.table.denses):
      with jax.named_scope(dense.name):
        xs = self.towers.read_units(xs, dense.reads, not number, here)
        xs = [
          x @ kernel + bias
          for x, kernel, bias in zip(xs, *self._weights(dense), strict=True)
        ]
        for step in dense.then:
          if step == 'dropout':  # a mask for each example, layer and tower
            own = None if keys is None else layers.fold(keys, number)
            xs = layers.dropouts(xs, self.table, own, self.towers)
          else:
            xs = layers.take_step(step, xs, self.table, self.towers)
      out[dense.name] = xs
    with jax.named_scope(self.table.logits.name):
      logits = self.towers.sum_halves(readout.halves(xs, self.dtype))
      out[self.table.logits.name] = logits + readout.bias[...]
    return out

  def __call__(
    self, images: jax.Array, keys: jax.Array | None = None
  ) -> jax.Array:
    """Logits [B, classes] of `images` [B, size, size, 3]: `activations`."""
    *_, logits = self.activations(images, keys).values()
    assert isinstance(logits, jax.Array)
    return logits

  def _weights(self, row: Conv | Dense) -> tuple[Arrays, Arrays]:
    """Kernels and biases of a layer, of each local tower."""
    kernels, biases = zip(
      *getattr(self, row.name).on_towers(self.dtype), strict=True
    )
    return kernels, biases

  def _follow(
    self, row: Conv, sums: Maps, biases: Arrays, training: bool
  ) -> dict[str, Maps]:
    """The steps after a convolution's sums (§3.1, §3.3, §3.4), by name."""
    table, out = self.table, {}
    steps = table.steps(row)
    if training and layers.is_one_kernel(table, steps, sums[0]):
      name = row.output('pool')
      with jax.named_scope(name):
        return {name: layers.relu_norm_pools(table, row, sums, biases)}
    with jax.named_scope(row.name):
      xs = [x + bias for x, bias in zip(sums, biases, strict=True)]
      out[row.name] = xs
    for step in steps:
      name = row.output(step)
      with jax.named_scope(name):
        if step == 'batch_norm':
          layer = getattr(self, row.name).batch_norm
          xs = layer(xs, table.batch_norm, training, self.towers.rows_over)
        else:
          xs = layers.take_step(step, xs, table, self.towers)
      out[name] = xs
    return out
