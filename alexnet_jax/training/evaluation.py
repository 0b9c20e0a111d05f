"""Errors on a split (§6): one view or several, of one network or of several
averaged, every example exactly once."""

import functools
import os
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from alexnet_jax.data import pipeline
from alexnet_jax.data.builders import Dataset
from alexnet_jax.runtime import files, sharding
from alexnet_jax.runtime.checkpoint import Checkpointer
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.runtime.metrics import Metrics
from alexnet_jax.runtime.writers import Progress
from alexnet_jax.training import feed, per_class
from alexnet_jax.training.saved import read_meta, read_statistics, restore
from alexnet_jax.training.settings import Data, configure
from alexnet_jax.training.state import Setup, TrainState, open_setup
from alexnet_jax.training.views import PREPROCESSING, test_views

Measure = type[Metrics] | type[per_class.PerClass]


class Evaluator:
  """Compiled evaluation of one split; parameters may change between calls."""

  def __init__(
    self,
    setup: Setup,
    dataset: Dataset,
    split: str,
    reading: Data,
    batch_size: int,
    views: int = 1,
    measure: Measure = Metrics,
  ):
    """Compiles nothing yet.

    Args:
      setup: of `make_setup`.
      dataset: of `builders.open_dataset`.
      split: 'train', 'validation' or 'test'.
      reading: how many workers read, and how far ahead.
      batch_size: images of a step.
      views: 1, 2, 9 or 10 (`views.test_views`); softmax averaged (§4.1).
      measure: whose `of` a batch is summed with.

    Raises:
      UserError: there is no such split or number of views.
    """
    dataset.source(split)  # refuses a split that is not there
    self._setup, self._dataset, self._split = setup, dataset, split
    self.num_examples = dataset.num_examples(split)
    self._reading, self._batch_size = reading, batch_size
    self._rows = sharding.local_rows(setup.batch_sharding, self._batch_size)
    self._step = make_eval_step(setup, views, measure)

  def __call__(
    self, *networks: nnx.State, progress: Progress | None = None
  ) -> dict[str, Any]:
    """Mean loss and errors over the split.

    Args:
      *networks: the parameters of each; the softmax is averaged over all.
      progress: told of the examples done.

    Returns:
      'loss', 'top1_error', 'top5_error'; errors are fractions of 1; and what
      else the measure has.
    """
    total = None
    place = self._setup.batch_sharding
    steps = -(-self.num_examples // self._batch_size)
    stream = pipeline.evaluation_batches(
      self._dataset,
      self._split,
      batch_size=self._batch_size,
      rows=self._rows,
      **feed.choose_readers(
        self._reading, place, self._dataset, len(self._rows), steps
      ),
    )

    def put(batch):
      return sharding.put_batch(place, self._rows, self._batch_size, batch)

    with feed.Feed(stream, put) as batches:
      for batch in batches:
        # Read at once: two steps under way would not depend on each other, and
        # on CPUs their collectives can hold all threads, each waiting for a
        # device that has none.
        sums = jax.device_get(self._step(networks, batch))
        total = sums if total is None else total + sums
        if progress:
          progress.update(int(sums.count))
    assert total is not None and int(total.count) == self.num_examples
    return total.compute()


def make_eval_step(
  setup: Setup, views: int, measure: Measure = Metrics
) -> functools.partial:
  """One compiled step of an evaluation over the whole mesh.

  Returns:
    A function of a tuple with the parameters of each network and a batch with
    'mask' that gives the measure of the batch: a jitted one, with the constants
    of the views filled in.
  """

  def body(networks, batch, constants):
    cuts = test_views(
      constants, batch['image'], setup.augment.crop_size, views
    )  # [V, b, crop, crop, 3]
    logs = [
      mean_log_softmax(nnx.merge(setup.graphdef, params), cuts)
      for params in networks
    ]
    log_mean = _log_mean(jnp.stack(logs))  # [b, classes]
    labels, mask = setup.replica_rows((batch['label'], batch['mask']))
    sums = measure.of(log_mean, labels, mask)
    return lax.psum(sums, sharding.DATA)

  @jax.jit
  def eval_step(networks, batch, constants):
    specs = (setup.specs().params,) * len(networks)
    mapped = jax.shard_map(
      body,
      mesh=setup.mesh,
      in_specs=(specs, P(setup.towers.batch_axes), P()),
      out_specs=P(),
    )
    with jax.default_matmul_precision(setup.matmul_precision):
      return mapped(networks, batch, constants)

  constants = jax.device_put(setup.constants, NamedSharding(setup.mesh, P()))
  return functools.partial(eval_step, constants=constants)


def mean_log_softmax(
  model: Callable[[jax.Array], jax.Array], cuts: jax.Array
) -> jax.Array:
  """The logarithm of the mean over views of the softmax (§4.1).

  Args:
    model: views [B, crop, crop, 3] to logits [B, classes].
    cuts: [views, B, crop, crop, 3].

  Returns:
    float32 [B, classes].
  """
  # One view after another: the memory of a batch, not of ten.
  logs = lax.map(lambda x: jax.nn.log_softmax(model(x)), cuts)
  return _log_mean(logs)


def _log_mean(logs: jax.Array) -> jax.Array:
  """Of probabilities by their logarithms [N, ...], over the first axis."""
  return jax.nn.logsumexp(logs, axis=0) - np.log(len(logs))


def open_checkpoint(
  config: ConfigDict,
  workdir: epath.PathLike,
  checkpoint: int | str,
  overrides: Collection[str] = (),
) -> tuple[Dataset, Setup, TrainState]:
  """The data set, the setup and a state of the run in `workdir`.

  Views are made as the run made them, whatever `config` says.

  Args:
    config: as for training.
    workdir: of the run.
    checkpoint: 'last', 'best' or the number of a step.
    overrides: the fields of `config` that the user asked for, such as
      'augment.mean'; where the run had another value they are refused.

  Raises:
    UserError: there is no such checkpoint, or it is of another network, of
      other classes or of other views.
  """
  workdir = files.folder(workdir)
  folder = workdir / 'checkpoints'
  if not folder.exists():
    raise UserError(f'no checkpoints in {workdir}: train first, or --workdir=')
  with Checkpointer(folder) as checkpointer:
    meta = read_meta(checkpointer, checkpoint)
    if meta is None:
      raise UserError(f'no checkpoints in {folder}: train first, or --workdir=')
    config = _with_views_of(workdir, meta, config, overrides)
    dataset, setup = open_setup(configure(config), read_statistics(workdir))
    model, names = config.model.to_dict(), dataset.class_names
    restored = restore(
      checkpointer, checkpoint, setup, model, names, dataset.decoder
    )
  assert restored is not None
  return dataset, setup, restored[0]


def _with_views_of(
  workdir: epath.Path,
  meta: dict[str, Any],
  config: ConfigDict,
  overrides: Collection[str],
) -> ConfigDict:
  """A configuration whose views are those that a network was trained on."""
  config = config.copy_and_resolve_references()
  taken = []
  for field in PREPROCESSING:
    here = config.augment[field]
    there = meta['config']['augment'].get(field, here)
    if here == there:
      continue
    if f'augment.{field}' in overrides:
      raise UserError(
        f'config.augment.{field}={here!r}, but the run in {workdir} was '
        f'trained with {there!r}, and its network is tested so: leave this out'
      )
    config.augment[field] = there
    taken.append(f'config.augment.{field}={there!r}')
  if taken and jax.process_index() == 0:
    print(f'as the run in {workdir}: {", ".join(taken)}', flush=True)
  return config


def evaluate_checkpoint(
  config: ConfigDict,
  workdir: epath.PathLike | Sequence[epath.PathLike],
  checkpoint: int | str,
  split: str,
  views: int,
  overrides: Collection[str] = (),
  classes: bool = False,
) -> dict[str, Any]:
  """Evaluates a checkpoint of the run in `workdir` and prints the errors.

  Args:
    config: as for training; views are made as the run made them.
    workdir: of the run; of several, the mean of their networks' softmax is
      evaluated, as §6.1 averages five.
    checkpoint: 'last', 'best' or the number of a step.
    split: 'train', 'validation' or 'test'.
    views: 1, 2, 9 or 10.
    overrides: as `open_checkpoint` takes them.
    classes: print a table of errors and confusions by class, too, and write it
      to per_class_SPLIT.csv and .json in the (first) workdir.

  Returns:
    'loss', 'top1_error', 'top5_error', and 'per_class' of classes.

  Raises:
    UserError: there is no such checkpoint, split or number of views, or the
      runs are of different networks, classes or views.
  """
  one = isinstance(workdir, str | os.PathLike)
  workdirs = [workdir] if one else list(workdir)
  networks, steps, setups = [], [], []
  for path in workdirs:
    dataset, setup, state = open_checkpoint(config, path, checkpoint, overrides)
    networks.append(state.params)
    steps.append(str(int(state.step)))
    setups.append(setup)
    if field := _other_view(setups[0], setup):
      raise UserError(
        f'{path} was trained on other pictures than {workdirs[0]}: their '
        f'{field} differs, so they cannot be averaged'
      )
  settings = configure(config)
  evaluator = Evaluator(
    setup,
    dataset,
    split,
    settings.data,
    settings.eval_batch_size,
    views,
    per_class.PerClass if classes else Metrics,
  )
  show = jax.process_index() == 0
  with Progress(evaluator.num_examples, 'images', split, show=show) as progress:
    values = evaluator(*networks, progress=progress)
  several = '' if one else f' of {len(networks)} networks, averaged'
  print(
    f'step {", ".join(steps)}{several}: {evaluator.num_examples:,} images of '
    f'{split}, {views} view(s): loss {values["loss"]:.4f}, top-1 error '
    f'{values["top1_error"]:.3%}, top-5 error {values["top5_error"]:.3%}',
    flush=True,
  )
  if classes and show:
    about = {'runs': list(map(str, workdirs)), 'steps': steps, 'views': views}
    per_class.write(
      files.folder(workdirs[0]) / f'per_class_{split}',
      per_class.make_table(values['per_class'], dataset.class_names),
      {'data set': dataset.name, 'split': split, **about},
    )
  return values


def _other_view(one: Setup, other: Setup) -> str | None:
  """In what two networks see a picture differently; None: in nothing."""
  for field in PREPROCESSING:
    if getattr(one.augment, field) != getattr(other.augment, field):
      return f'config.augment.{field}'
  same = np.array_equal(one.constants.mean, other.constants.mean)
  return None if same else 'mean image'
