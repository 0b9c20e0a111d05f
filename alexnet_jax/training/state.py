"""What training changes (`TrainState`), and what it stands on (`Setup`)."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from etils import epath
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax.analysis import looking
from alexnet_jax.data import builders, preparation
from alexnet_jax.data.builders import Dataset
from alexnet_jax.data.stats import Statistics
from alexnet_jax.models import get_model, table, towers
from alexnet_jax.runtime import backend, files, sharding
from alexnet_jax.runtime.checkpoint import Checkpointer
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training import limits
from alexnet_jax.training import views as augment
from alexnet_jax.training.optimizer import (
  initial_velocity,
  make_optimizer,
  trained,
)
from alexnet_jax.training.schedules import make_schedule

STATISTICS = 'statistics.npz'  # in the folder of a run


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
  """

  step: Any
  params: nnx.State
  opt_state: Any
  nonfinite_step: Any


@dataclasses.dataclass(frozen=True)
class Setup:
  """The network, where it runs and what it sees: what a step closes over.

  Attributes:
    config: the whole configuration.
    mesh: ('data', 'tower').
    graphdef: the network's structure, for `nnx.merge` with its parameters.
    constants: what views need of the training set.
    init: makes the initial state; only meant to be traced.
  """

  config: ml_collections.ConfigDict
  mesh: Mesh
  graphdef: nnx.GraphDef
  constants: augment.Constants
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
    """The partition spec of each leaf of the state.

    A tower parameter's leading axis is spread over the mesh's towers; with
    'owt', only that of a fully connected layer. It is over 'data', too, where
    that has one part: the same place, but no sum of gradients over one device,
    for which XLA copies them.
    """
    single = self.mesh.shape[sharding.DATA] == 1
    over = P((sharding.DATA, sharding.TOWER) if single else sharding.TOWER)

    def spec(path: Any, node: Any) -> Any:
      if not isinstance(node, nnx.Variable):
        return P()
      names = {getattr(key, 'key', None) for key in path}
      whole = self.owt and names & set(table.CONVS)
      on_towers = isinstance(node, towers.TowerParam | towers.TowerAverage)
      spread = on_towers and not whole
      return node.replace(over if spread else P())

    return jax.tree_util.tree_map_with_path(
      spec,
      jax.eval_shape(self.init),
      is_leaf=lambda node: isinstance(node, nnx.Variable),
    )

  @property
  def owt(self) -> bool:
    """Whether a device has all convolutions, on rows of its own."""
    return self.config.mesh.parallelism == 'owt'

  @property
  def batch_axes(self) -> tuple[str, ...]:
    """The mesh axes that the rows of a batch are spread over."""
    return (sharding.DATA, sharding.TOWER) if self.owt else (sharding.DATA,)

  def replica_rows(self, tree: Any) -> Any:
    """Inside `shard_map`: the rows that the logits on this device have.

    Args:
      tree: arrays [b, ...] of this device's rows, such as labels.

    Returns:
      Arrays [batch / data, ...]: with 'owt', those of all towers' devices.
    """
    if not self.owt:
      return tree
    with jax.named_scope('labels'):
      return jax.lax.all_gather(
        tree, sharding.TOWER, tiled=True, to='invarying'
      )

  @property
  def batch_sharding(self) -> NamedSharding:
    """How a batch lies on the mesh, for `local_rows` and `put_batch`."""
    return sharding.batch_sharding(self.mesh, self.batch_axes)

  def init_state(self) -> TrainState:
    """The initial state, made where it lives."""
    place = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state())
    options = backend.HASTY
    return jax.jit(self.init, out_shardings=place, compiler_options=options)()


def make_setup(
  config: ml_collections.ConfigDict,
  mesh: Mesh,
  num_classes: int,
  statistics: Statistics,
) -> Setup:
  """Builds the network of `config` on `mesh`.

  Args:
    config: as configs/default.py describes it.
    mesh: of `sharding.make_mesh`.
    num_classes: outputs of fc8.
    statistics: of the training split.

  Raises:
    UserError: a field of the configuration has no such value.
  """

  def make_model() -> nnx.Module:
    return get_model(
      config,
      num_classes,
      tower_axis=sharding.TOWER,
      rngs=nnx.Rngs(params=config.seed),
    )

  graphdef, abstract_params = nnx.split(nnx.eval_shape(make_model))
  # Refuses bad rules early.
  make_optimizer(
    config.optimizer, trained(abstract_params), rules=config.schedule.rules
  )

  def init() -> TrainState:
    params = nnx.state(make_model())
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      opt_state=initial_velocity(config.optimizer, params),
      nonfinite_step=jnp.full((), -1, jnp.int32),
    )

  constants = augment.constants(config.augment, statistics)
  return Setup(config, mesh, graphdef, constants, init)


def open_setup(
  config: ml_collections.ConfigDict, workdir: epath.PathLike | None = None
) -> tuple[Dataset, Setup]:
  """The data set and the setup of `config` on the devices there are.

  Prints the device map. Process 0 draws the data set `shapes` if it is
  missing, others wait.

  Args:
    config: the whole configuration.
    workdir: of a run; where it has begun, its statistics are used.

  Raises:
    UserError: the data set is missing, or the configuration makes no sense.
  """
  limits.check(config)
  if config.data.name == 'shapes':
    preparation.ensure_shapes(config.data.dir)
  dataset = builders.open_dataset(config.data.name, config.data.dir)
  towers_wanted = config.model.towers
  mesh = sharding.make_mesh(config.mesh.data, config.mesh.towers, towers_wanted)
  statistics = read_statistics(workdir) if workdir else None
  setup = make_setup(
    config, mesh, dataset.num_classes, statistics or dataset.statistics
  )
  print(sharding.device_map(mesh, towers_wanted, setup.owt), flush=True)
  return dataset, setup


def restore(
  checkpointer: Checkpointer, which: int | str, setup: Setup
) -> tuple[TrainState, dict[str, Any]] | None:
  """The state and the meta data of a checkpoint, on the setup's mesh.

  Args:
    checkpointer: of the run.
    which: 'last', 'best' or the number of a step.
    setup: whose `config.model` must be the checkpoint's.

  Returns:
    None: 'last' was asked for and there is none yet.

  Raises:
    UserError: it is missing or damaged, or it is another network.
  """
  meta = read_meta(checkpointer, which)
  if meta is None:
    return None
  # What a configuration is too old to have, it has as it was then.
  since = json.loads(json.dumps(table.SINCE))
  now = since | looking.flat(json.loads(setup.config.model.to_json()))
  before = since | looking.flat(meta['config']['model'])
  for field in sorted(before.keys() | now.keys()):
    if before.get(field) != now.get(field):
      raise UserError(
        f'this is another network: config.model.{field} is '
        f'{now.get(field)!r} here and {before.get(field)!r} in the '
        'checkpoint. Give the same, or choose another --workdir'
      )
  return checkpointer.restore(which, setup.abstract_state())


def read_meta(
  checkpointer: Checkpointer, which: int | str
) -> dict[str, Any] | None:
  """The meta data of a checkpoint; None: there is no 'last' yet.

  Raises:
    UserError: it is missing or damaged, or no run wrote it.
  """
  meta = checkpointer.read_meta(which)
  if meta is not None and not _is_ours(meta):
    raise UserError(
      f'meta.json of checkpoint {which!r} is not what a run writes: remove '
      'the checkpoint, or choose another --workdir'
    )
  return meta


def write_run(
  workdir: epath.PathLike,
  config: ml_collections.ConfigDict,
  params: nnx.State,
  class_names: Sequence[str],
  statistics: Statistics,
) -> None:
  """Writes a run of no steps that begins with given parameters.

  Args:
    workdir: of the new run.
    config: as configs/default.py describes it.
    params: of its network.
    class_names: by the number of the output.
    statistics: of the images that the network is used to.

  Raises:
    UserError: there is a run in `workdir`, or it cannot be written.
  """
  workdir = files.folder(workdir)
  folder = workdir / 'checkpoints'
  if folder.exists():
    raise UserError(f'{workdir} has a run in it: choose another --workdir')
  state = TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=initial_velocity(config.optimizer, params),
    nonfinite_step=jnp.full((), -1, jnp.int32),
  )
  meta = {
    'config': json.loads(config.to_json()),
    'num_classes': len(class_names),
    'class_names': class_names,
    'schedule': make_schedule(config.schedule).position(),
    'environment': backend.describe(),
  }
  with files.explained(workdir):
    files.make_folder(workdir)
    statistics.save(workdir / STATISTICS)
  with Checkpointer(folder) as checkpointer:
    checkpointer.save(0, state, meta)


def read_statistics(workdir: epath.PathLike) -> Statistics | None:
  """Of the images that the run in `workdir` began with, which its network is
  used to; None: an older run, which did not save them.

  Raises:
    UserError: the file is damaged.
  """
  path = files.folder(workdir) / STATISTICS
  if not path.exists():
    return None
  try:
    return Statistics.load(path)
  except Exception as error:  # damaged bytes may be anything
    raise UserError(
      f'{path} cannot be read: {error}. Put an intact copy back, or remove it: '
      "the data set's own are used then"
    ) from error


def _is_ours(meta: dict[str, Any]) -> bool:
  """Whether meta data have the form that `train` gives them."""
  numbers = (int, float, type(None))
  try:
    return (
      isinstance(meta['config']['model'], dict)
      and isinstance(meta['config']['schedule']['kind'], str)
      and isinstance(meta['environment'], dict)
      and all(isinstance(x, numbers) for x in meta['schedule'].values())
      and all(isinstance(i, int) for i in meta.get('bad_records', []))
      and all(isinstance(name, str) for name in meta.get('class_names', []))
    )
  except (KeyError, TypeError, AttributeError):
    return False
