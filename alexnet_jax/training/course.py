"""How far a run is, and when things happen in it: exact arithmetic."""

import dataclasses
import math
from fractions import Fraction
from typing import Any

from alexnet_jax.runtime.cadence import Duration
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training.settings import Settings


@dataclasses.dataclass(frozen=True)
class Position:
  """How far a run is, whatever batches and data sets it has had so far.

  Attributes:
    step: steps done.
    epoch: how many times the training split has been seen.
    examples: how many examples have been seen.
  """

  step: int = 0
  epoch: Fraction = Fraction(0)
  examples: int = 0

  def as_json(self) -> dict[str, Any]:
    """For the meta data of a checkpoint; the step is its name."""
    return {'epoch': str(self.epoch), 'examples': self.examples}

  @classmethod
  def of_json(cls, step: int, fields: dict[str, Any]) -> 'Position':
    """What `as_json` was made of.

    Raises:
      ValueError, KeyError, TypeError: nothing that it gives.
    """
    return cls(step, Fraction(fields['epoch']), int(fields['examples']))


@dataclasses.dataclass(frozen=True)
class Course:
  """When things happen in a run.

  What is written in steps is counted in steps. What is written in epochs
  follows the epochs that were really seen: a batch or a data set of another
  size moves none of it backwards.

  Attributes:
    batch_size: images of a step, from `start` on.
    num_examples: of the training split, from `start` on.
    start: where the run begins, or was resumed.
  """

  batch_size: int
  num_examples: int
  length: Duration
  log_every: Duration
  evaluate_every: Duration
  save_every: Duration
  color_until: Duration
  start: Position = Position()

  @classmethod
  def make(cls, settings: Settings, num_examples: int) -> 'Course':
    """Of a run that begins.

    Raises:
      UserError: a field of the configuration is not a duration.
    """

    def duration(text: str) -> Duration:
      return Duration.parse(text, settings.batch_size, num_examples)

    color_until = settings.augment.color_until
    if color_until not in ('', 'never') and not duration(color_until).length:
      raise UserError(
        f'config.augment.color_until={color_until!r} would be never: for no '
        'noise set config.augment.color=0'
      )
    return cls(
      batch_size=settings.batch_size,
      num_examples=num_examples,
      length=duration(settings.length),
      log_every=duration(settings.log_every),
      evaluate_every=duration(settings.evals.every),
      save_every=duration(settings.checkpoint.every),
      color_until=duration(color_until),
    )

  def resumed(self, start: Position) -> 'Course':
    """The same settings from another position on."""
    return dataclasses.replace(self, start=start)

  def position(self, step: int) -> Position:
    """How far the run is after `step` steps."""
    examples = (step - self.start.step) * self.batch_size
    epoch = self.start.epoch + Fraction(examples, self.num_examples)
    return Position(step, epoch, self.start.examples + examples)

  def epoch(self, step: int) -> float:
    """How many times the training split has been seen after `step` steps."""
    return float(self.position(step).epoch)

  @property
  def end(self) -> int:
    """The step that is the last one; it may be one that has passed."""
    if not self.length.in_epochs:
      return self.length.steps
    left = self.length.length - self._done(self.length, self.start.step)
    return self.start.step + math.ceil(left)

  @property
  def epochs(self) -> float:
    """How many there are in all; the last step may go a little further."""
    if not self.length.in_epochs:
      return self.epoch(self.end)
    return float(self.length.length * self.batch_size / self.num_examples)

  def due(self, every: Duration, step: int) -> bool:
    """Whether an event falls on the end of this step."""
    before, after = self._done(every, step - 1), self._done(every, step)
    return every.falls_between(before, after)

  def within(self, until: Duration, step: int) -> bool:
    """Whether the step after `step` steps is before `until`, which may be
    never."""
    return not until.length or self._done(until, step) < until.length

  def planned_epoch(self, step: int) -> float:
    """The epoch that the newest evaluation until `step` was planned for.

    A batch may straddle epochs; patience counts the plan's, not the step's.
    """
    every = self.evaluate_every
    if not every.length:
      return self.epoch(step)
    planned = self._done(every, step) // every.length * every.length
    if every.in_epochs:
      return float(planned * self.batch_size / self.num_examples)
    return self.epoch(int(planned))

  def _done(self, duration: Duration, step: int) -> Fraction:
    """How far a run is after `step` steps, in the steps that count for a
    duration: for epochs, today's steps that as many epochs take."""
    if not duration.in_epochs:
      return Fraction(step)
    return self.position(step).epoch * self.num_examples / self.batch_size

  def first_example(self) -> int:
    """Where in the order of today's data set the run goes on."""
    return int(self.start.epoch * self.num_examples)
