"""Errors on a split (§6): one view or several, of one network or of several
averaged, every example exactly once."""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
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
from alexnet_jax.runtime.metrics import Metrics, format_error
from alexnet_jax.runtime.writers import Progress
from alexnet_jax.training import feed, per_class
from alexnet_jax.training.agreement import VIEWS, check_overrides
from alexnet_jax.training.saved import (
  AVERAGE,
  choose,
  read_statistics,
  restore,
)
from alexnet_jax.training.settings import Data, Settings, configure, flat
from alexnet_jax.training.state import Setup, open_setup
from alexnet_jax.training.views import PREPROCESSING, test_views

Measure = type[Metrics] | type[per_class.PerClass]
# Fields of a configuration that need not be the run's in an evaluation.
_MAY_DIFFER = (
  *('data.name', 'data.dir', 'data.decoder', 'data.workers', 'data.prefetch'),
  *('evals.batch_size', 'mesh.', 'batch_size', 'dtype', 'matmul_precision'),
  'deterministic',
)
_PLACE = ('name', 'dir', 'decoder')  # of a data set


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
    self._setup, self._dataset, self.split = setup, dataset, split
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
      self.split,
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
  workdir: epath.PathLike,
  checkpoint: int | str,
  overrides: Mapping[str, Any] | None = None,
) -> tuple[Settings, Dataset, Setup, nnx.State, int]:
  """The run in `workdir` on the devices there are here, the parameters of a
  checkpoint and its step.

  Network, views and data set are the run's.

  Args:
    workdir: of the run.
    checkpoint: as `saved.choose` takes it.
    overrides: fields of the configuration that are to differ, such as
      {'data.dir': 'data'}: where pictures are and how they are read, batch and
      mesh, precision. Other fields have no say here.

  Raises:
    UserError: there is no such checkpoint, an override is of the network or of
      what it sees of a picture, or the data set has other classes.
  """
  workdir = files.folder(workdir)
  if not (workdir / 'checkpoints').exists():
    raise files.missing_run(workdir)
  with Checkpointer(workdir / 'checkpoints') as checkpointer:
    which, part, meta = choose(checkpointer, checkpoint)
    if meta is None:
      raise files.missing_run(workdir)
    config = _with_overrides(workdir, meta['config'], overrides or {})
    settings = configure(config)
    dataset, setup = open_setup(settings, read_statistics(workdir))
    model, names = config['model'], dataset.class_names
    restored = restore(
      checkpointer, which, setup, model, names, dataset.decoder, part
    )
  assert restored is not None
  state, _ = restored
  return settings, dataset, setup, state[part], int(state['step'])


def _with_overrides(
  workdir: epath.Path, own: dict[str, Any], overrides: Mapping[str, Any]
) -> dict[str, Any]:
  """The configuration of a run with what may differ in an evaluation."""
  config = ConfigDict(own)
  config.mesh.data = -1  # there may be other devices here
  config.accumulate = 1  # of training: its parts say nothing here
  check_overrides(workdir, own, overrides, fixed=('model.', *VIEWS))
  before = flat(own)
  for field, value in flat(overrides).items():
    if field.startswith(_MAY_DIFFER):
      config.update_from_flattened_dict({field: value})
    elif value != before.get(field):
      logging.warning('config.%s is not used in an evaluation', field)
  if 'batch_size' in overrides and 'evals.batch_size' not in overrides:
    config.evals.batch_size = 0
  # That of training need not fit these devices.
  config.batch_size = config.evals.batch_size or config.batch_size
  return config.to_dict()


def evaluate_checkpoint(
  workdir: epath.PathLike | Sequence[epath.PathLike],
  checkpoint: int | str,
  split: str,
  views: int,
  overrides: Mapping[str, Any] | None = None,
  classes: bool = False,
) -> dict[str, Any]:
  """Evaluates a checkpoint of the run in `workdir` and prints the errors.

  Args:
    workdir: of the run; of several, the mean of their networks' softmax is
      evaluated on the data set of the first, as §6.1 averages five.
    checkpoint: as `saved.choose` takes it.
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
  first, *more = workdirs
  settings, dataset, setup, params, step = open_checkpoint(
    first, checkpoint, overrides
  )
  networks, steps = [params], [step]
  show = jax.process_index() == 0
  if show:
    print(setup.describe_mesh(), flush=True)
  same = {f'data.{name}': getattr(settings.data, name) for name in _PLACE}
  for path in more:
    _, _, other, params, step = open_checkpoint(
      path, checkpoint, {**(overrides or {}), **same}
    )
    networks.append(params)
    steps.append(step)
    if field := _difference(setup, other):
      raise UserError(
        f'{path} and {first} cannot be averaged: their {field} differs'
      )
  evaluator = Evaluator(
    setup,
    dataset,
    split,
    settings.data,
    settings.eval_batch_size,
    views,
    per_class.PerClass if classes else Metrics,
  )
  count = evaluator.num_examples
  with Progress(count, 'images', split, show=show) as progress:
    values = evaluator(*networks, progress=progress)
  if show:
    what = ''
    if str(checkpoint).endswith(AVERAGE):
      what = ', the average of the parameters'
    if more:
      what += f', mean of {len(networks)} networks'
    print(
      f'{dataset.name}, {split}: {count:,} image{_s(count)}, {views} '
      f'view{_s(views)}, step {", ".join(map(str, steps))}{what}\n'
      f'loss {values["loss"]:.4f}, '
      f'top-1 error {format_error(values["top1_error"], count)}'
      + f', top-5 error {format_error(values["top5_error"], count)}'
      * (dataset.num_classes > 5),
      flush=True,
    )
  if classes and show:
    runs = list(map(str, (first, *more)))
    about = {'runs': runs, 'steps': steps, 'views': views}
    per_class.write(
      files.folder(first) / f'per_class_{split}',
      per_class.make_table(values['per_class'], dataset.class_names),
      {'data set': dataset.name, 'split': split, **about},
    )
  return values


def _s(count: int) -> str:
  return '' if count == 1 else 's'


def _difference(one: Setup, other: Setup) -> str | None:
  """In what two networks, or what they see, differ; None: in nothing."""
  if one.table != other.table:
    return 'config.model'
  for field in PREPROCESSING:
    if getattr(one.augment, field) != getattr(other.augment, field):
      return f'config.augment.{field}'
  same = np.array_equal(one.constants.mean, other.constants.mean)
  return None if same else 'mean image'
