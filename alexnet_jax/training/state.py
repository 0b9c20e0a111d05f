"""What training changes (`TrainState`), and what it stands on (`Setup`)."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from alexnet_jax.data import builders, preparation
from alexnet_jax.data.builders import Dataset
from alexnet_jax.data.stats import Statistics
from alexnet_jax.models import towers
from alexnet_jax.models.networks import make_network
from alexnet_jax.models.rows import Table
from alexnet_jax.models.towers import Towers
from alexnet_jax.runtime import backend, distributed, sharding
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training import views
from alexnet_jax.training.optimizer import (
  Rule,
  initial_velocity,
  make_optimizer,
  trained,
)
from alexnet_jax.training.schedules import Plan
from alexnet_jax.training.settings import Settings
from alexnet_jax.training.views import Augment


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """Everything a step changes.

  Attributes:
    step: int32, steps done.
    params: of the network; tower parameters have a leading axis of towers.
      With batch normalization its running averages, too.
    opt_state: of the Optax chain: the velocity.
    nonfinite_step: int32, the first step whose loss or update was not
      finite; -1: none. A state with another value is never saved.
    average: of the parameters over the steps, with `config.optimizer.ema`.
  """

  step: Any
  params: nnx.State
  opt_state: Any
  nonfinite_step: Any
  average: nnx.State | None = None


@dataclasses.dataclass(frozen=True)
class Setup:
  """The network, where it runs and what it sees: what a step closes over.

  Attributes:
    mesh: ('data', 'tower').
    towers: how the towers share its devices.
    table: of the network.
    graphdef: the network's structure, for `nnx.merge` with its parameters.
    augment: how views are made.
    constants: what views need of the training set.
    optimizer: the rule of a step.
    schedule: the plan of the learning rates.
    seed: of all draws.
    batch_size: images of a training step.
    accumulate: parts of a step, one after the other.
    label_smoothing: of the loss that a step differentiates.
    matmul_precision: how accelerators multiply float32.
    init: makes the initial state; only meant to be traced.
  """

  mesh: Mesh
  towers: Towers
  table: Table
  graphdef: nnx.GraphDef
  augment: Augment
  constants: views.Constants
  optimizer: Rule
  schedule: Plan
  seed: int
  batch_size: int
  accumulate: int
  label_smoothing: float
  matmul_precision: str
  init: Callable[[], TrainState]

  def abstract_state(self) -> TrainState:
    """Shapes, dtypes and shardings of the state, nothing allocated."""
    return jax.tree.map(
      lambda leaf, spec: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=NamedSharding(self.mesh, spec)
      ),
      jax.eval_shape(self.init),
      self.specs(),
    )

  def specs(self) -> TrainState:
    """The partition spec of each leaf of the state."""
    state = jax.eval_shape(self.init)
    return towers.variable_specs(self.mesh, self.towers, state)

  def replica_rows(self, tree: Any) -> Any:
    """Inside `shard_map`: the rows that the logits on this device have.

    Args:
      tree: arrays [b, ...] of this device's rows, such as labels.

    Returns:
      Arrays [batch / data, ...]: with 'owt', those of all towers' devices.
    """
    if not self.towers.owt:
      return tree
    with jax.named_scope('labels'):
      return jax.lax.all_gather(tree, towers.TOWER, tiled=True, to='invarying')

  def describe_mesh(self) -> str:
    """Which tower and which share of the batch each device has, and which
    GPUs they are."""
    owt, gpus = self.towers.owt, backend.describe_gpus()
    text = towers.describe_mesh(self.mesh, self.table.towers, owt)
    return f'{text}\n{gpus}' if gpus else text

  @property
  def batch_sharding(self) -> NamedSharding:
    """How a batch lies on the mesh, for `local_rows` and `put_batch`."""
    return sharding.batch_sharding(self.mesh, self.towers.batch_axes)

  def init_state(self) -> TrainState:
    """The initial state, made where it lives."""
    place = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state())
    options = backend.HASTY
    return jax.jit(self.init, out_shardings=place, compiler_options=options)()


def make_setup(
  settings: Settings, mesh: Mesh, num_classes: int, statistics: Statistics
) -> Setup:
  """Builds the network of a configuration on a mesh.

  Args:
    settings: of `configure`.
    mesh: of `MeshShape.make_mesh`.
    num_classes: outputs of fc8.
    statistics: of the training split.

  Raises:
    UserError: views are too small or too large, or a rule fits no parameter.
  """
  own = settings.mesh.make_towers()
  place = sharding.batch_sharding(mesh, own.batch_axes)
  sharding.local_rows(place, settings.batch_size, settings.accumulate)

  def make_model() -> nnx.Module:
    return make_network(
      settings.model,
      num_classes,
      settings.augment.crop_size,
      dtype=settings.dtype,
      towers=own,
      rngs=nnx.Rngs(params=settings.seed),
    )

  graphdef, abstract_params = nnx.split(nnx.eval_shape(make_model))
  rule, plan = settings.optimizer, settings.schedule
  # Refuses bad rules early.
  make_optimizer(rule, trained(abstract_params), patterns=plan.patterns)

  def init() -> TrainState:
    return start_state(rule, nnx.state(make_model()))

  return Setup(
    mesh=mesh,
    towers=own,
    table=settings.model,
    graphdef=graphdef,
    augment=settings.augment,
    constants=views.make_constants(settings.augment, statistics),
    optimizer=rule,
    schedule=plan,
    seed=settings.seed,
    batch_size=settings.batch_size,
    accumulate=settings.accumulate,
    label_smoothing=settings.label_smoothing,
    matmul_precision=settings.matmul_precision,
    init=init,
  )


def start_state(rule: Rule, params: nnx.State) -> TrainState:
  """The state before the first step, with given parameters."""
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=initial_velocity(rule, params),
    nonfinite_step=jnp.full((), -1, jnp.int32),
    average=jax.tree.map(jnp.copy, params) if rule.ema else None,
  )


def open_setup(
  settings: Settings, statistics: Statistics | None = None
) -> tuple[Dataset, Setup]:
  """The data set and the setup of a configuration on the devices there are.

  Process 0 draws the data set `shapes` if it is missing, others wait.

  Args:
    settings: of `configure`.
    statistics: of the pictures that the network is used to; None: the data
      set's own.

  Returns:
    The data set, with those statistics in place of its own, and the setup.

  Raises:
    UserError: the data set is missing or its pictures have another size, or
      the configuration makes no sense.
  """
  data, table = settings.data, settings.model
  if data.name == 'shapes':
    preparation.ensure_shapes(data.dir)
  dataset = builders.open_dataset(data.name, data.dir, data.decoder)
  distributed.refuse_different(
    f'the data set {data.name}',
    [dataset.class_names, dataset.fingerprint['examples']],
  )
  if statistics:
    dataset = with_statistics(dataset, statistics)
  mesh = settings.mesh.make_mesh(table.towers)
  setup = make_setup(settings, mesh, dataset.num_classes, dataset.statistics)
  return dataset, setup


def with_statistics(dataset: Dataset, statistics: Statistics) -> Dataset:
  """A data set whose pictures a network sees as it saw those of `statistics`.
  Warns where their mean is another.

  Where only a mean is known (`stats.of_mean`), colours are the data set's.

  Raises:
    UserError: its pictures are of another size.
  """
  size = len(statistics.mean_image)
  if size != dataset.image_size:
    raise UserError(
      f'the network is used to pictures of {size} pixels, and those of the '
      f'data set {dataset.name} have {dataset.image_size}: prepare it with '
      f'--size={size}'
    )
  other = abs(statistics.mean_image - dataset.statistics.mean_image).max()
  if other > 0.01:  # not by rounding
    logging.warning(
      "the network's own mean image is used, which differs from that of the "
      'data set %s by up to %.2f of 255: its pictures are others',
      *(dataset.name, other),
    )
  if not statistics.count:
    statistics = dataclasses.replace(
      dataset.statistics,
      mean_image=statistics.mean_image,
      rgb_mean=statistics.rgb_mean,
    )
  return dataclasses.replace(dataset, statistics=statistics)
