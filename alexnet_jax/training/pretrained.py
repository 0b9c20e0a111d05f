"""Networks that runs have trained or that files hold, and starting with one.

The authors trained a network on a larger ImageNet first and tuned it on that
of 2012, with a new fc8 (§6).
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax.formats import hub, names, safetensors
from alexnet_jax.formats.names import Arrays, Network
from alexnet_jax.runtime import files
from alexnet_jax.runtime.checkpoint import Checkpointer
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training import agreement, saved
from alexnet_jax.training.settings import Pretrained, flat
from alexnet_jax.training.state import Setup, TrainState


def read(source: str | os.PathLike, checkpoint: int | str = 'best') -> Network:
  """The network of a run or a file; every process of a run reads it.

  Args:
    source: workdir of a run, a file of `weights export
      --format=safetensors|grouped`, a folder of `--format=hub`, or
      'hf://OWNER/NAME[@REVISION]'. The data set need not be there, unless the
      run is of a version that did not save its statistics and class names.
    checkpoint: of a run: 'best' on validation, 'last' or the number of a step;
      with '-ema' behind it the average of its parameters.

  Raises:
    UserError: there is no such file or checkpoint, or it is damaged.
  """
  workdir = hub.resolve(source)
  if workdir.is_file():
    network = safetensors.read(workdir)
    if str(checkpoint) not in ('best', 'last', str(network.step)):
      raise UserError(
        f'{source} is a file with one network, of step {network.step}, and no '
        f'checkpoint {checkpoint}'
      )
    return network
  folder = workdir / 'checkpoints'
  if not folder.exists():
    raise files.missing_run(workdir)
  with Checkpointer(folder) as checkpointer:
    which, part, meta = saved.choose(checkpointer, checkpoint)
    if meta is None:
      raise files.missing_run(workdir)
    classes = tuple(meta['class_names'])
    statistics = saved.read_statistics(workdir)
    if statistics is None:
      raise UserError(f'{workdir / saved.STATISTICS} is missing: put it back')
    network = Network(meta['config'], {}, classes, statistics)
    place = _one_device_each()
    wanted = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
      {
        part: network.abstract()[1],
        'step': jax.ShapeDtypeStruct((), jnp.int32),
      },
    )
    restored = checkpointer.restore(which, wanted, partial=True)
  assert restored is not None
  tree = restored[0]
  params = names.flatten(tree[part])
  return dataclasses.replace(
    network,
    params={name: np.asarray(x) for name, x in params.items()},
    step=int(tree['step']),
    average=part == 'average',
  )


def _one_device_each() -> NamedSharding:
  """All of an array on the first device of each process."""
  first = {device.process_index: device for device in reversed(jax.devices())}
  devices = [first[process] for process in sorted(first)]
  return NamedSharding(Mesh(np.array(devices), ('process',)), P())


def tell_differences(
  network: Network, choice: Pretrained, model: Mapping[str, Any]
) -> None:
  """Warns of each field of `config.model` that is another than the one that
  the layers were trained with, though their shapes are the same.

  Args:
    network: of `config.pretrained.source`.
    choice: names the layers that begin anew.
    model: `config.model` of the run that begins.
  """
  before, now = flat(network.config['model']), flat(model)
  for field in sorted(before.keys() & now.keys()):
    layer, _, last = field.rpartition('.')
    kept = layer not in choice.fresh and not last.startswith('init_')
    if kept and before[field] != now[field]:
      logging.warning(
        'config.model.%s is %r here, and the network of %s was trained with %r',
        *(field, now[field], choice.source, before[field]),
      )


def start(
  network: Network,
  choice: Pretrained,
  setup: Setup,
  initial: TrainState,
  class_names: Sequence[str],
) -> TrainState:
  """The initial state with the layers of another network.

  All but `config.pretrained.fresh` are taken, of the same names and shapes;
  velocities are 0, and step is.

  Args:
    network: of `config.pretrained.source`.
    choice: where that is from, and the layers to begin anew.
    setup: of the run that begins.
    initial: of `setup.init_state`.
    class_names: of the data set.

  Raises:
    UserError: layers have other shapes or, with fc8, other classes.
  """
  wanted = names.flatten(setup.abstract_state().params)
  layers = {name.split('/')[0] for name in wanted}
  if not set(choice.fresh) <= layers:
    raise UserError(
      f'config.pretrained.fresh={tuple(choice.fresh)}: the layers are '
      f'{tuple(sorted(layers))}'
    )

  def kept(arrays: Arrays) -> Arrays:
    fresh = set(choice.fresh)
    return {n: x for n, x in arrays.items() if n.split('/')[0] not in fresh}

  found, wanted = kept(network.params), kept(wanted)
  shapes = {name: x.shape for name, x in found.items()}
  try:
    names.check(choice.source, shapes, wanted)
  except UserError as error:
    raise UserError(
      f'config.pretrained: {error}, or name the layers that are to begin anew '
      'in config.pretrained.fresh'
    ) from None
  if setup.table.logits.name not in choice.fresh:
    trained = network.step > 0
    agreement.check_classes(
      choice.source, network.class_names, class_names, trained
    )
  put = {
    name: jax.make_array_from_callback(
      x.shape, wanted[name].sharding, x.__getitem__
    )
    for name, x in found.items()
  }
  if jax.process_index() == 0:
    taken = sorted({name.split('/')[0] for name in put})
    print(
      f'starting with {", ".join(taken)} of {choice.source}, step '
      f'{network.step}',
      flush=True,
    )
  params = names.filled(initial.params, put)
  average = jax.tree.map(jnp.copy, params) if initial.average else None
  return dataclasses.replace(initial, params=params, average=average)
