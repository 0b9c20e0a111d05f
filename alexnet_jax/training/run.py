"""A run: its state, and each thing that the loop does with it (§5)."""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import nnx
from tqdm import tqdm

from alexnet_jax.data import pipeline
from alexnet_jax.data.builders import Dataset
from alexnet_jax.runtime import distributed, files, metrics, sharding
from alexnet_jax.runtime.checkpoint import Checkpointer
from alexnet_jax.runtime.metrics import Metrics, format_error
from alexnet_jax.runtime.profile import Meter
from alexnet_jax.runtime.writers import MetricsWriter, Status
from alexnet_jax.training import cache, feed, health
from alexnet_jax.training.bad_records import BadRecords
from alexnet_jax.training.course import Course, Position
from alexnet_jax.training.evaluation import Evaluator
from alexnet_jax.training.saved import STATISTICS
from alexnet_jax.training.schedules import UntilTarget, learning_rates
from alexnet_jax.training.settings import Settings, flat
from alexnet_jax.training.state import Setup, TrainState
from alexnet_jax.training.step import Batch, TrainStep

# What a verb wants to see of the parameters at each evaluation, by name:
# uint8 [H, W, 3].
Pictures = Mapping[str, Callable[[nnx.State], np.ndarray]]


class NotFiniteError(distributed.CommonError):
  """The loss, or an update, is infinite or NaN: the run diverged."""


@dataclasses.dataclass
class Start:
  """Where a run begins: anew, or at its last checkpoint."""

  state: TrainState
  position: Position
  schedule: UntilTarget
  bad_records: BadRecords
  meta: dict[str, Any]  # of the checkpoints to come, but for what changes
  sums: Metrics | None = None  # of the steps since the last row
  resumed: bool = False


class Run:
  """The state of a run, and each thing the loop does with it."""

  def __init__(
    self,
    settings: Settings,
    course: Course,
    start: Start,
    dataset: Dataset,
    setup: Setup,
    evaluators: tuple[Evaluator, Evaluator | None],
    checkpointer: Checkpointer,
    workdir: epath.Path,
    pictures: Pictures,
    trackers: Sequence[str],
    stack: contextlib.ExitStack,
  ):
    self.settings, self.course = settings, course
    self.dataset, self.setup = dataset, setup
    self.evaluator, self.final_evaluator = evaluators
    self.checkpointer, self.pictures = checkpointer, pictures
    self.statistics = workdir / STATISTICS
    self.begins = not start.resumed  # until it is saved
    self.state, self.step = start.state, start.position.step
    self.schedule, self.bad_records = start.schedule, start.bad_records
    self.meta = start.meta
    self.learning_rate, self.learning_rates = self._next_learning_rates()
    self.cache = cache.load(settings.data, setup.mesh, dataset)
    arrays = self.cache.arrays if self.cache else None
    self.train_step = TrainStep(setup, cache=arrays)
    self.probe = health.make_probe(setup)
    first = jax.process_index() == 0
    self.writer = stack.enter_context(
      MetricsWriter(
        workdir, self.step if start.resumed else None, first, trackers
      )
    )
    self.writer.configuration(self.step, flat(start.meta['config']))
    self.status = stack.enter_context(Status(show=first))
    self.meter = Meter()
    self.row: dict[str, float] = {}  # of the last log
    self.error: float | None = None  # of an evaluation not saved yet
    self.alarmed = False  # whether the last evaluation found it guessing
    # Of the step that was taken last, and the sums since the last row.
    self.batch: Mapping[str, jax.Array] = {}
    self.metrics: Metrics | None = None
    self.sums = start.sums

  def ended(self) -> bool:
    return self.step >= self.course.end or self.schedule.finished

  def open_batches(self, stack: contextlib.ExitStack) -> Iterator[Batch]:
    """Global batches on the devices, from the next step on."""
    size, data = self.course.batch_size, self.settings.data
    place = self.setup.batch_sharding
    rows = sharding.local_rows(place, size)
    which: dict[str, Any] = {
      'seed': self.settings.seed,
      'batch_size': size,
      'rows': rows,
      'skip': self.course.first_example(),
    }
    if self.cache:
      stream = self.cache.batches(self.dataset, **which)
    else:
      readers = feed.choose_readers(data, place, self.dataset, len(rows))
      stream = pipeline.training_batches(
        self.dataset,
        **which,
        **readers,
        max_bad_records=data.max_bad_records,
      )

    def put(batch):
      # What a batch met is told when it is trained on, not when it is read.
      replaced = batch.pop('replaced')
      return sharding.put_batch(place, rows, size, batch), replaced

    return self._take(stack.enter_context(feed.Feed(stream, put)))

  def _take(self, batches: feed.Feed) -> Iterator[Batch]:
    while True:
      self.meter.wait(batches.ready)
      batch, replaced = next(batches)
      self.bad_records.meet(replaced)
      yield batch

  def preflight(self, batch) -> None:
    """Before the first step: compiles it, for no rate is to count that, and
    warns of what will keep a new run from learning."""
    if self.metrics is not None:
      return
    # A failure of this is the step's to tell.
    self.status.update(['compiling the step'])
    arguments = self.state, batch, self.learning_rates
    with futures.ThreadPoolExecutor() as pool:
      pool.submit(self.train_step.compile, *arguments)
      if self.step == 0:
        if self.dataset.num_classes == 1:
          self._warn('the data set has one class: there is nothing to learn')
        # At test time batch normalization says nothing before its averages do.
        if not any('batch_norm' in row.then for row in self.setup.table.convs):
          found = self.probe(self.state, self._images(batch))
          for text in health.warnings(found, self.setup.table):
            self._warn(text)
    self.meter.restart()

  def train(self, batch) -> None:
    self.batch = batch
    self.learning_rate, self.learning_rates = self._next_learning_rates()
    self.state, self.metrics = self.train_step(
      self.state,
      batch,
      self.learning_rates,
      color=self.course.within(self.course.color_until, self.step),
    )
    more = self.metrics
    self.sums = more if self.sums is None else _add(self.sums, more)
    self.step += 1
    self.meter.step(self.metrics, self.course.batch_size)
    self.status.update(self._progress())

  def _next_learning_rates(self) -> tuple[float, np.ndarray]:
    """The schedule's, and all of a step."""
    epoch = self.course.epoch(self.step)
    main = self.schedule.learning_rate(epoch)
    return main, learning_rates(self.settings.schedule, epoch, main)

  def log_due(self) -> bool:
    """Steps since the last row have one at the end, whatever ends the run."""
    due = self.course.due(self.course.log_every, self.step)
    return self.sums is not None and (due or self.ended())

  def log(self) -> None:
    """A row with the mean metrics of the steps since the last one."""
    assert self.sums is not None
    values, self.sums = self.sums.compute(), None
    self._check_finite()
    self.bad_records.unite()
    times = self.meter.read()
    row = {f'train/{name}': value for name, value in values.items()}
    row['train/learning_rate'] = self.learning_rate
    patterns = self.settings.schedule.patterns
    for name, rate in zip(patterns, self.learning_rates[1:], strict=True):
      row[f'train/learning_rate/{name}'] = float(rate)
    self._write({**row, **times})
    self.row |= row | times
    self.status.update(self._progress())

  def _progress(self) -> list[str]:
    """How far the run is, what the last row says, and how long it may take."""
    epoch, row = self.course.epoch(self.step), self.row
    digits = 1 if self.course.epochs >= 1 else 2
    parts = [f'epoch {epoch:.{digits}f}/{self.course.epochs:.4g}']
    # The row of a run that an evaluation has ended has no times of its own.
    rate = row.get('time/images_per_sec') or self.meter.rate
    if row:
      error = f'error {_percent(row["train/top1_error"])}'
      if self.dataset.num_classes > 5:
        error += f' (top-5 {_percent(row["train/top5_error"])})'
      parts += [f'loss {row["train/loss"]:.3f}', error]
    if rate:
      left = (self.course.end - self.step) * self.course.batch_size / rate
      parts += [f'{rate:,.0f} images/s', f'{tqdm.format_interval(left)} left']
    if 'time/waiting' in row:
      parts.append(f'{row["time/waiting"]:.0%} waiting for data')
    return parts

  def evaluation_due(self) -> bool:
    due = self.course.due(self.course.evaluate_every, self.step)
    return due or self.step == self.course.end

  def evaluate(self) -> None:
    """A row of errors on validation, which may move the rate."""
    self._check_finite()
    split = self.settings.evals.split
    values, row = self._measure(split, self.evaluator)
    self.error = values['top1_error']
    self._write({**row, **self._health(values)})
    self.schedule.observe(self.course.planned_epoch(self.step), self.error)
    for name, draw in self.pictures.items():
      self.writer.image(self.step, name, draw(self.state.params))
    if self.ended() and self.final_evaluator:
      split = self.settings.evals.final_split
      self._write(self._measure(split, self.final_evaluator)[1])
    self.meter.restart()

  def _measure(
    self, split: str, evaluate: Evaluator
  ) -> tuple[dict[str, float], dict[str, float]]:
    """The errors of the parameters, and a row with those of their average,
    too."""
    values, lowest = evaluate(self.state.params), self.schedule.lowest
    decides = evaluate is self.evaluator
    better = lowest is None or values['top1_error'] < lowest
    self._say(evaluate, split, values, ', best' * (decides and better))
    row = _named(split, values)
    if self.state.average is not None:
      split = f'{split}_ema'
      averaged = evaluate(self.state.average)
      self._say(evaluate, split, averaged)
      row |= _named(split, averaged)
    return values, row

  def _health(self, values: dict[str, float]) -> dict[str, float]:
    """Of the state on the last step's images; sounds the alarm."""
    found = self.probe(self.state, self._images(self.batch))
    if self.course.epoch(self.step) >= 1:
      classes, count = self.dataset.num_classes, self.evaluator.num_examples
      text = health.alarm(values, count, classes, found, self.setup.table)
      if text and not self.alarmed:  # it is said once, not each epoch
        self._warn(text)
      self.alarmed = text is not None
    return found.scalars()

  def _images(self, batch) -> jax.Array:
    return self.cache.images(batch) if self.cache else batch['image']

  def save_due(self) -> bool:
    return self.course.due(self.course.save_every, self.step)

  def save(self) -> None:
    """Starts to save; a state that is not finite is never written."""
    self._check_finite()
    self.bad_records.unite()
    error, self.error = self.error, None
    missing = self.begins or not self.statistics.exists()
    if jax.process_index() == 0 and missing:
      with files.explained(self.statistics):
        self.dataset.statistics.save(self.statistics)
    self.begins = False
    self.writer.sync()
    meta = {
      **self.meta,
      'position': self.course.position(self.step).as_json(),
      'schedule': self.schedule.position(),
      'bad_records': sorted(self.bad_records.indices),
      'row': self.sums.as_json() if self.sums else None,
    }
    self.checkpointer.save(self.step, self.state, meta, error)
    self.meter.restart()

  def _write(self, values: dict[str, float]) -> None:
    epoch = self.course.epoch(self.step)
    self.writer.scalars(self.step, {'epoch': epoch, **values})

  def _say(
    self,
    evaluator: Evaluator,
    split: str,
    values: dict[str, float],
    more: str = '',
  ) -> None:
    count = evaluator.num_examples
    text = f'error {format_error(values["top1_error"], count)}'
    if self.dataset.num_classes > 5:
      text += f', top-5 {format_error(values["top5_error"], count)}'
    epoch = round(self.course.epoch(self.step), 2)
    self.status.say(
      f'epoch {epoch:g}, {split}: loss {values["loss"]:.3f}, {text}{more}'
    )

  def _warn(self, text: str) -> None:
    if jax.process_index() == 0:
      self.status.say(f'warning: {text}', sys.stderr)

  def _check_finite(self) -> None:
    bad = int(self.state.nonfinite_step)
    if bad >= 0:
      units = "config.augment.color_units='std', "
      augment = self.settings.augment
      raise NotFiniteError(
        f'the loss or the update of step {bad} is not finite; no checkpoint '
        'has it. Try a lower config.schedule.learning_rate, '
        f'{units if augment.color and augment.color_units != "std" else ""}'
        'and images that are not scaled twice'
      )


@jax.jit
def _add(sums: Metrics, more: Metrics) -> Metrics:
  """On the devices: a row's metrics are read once, not once a step."""
  return sums + more


def _percent(share: float) -> str:
  return f'{share:.0%}' if share >= 0.1 else f'{share:.1%}'


def _named(split: str, values: dict[str, float]) -> dict[str, float]:
  name = metrics.prefix(split)
  return {f'{name}/{key}': value for key, value in values.items()}
