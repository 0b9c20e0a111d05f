"""The arithmetic of a step, layer by layer: what GFLOP/s count."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx

from alexnet_jax.training.state import Setup


@dataclasses.dataclass(frozen=True)
class Layer:
  """Floating-point operations of one layer's products, for one image.

  A multiplication and an addition are two. Biases, response norm, pooling,
  dropout and the update are not counted: 0.3 % of the whole, and how many
  they take is a matter of taste.

  Attributes:
    name: 'conv1' to 'fc8'.
    forward: all towers' sums.
    weights: of the gradient of the weights; as many.
    inputs: of the gradient of the inputs; as many, none for the first layer.
  """

  name: str
  forward: int
  weights: int
  inputs: int

  @property
  def training(self) -> int:
    return self.forward + self.weights + self.inputs


def of(setup: Setup) -> list[Layer]:
  """The layers with weights, in order: 2 x positions x kernel of each."""

  def outputs(params: nnx.State, images: jax.Array):
    model = nnx.merge(setup.graphdef, params)
    model.tower_axis = None
    return model.activations(images)

  size = setup.config.augment.crop_size
  params = jax.eval_shape(setup.init).params
  image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  layers: list[Layer] = []
  for name, maps in jax.eval_shape(outputs, params, image).items():
    if name in params:
      kernel = math.prod(params[name]['kernel'].shape)  # of all towers
      positions = math.prod(jax.tree.leaves(maps)[0].shape[1:-1])
      forward = 2 * positions * kernel
      layers.append(Layer(name, forward, forward, forward if layers else 0))
  return layers
