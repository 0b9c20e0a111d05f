"""Networks by name: AlexNet (§3), and the nets of the CIFAR-10 experiments."""

import ml_collections
from flax import nnx

from alexnet_jax.models.alexnet import AlexNet
from alexnet_jax.models.cifar import NETS, CifarNet
from alexnet_jax.runtime.errors import UserError


def get_model(
  config: ml_collections.ConfigDict,
  num_classes: int,
  *,
  tower_axis: str | None = None,
  rngs: nnx.Rngs,
) -> AlexNet | CifarNet:
  """The network that `config.model.name` names.

  Args:
    config: the whole configuration.
    num_classes: outputs of the last layer.
    tower_axis: the mesh axis of the towers when called inside `shard_map`.
    rngs: stream `params` draws the weights.

  Raises:
    UserError: there is no such network, or a field has no such value.
  """
  size = config.augment.crop_size
  common = {'dtype': config.dtype, 'tower_axis': tower_axis, 'rngs': rngs}
  if config.model.name == 'alexnet':
    return AlexNet(
      config.model,
      num_classes,
      size,
      parallelism=config.mesh.parallelism,
      exchange_dtype=config.mesh.exchange_dtype,
      **common,
    )
  if config.model.name not in NETS:
    raise UserError(
      f'config.model.name is one of {["alexnet", *NETS]}, not '
      f'{config.model.name!r}'
    )
  if config.mesh.parallelism != 'towers':
    raise UserError(
      f'{config.model.name} has one tower: config.mesh.parallelism="towers"'
    )
  return CifarNet(config.model, num_classes, size, **common)
