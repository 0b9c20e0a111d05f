"""Networks that runs have trained or that files hold, and starting with one.

The authors trained a network on a larger ImageNet first and tuned it on that
of 2012, with a new fc8 (§6).
"""

import os

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax.data import builders
from alexnet_jax.formats import names, safetensors
from alexnet_jax.formats.names import Arrays, Network
from alexnet_jax.runtime.checkpoint import Checkpointer
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training import state
from alexnet_jax.training.state import Setup, TrainState


def read(source: str | os.PathLike, checkpoint: int | str = 'best') -> Network:
  """The network of a run or a file; every process of a run reads it.

  Args:
    source: workdir of a run, or a file of `weights export
      --format=safetensors|grouped`. The data set need not be there, unless the
      run is of a version that did not save its statistics and class names.
    checkpoint: of a run: 'best' on validation, 'last' or the number of a step.

  Raises:
    UserError: there is no such file or checkpoint, or it is damaged.
  """
  workdir = epath.Path(source)
  if workdir.is_file():
    return safetensors.read(workdir)
  folder = workdir / 'checkpoints'
  if not folder.exists():
    raise UserError(f'no checkpoints in {workdir}: it is not a run')
  with Checkpointer(folder) as checkpointer:
    meta = state.read_meta(checkpointer, checkpoint)
    if meta is None:
      raise UserError(f'no checkpoint in {folder} is complete')
    config = ml_collections.ConfigDict(meta['config'])
    classes = meta.get('class_names')
    statistics = state.read_statistics(workdir)
    if classes is None or statistics is None:
      dataset = builders.open_dataset(config.data.name, config.data.dir)
      classes = classes or dataset.class_names
      statistics = statistics or dataset.statistics
    place = _one_device_each()
    wanted = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
      {
        'params': names.abstract(config, len(classes))[1],
        'step': jax.ShapeDtypeStruct((), jnp.int32),
      },
    )
    restored = checkpointer.restore(checkpoint, wanted, partial=True)
  assert restored is not None
  tree = restored[0]
  params = names.flatten(tree['params'])
  return Network(
    config,
    {name: np.asarray(x) for name, x in params.items()},
    tuple(classes),
    statistics,
    int(tree['step']),
  )


def _one_device_each() -> NamedSharding:
  """All of an array on the first device of each process."""
  first = {device.process_index: device for device in reversed(jax.devices())}
  devices = [first[process] for process in sorted(first)]
  return NamedSharding(Mesh(np.array(devices), ('process',)), P())


def start(setup: Setup, initial: TrainState) -> TrainState:
  """The initial state with the layers of `config.pretrained.source`.

  All but `config.pretrained.fresh` are taken, of the same names and shapes;
  velocities are 0, and step is.

  Args:
    setup: of the run that begins.
    initial: of `setup.init_state`.

  Raises:
    UserError: the source cannot be read, or is of another network.
  """
  config = setup.config.pretrained
  wanted = names.flatten(setup.abstract_state().params)
  layers = {name.split('/')[0] for name in wanted}
  if not set(config.fresh) <= layers:
    raise UserError(
      f'config.pretrained.fresh={tuple(config.fresh)}: the layers are '
      f'{tuple(sorted(layers))}'
    )

  def kept(arrays: Arrays) -> Arrays:
    fresh = set(config.fresh)
    return {n: x for n, x in arrays.items() if n.split('/')[0] not in fresh}

  network = read(config.source, config.checkpoint)
  found, wanted = kept(network.params), kept(wanted)
  shapes = {name: x.shape for name, x in found.items()}
  try:
    names.check(config.source, shapes, wanted)
  except UserError as error:
    raise UserError(
      f'config.pretrained: {error}, or name the layers that are to begin anew '
      'in config.pretrained.fresh'
    ) from None
  put = {
    name: jax.make_array_from_callback(
      x.shape, wanted[name].sharding, x.__getitem__
    )
    for name, x in found.items()
  }
  if jax.process_index() == 0:
    taken = sorted({name.split('/')[0] for name in put})
    print(
      f'starting with {", ".join(taken)} of {config.source}, step '
      f'{network.step}',
      flush=True,
    )
  params = names.filled(initial.params, put)
  return TrainState(
    initial.step, params, initial.opt_state, initial.nonfinite_step
  )
