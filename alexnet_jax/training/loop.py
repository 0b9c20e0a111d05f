"""The loop around the step (§5).

Its order is a contract: restore; while step < end: next batch, step, log if
due, evaluate if due, save if due. The last step is always evaluated and
saved, and every evaluation is followed by a save.
"""

import contextlib
import json
import sys
from collections.abc import Iterator
from concurrent import futures
from fractions import Fraction
from typing import Any

import jax
import ml_collections
from absl import logging
from etils import epath

from alexnet_jax.analysis import looking, pictures
from alexnet_jax.data import pipeline
from alexnet_jax.data.builders import Dataset
from alexnet_jax.runtime import (
  backend,
  distributed,
  files,
  metrics,
  sharding,
  signals,
)
from alexnet_jax.runtime.cadence import Duration
from alexnet_jax.runtime.checkpoint import Checkpointer
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.runtime.metrics import Metrics
from alexnet_jax.runtime.profile import Meter, Trace
from alexnet_jax.runtime.writers import MetricsWriter, Progress
from alexnet_jax.training import cache, health, pretrained
from alexnet_jax.training.bad_records import BadRecords
from alexnet_jax.training.evaluation import Evaluator
from alexnet_jax.training.schedules import make_schedule, rates
from alexnet_jax.training.state import STATISTICS, Setup, open_setup, restore
from alexnet_jax.training.step import TrainStep


def train_and_evaluate(
  config: ml_collections.ConfigDict,
  workdir: epath.PathLike,
  profile: tuple[int, int] | None = None,
) -> int:
  """Trains, or goes on from the last checkpoint in `workdir`.

  Args:
    config: as configs/default.py describes it.
    workdir: folder of the run: checkpoints, metrics.jsonl, TensorBoard.
    profile: the steps between which a `jax.profiler` trace is written there.

  Returns:
    0 at the end; `signals.STOPPED` when it was asked to leave before.

  Raises:
    UserError: anything that the user can mend.
    NotFiniteError: of these, a loss that is not finite.
  """
  workdir = files.folder(workdir)
  dataset, setup = open_setup(config, workdir)
  with contextlib.ExitStack() as stack:
    # First, for it must outlive the save that the checkpointer waits for.
    stop = stack.enter_context(signals.StopRequest())
    run = _Run(config, dataset, setup, workdir, stack)
    if run.ended():
      print(f'{workdir} is complete: {run.step} steps', flush=True)
      return 0
    trace = stack.enter_context(Trace(workdir, profile))
    batches = run.open_batches(stack)
    # Entered last: after an error nothing waits for the other processes.
    stack.enter_context(distributed.together())
    while not run.ended():
      trace.before(run.step)
      batch = next(batches)
      run.preflight(batch)
      run.train(batch)
      if run.log_due():
        run.log()
      if run.evaluation_due():
        run.evaluate()
      leave = stop.due(run.step)
      if run.evaluation_due() or run.save_due() or leave:
        run.save()
      if leave:
        break
  return 0 if run.ended() else signals.STOPPED


class NotFiniteError(UserError):
  """The loss, or an update, is infinite or NaN: the run diverged."""


class _Run:
  """The state of a run, and each thing the loop does with it."""

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    dataset: Dataset,
    setup: Setup,
    workdir: epath.Path,
    stack: contextlib.ExitStack,
  ):
    self.config, self.dataset, self.setup = config, dataset, setup
    self.num_examples = dataset.num_examples('train')
    self.end = self._duration(config.length).steps
    self.log_every = self._duration(config.log_every)
    self.evaluate_every = self._duration(config.evals.every)
    self.save_every = self._duration(config.checkpoint.every)
    self.color_until = self._duration(config.augment.color_until)
    self.schedule = make_schedule(config.schedule)
    self.environment = backend.describe()
    self.statistics = workdir / STATISTICS
    checkpointer = Checkpointer(workdir / 'checkpoints', config.checkpoint.keep)
    # Refuses what it cannot do before hours of training.
    dataset.source('train')
    self.evaluator = Evaluator(setup, dataset, config.evals.split)
    final = config.evals.final_split
    self.final_evaluator = final and Evaluator(setup, dataset, final)

    if jax.process_index() == 0:
      stack.enter_context(_alone_in(workdir))
    self.checkpointer = stack.enter_context(checkpointer)
    self.bad_records = BadRecords(config.data.max_bad_records)
    restored = restore(self.checkpointer, 'last', setup)
    if restored is None:
      self.state = setup.init_state()
      if config.pretrained.source:
        self.state = pretrained.start(setup, self.state)
      self.step = 0
    else:
      self.state, meta = restored
      self.step = int(self.state.step)
      if meta['config']['schedule']['kind'] == config.schedule.kind:
        self.schedule.resume(meta['schedule'])
      self.bad_records.indices.update(meta.get('bad_records', ()))
      _log_changes(meta, self.meta())
      print(f'resuming from step {self.step}', flush=True)
    if self.ended():
      return
    self.cache = cache.load(setup, dataset)
    self.train_step = TrainStep(
      setup, cache=self.cache.arrays if self.cache else None
    )
    self.probe = health.make_probe(setup)
    self.previous: Metrics | None = None
    self.writer = stack.enter_context(
      MetricsWriter(
        workdir,
        None if restored is None else self.step,
        write=jax.process_index() == 0,
      )
    )
    self.progress = stack.enter_context(
      Progress(
        self.end * config.batch_size,
        'images',
        workdir.name,
        initial=self.step * config.batch_size,
        show=jax.process_index() == 0,
      )
    )
    self.meter = Meter()
    self.text = ''  # of the last log, beside the progress
    self.error: float | None = None  # of an evaluation not saved yet

  def _duration(self, text: str) -> Duration:
    return Duration.parse(text, self.config.batch_size, self.num_examples)

  def epoch(self, step: int | Fraction) -> float:
    """How many times the training split has been seen after `step` steps."""
    return float(step * self.config.batch_size / self.num_examples)

  def ended(self) -> bool:
    return self.step >= self.end or self.schedule.finished

  def open_batches(self, stack: contextlib.ExitStack):
    """Global batches on the devices, from the next step on."""
    config = self.config
    place = self.setup.batch_sharding
    rows = sharding.local_rows(place, config.batch_size)
    which = {
      'seed': config.seed,
      'batch_size': config.batch_size,
      'rows': rows,
      'start': self.step,
    }
    if self.cache:
      stream = self.cache.batches(self.dataset, **which)
    else:
      stream = pipeline.training_batches(
        self.dataset,
        **which,
        workers=config.data.workers,
        prefetch=config.data.prefetch,
        max_bad_records=config.data.max_bad_records,
      )
    stack.callback(stream.close)
    while True:
      with self.meter.waiting():
        batch = next(stream)
      self.bad_records.meet(batch.pop('replaced'))
      yield sharding.put_batch(place, rows, config.batch_size, batch)

  def preflight(self, batch) -> None:
    """Before the first step: warns of what will keep it from learning."""
    if self.step == 0:
      self._next_rates()
      # Meanwhile the step compiles; a failure of that is the step's to tell.
      with futures.ThreadPoolExecutor() as pool:
        pool.submit(self.train_step.compile, self.state, batch, self.rates)
        found = self.probe(self.state, self._images(batch))
      for text in health.warnings(found, self.config):
        self._warn(text)
      self.meter.restart()

  def train(self, batch) -> None:
    self.batch = batch
    self._next_rates()
    until = self.color_until.steps  # 0: always
    self.state, self.metrics = self.train_step(
      self.state, batch, self.rates, color=not until or self.step < until
    )
    self.step += 1
    # One step runs while the next is made ready; more would only hold memory
    # and delay a request to stop.
    jax.block_until_ready(self.previous)
    self.previous = self.metrics
    self.meter.add(self.config.batch_size)
    self.progress.update(self.config.batch_size, self.text)

  def _next_rates(self) -> None:
    epoch = self.epoch(self.step)
    self.rate = self.schedule.rate(epoch)
    self.rates = rates(self.config.schedule, epoch, self.rate)

  def log_due(self) -> bool:
    return self.log_every.due(self.step) or self.step == self.end

  def log(self) -> None:
    """A row with the metrics of this very step."""
    values = self.metrics.compute()
    self._check_finite()
    self.bad_records.unite()
    times = self.meter.read()
    self.text = (
      f'loss {values["loss"]:.3f}, top-1 error {values["top1_error"]:.0%}, '
      f'{times["time/waiting"]:.0%} waiting for data'
    )
    row = {f'train/{name}': value for name, value in values.items()}
    row['train/rate'] = self.rate
    for (name, _), rate in zip(
      self.config.schedule.rules, self.rates[1:], strict=True
    ):
      row[f'train/rate/{name}'] = float(rate)
    self._write({**row, **times})

  def evaluation_due(self) -> bool:
    return self.evaluate_every.due(self.step) or self.step == self.end

  def evaluate(self) -> None:
    """A row of errors on validation, which may move the rate."""
    self._check_finite()
    split = self.config.evals.split
    values = self.evaluator(self.state.params)
    self.error = values['top1_error']
    row = _named(split, values)
    self._write({**row, **self._health(values['loss'])})
    # A batch may straddle epochs; patience counts the plan's, not the step's.
    period = self.evaluate_every.length
    planned = self.step // period * period if period else self.step
    self.schedule.observe(self.epoch(planned), self.error)
    self._say(split, values)
    self.writer.image(
      self.step, 'conv1', pictures.conv1_kernels(self.state.params)
    )
    if self.ended() and self.final_evaluator:
      split = self.config.evals.final_split
      values = self.final_evaluator(self.state.params)
      self._write(_named(split, values))
      self._say(split, values)
    self.meter.restart()

  def _health(self, loss: float) -> dict[str, float]:
    """Of the state on the last step's images; sounds the alarm."""
    found = self.probe(self.state, self._images(self.batch))
    if self.epoch(self.step) >= 1:
      text = health.alarm(loss, self.dataset.num_classes, found, self.config)
      if text:
        self._warn(text)
    return found.scalars()

  def _images(self, batch) -> jax.Array:
    return self.cache.images(batch) if self.cache else batch['image']

  def save_due(self) -> bool:
    return self.save_every.due(self.step)

  def save(self) -> None:
    """Starts to save; a state that is not finite is never written."""
    self._check_finite()
    self.bad_records.unite()
    error, self.error = self.error, None
    if jax.process_index() == 0 and not self.statistics.exists():
      with files.explained(self.statistics):
        self.dataset.statistics.save(self.statistics)
    self.writer.sync()
    self.checkpointer.save(self.step, self.state, self.meta(), error)
    self.meter.restart()

  def meta(self) -> dict[str, Any]:
    return {
      'config': json.loads(self.config.to_json()),
      'num_classes': self.dataset.num_classes,
      'class_names': self.dataset.class_names,
      'schedule': self.schedule.position(),
      'bad_records': sorted(self.bad_records.indices),
      'environment': self.environment,
    }

  def _write(self, values: dict[str, float]) -> None:
    self.writer.scalars(self.step, {'epoch': self.epoch(self.step), **values})

  def _say(self, split: str, values: dict[str, float]) -> None:
    print(
      f'step {self.step}, epoch {self.epoch(self.step):.1f}: {split} loss '
      f'{values["loss"]:.3f}, top-1 error {values["top1_error"]:.2%}, '
      f'top-5 error {values["top5_error"]:.2%}, rate {self.rate:.2g}',
      flush=True,
    )

  def _warn(self, text: str) -> None:
    if jax.process_index() == 0:
      print(f'warning: {text}', file=sys.stderr, flush=True)

  def _check_finite(self) -> None:
    bad = int(self.state.nonfinite_step)
    if bad >= 0:
      raise NotFiniteError(
        f'the loss or the update of step {bad} is not finite; the last '
        'checkpoint is from before. Try a lower config.schedule.rate, '
        "config.augment.color_units='std' and images that are not scaled "
        'twice'
      )


@contextlib.contextmanager
def _alone_in(workdir: epath.Path) -> Iterator[None]:
  """Makes the folder of a run, and keeps every other run out of it."""

  def refuse() -> None:
    raise UserError(
      f'another run is going on in {workdir}: wait for it, stop it, or choose '
      'another --workdir'
    )

  with files.explained(workdir):
    files.make_folder(workdir)
  with files.locked(workdir / '.lock', refuse):
    yield


def _log_changes(before: dict[str, Any], now: dict[str, Any]) -> None:
  """Logs what differs from the run that wrote the checkpoint."""
  for part in ('config', 'environment'):
    old, new = looking.flat(before[part]), looking.flat(now[part])
    for name in sorted(old.keys() | new.keys()):
      if old.get(name) != new.get(name):
        logging.warning(
          'resuming with another %s: %s = %r, before %r',
          part,
          name,
          new.get(name),
          old.get(name),
        )


def _named(split: str, values: dict[str, float]) -> dict[str, float]:
  name = metrics.prefix(split)
  return {f'{name}/{key}': value for key, value in values.items()}
