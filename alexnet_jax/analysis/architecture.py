"""The numbers of figure 2, read off the network itself."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import ml_collections
from flax import nnx

from alexnet_jax.analysis import communication
from alexnet_jax.models import table
from alexnet_jax.runtime import sharding


@dataclasses.dataclass(frozen=True)
class Layer:
  """One layer with weights, and what follows it.

  Attributes:
    name: conv1 to fc8.
    kernel: (height, width, maps it reads) of a convolution; (inputs,).
    stride: pixels between windows; 1 where there are none.
    output: (height, width, maps) or (units,) of one tower; fc8's are the
      logits, which all towers make together.
    neurons: outputs over all towers.
    parameters: weights and biases over all towers.
    received: bytes per image that the device of a tower gets of the others
      in the forward pass, and again, of gradients, in the backward pass
      (fc8: the logits, forward only).
    reads_all: it reads the maps of all towers.
    then: the layers without weights after it, such as ('lrn1', 'pool1').
    after: `output`, after these.
  """

  name: str
  kernel: tuple[int, ...]
  stride: int
  output: tuple[int, ...]
  neurons: int
  parameters: int
  received: int
  reads_all: bool
  then: tuple[str, ...]
  after: tuple[int, ...]


def describe(
  config: ml_collections.ConfigDict, num_classes: int
) -> list[Layer]:
  """Every layer with weights, in order; nothing is computed, and no device
  is asked.

  Args:
    config: as configs/default.py describes it. The bytes are those of a tower
      on each device, whatever `config.mesh` says.
    num_classes: outputs of fc8.
  """
  mesh = jax.sharding.AbstractMesh(
    (1, config.model.towers), (sharding.DATA, sharding.TOWER)
  )
  setup = communication.abstract_setup(config, num_classes, mesh)
  params = setup.abstract_state().params
  needs = communication.minimum(setup) if config.model.towers > 1 else {}

  order: list[str] = []

  def run(params: nnx.State, images: jax.Array):
    model = nnx.merge(setup.graphdef, params)
    model.tower_axis = None
    out = model.activations(images)
    order[:] = out  # JAX sorts a dictionary
    return out

  size = config.augment.crop_size
  image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  outputs = jax.eval_shape(run, jax.eval_shape(setup.init).params, image)
  shapes = {
    name: tuple(jax.tree.leaves(outputs[name])[0].shape[1:]) for name in order
  }
  # The nets of CIFAR-10 move every window by one pixel.
  alexnet = config.model.name == 'alexnet'
  rows = table.rows(config.model)[0] if alexnet else ()
  strides = {row.name: row.stride for row in rows}
  layers: list[Layer] = []
  for name, shape in shapes.items():
    if name not in params:  # it has no weights: it belongs to the last that has
      last = layers.pop()
      layers.append(
        dataclasses.replace(last, then=(*last.then, name), after=shape)
      )
      continue
    towers = len(outputs[name]) if isinstance(outputs[name], list) else 1
    weights = jax.tree.leaves(params[name])
    layers.append(
      Layer(
        name=name,
        kernel=tuple(params[name]['kernel'].shape[1:-1]),
        stride=strides.get(name, 1),
        output=shape,
        neurons=towers * math.prod(shape),
        parameters=sum(math.prod(x.shape) for x in weights),
        received=needs.get((name, 'forward'), 0),
        reads_all=(name, 'forward') in needs,
        then=(),
        after=shape,
      )
    )
  return layers
