"""The rates as training goes on (§5), decided on the host.

A schedule knows epochs and errors, not steps or devices. What it has decided
is `position()`, a JSON value saved with every checkpoint.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Protocol

import numpy as np

from alexnet_jax.runtime.checks import FLOAT32, MANY, Checked, Range, choice
from alexnet_jax.runtime.errors import UserError

Points = Sequence[tuple[float, float]]  # (epoch, the rate from there on)


@dataclasses.dataclass(frozen=True)
class Plan(Checked, part='schedule'):
  """`config.schedule`, whose fields these are."""

  kind: Annotated[
    str, choice('staircase', 'plateau', 'dexp', 'cosine', 'polynomial')
  ]
  learning_rate: Annotated[float, Range(0, FLOAT32)]
  warmup: Annotated[float, Range(0, MANY)]
  drops: Sequence[float]
  patience: Annotated[float, Range(0, MANY)]
  max_drops: Annotated[int, Range(0, 1000)]
  factor: Annotated[float, Range(1, MANY)]
  parts: Annotated[int, Range(1, MANY)]
  span: Annotated[float, Range(0, MANY)]
  rules: Sequence[tuple[str, Points]]
  target: Annotated[float, Range(0, 1)]
  power: Annotated[float, Range(0, MANY)] = 2.0

  def __post_init__(self):
    super().__post_init__()
    drops = tuple(self.drops)
    if not all(isinstance(x, int | float) and math.isfinite(x) for x in drops):
      raise UserError(f'config.schedule.drops={drops} are not epochs')
    if list(drops) != sorted(drops) or min(drops, default=1) <= 0:
      raise UserError(f'config.schedule.drops={drops} must rise from above 0')
    for rule in self.rules:
      if not _is_rule(rule):
        raise UserError(
          f'config.schedule.rules: {rule!r} is not a pattern and its points, '
          "such as ('conv1', ((67.0, 1e-5), (72.0, 0.0))), whose epochs rise"
        )

  @property
  def patterns(self) -> list[str]:
    """Of the parameters that have rates of their own."""
    return [pattern for pattern, _ in self.rules]


def _is_rule(rule: Any) -> bool:
  """Whether it is a pattern and one or more rising (epoch, rate)."""
  try:
    pattern, points = rule
    re.compile(pattern)
    epochs = [float(epoch) for epoch, _ in points]
    fine = all(0 <= rate <= FLOAT32 for _, rate in points)
  except (TypeError, ValueError, re.error):
    return False
  rising = all(a < b for a, b in itertools.pairwise([-1.0, *epochs, math.inf]))
  return fine and bool(epochs) and rising


class Schedule(Protocol):
  """The rate of the next step, and when to stop."""

  def learning_rate(self, epoch: float) -> float:
    """The rate of the step that begins `epoch` epochs into training."""

  def observe(self, epoch: float, error: float) -> None:
    """Takes in an evaluation's top-1 error on validation."""

  @property
  def finished(self) -> bool:
    """Training has nothing more to gain."""

  def position(self) -> dict[str, Any]:
    """What `resume` needs."""

  def resume(self, position: dict[str, Any]) -> None:
    """Goes on from `position()` of the same kind of schedule."""


class Planned:
  """Rates that were chosen beforehand, whatever the errors.

  Args:
    points: of `staircase` or `dexp`.
  """

  def __init__(self, points: Points):
    self._points = points

  def learning_rate(self, epoch: float) -> float:
    return _at(self._points, epoch)

  def observe(self, epoch: float, error: float) -> None:
    pass

  finished = False

  def position(self) -> dict[str, Any]:
    return {}

  def resume(self, position: dict[str, Any]) -> None:
    pass


class Falling(Planned):
  """From the rate down to 0, none of the paper's.

  Args:
    rate: until epoch `start`.
    start: where it begins to fall.
    end: where it is 0.
    shape: the share of the rate, of the share of the way that is left.
  """

  def __init__(
    self,
    rate: float,
    start: float,
    end: float,
    shape: Callable[[float], float],
  ):
    super().__init__(())
    self._rate, self._start, self._end = rate, start, end
    self._shape = shape

  def learning_rate(self, epoch: float) -> float:
    gone = (epoch - self._start) / max(self._end - self._start, 1e-9)
    return self._rate * self._shape(1 - min(max(gone, 0), 1))


class Plateau:
  """The paper's rule: divide the rate when validation stops improving.

  After `patience` epochs without a better top-1 error the rate is divided by
  `factor`, `max_drops` times; when that would be once more, it is finished.
  """

  def __init__(
    self, learning_rate: float, patience: float, max_drops: int, factor: float
  ):
    self._learning_rate, self._factor = learning_rate, factor
    self._patience, self._max_drops = patience, max_drops
    self._best: float | None = None
    self._since = 0.0
    self._drops = 0  # that were due; the one past `max_drops` is the end

  def learning_rate(self, epoch: float) -> float:
    drops = min(self._drops, self._max_drops)
    return self._learning_rate / self._factor**drops

  def observe(self, epoch: float, error: float) -> None:
    epoch = max(epoch, self._since)
    if self._best is None or error < self._best:
      self._best, self._since = error, epoch
    elif epoch - self._since >= self._patience and not self.finished:
      self._since = epoch
      self._drops += 1

  @property
  def finished(self) -> bool:
    return self._drops > self._max_drops

  def position(self) -> dict[str, Any]:
    return {
      'best': self._best,
      'since': self._since,
      'drops': self._drops,
    }

  def resume(self, position: dict[str, Any]) -> None:
    if position.keys() != self.position().keys():
      raise UserError(f'a checkpoint has {position} for a place in plateaus')
    self._best, self._since = position['best'], position['since']
    self._drops = position['drops']


class UntilTarget:
  """Another schedule whose rates rise to their own, from 0 on and evenly, in
  the first `warmup` epochs; finished as well by an error of at most `target`;
  0: by none.

  The lowest error is kept, not whether it was low enough: a run that goes on
  with another target ends by that one.
  """

  def __init__(self, schedule: Schedule, target: float, warmup: float = 0.0):
    self._schedule, self._target, self._warmup = schedule, target, warmup
    self.lowest: float | None = None  # error of the evaluations so far

  def learning_rate(self, epoch: float) -> float:
    return self._schedule.learning_rate(epoch) * _warmth(epoch, self._warmup)

  def observe(self, epoch: float, error: float) -> None:
    self.lowest = error if self.lowest is None else min(self.lowest, error)
    self._schedule.observe(epoch, error)

  @property
  def finished(self) -> bool:
    lowest = math.inf if self.lowest is None else self.lowest
    reached = self._target > 0 and lowest <= self._target
    return reached or self._schedule.finished

  def position(self) -> dict[str, Any]:
    return {**self._schedule.position(), 'lowest': self.lowest}

  def resume(self, position: dict[str, Any]) -> None:
    inner = dict(position)
    self.lowest = inner.pop('lowest', None)
    self._schedule.resume(inner)


def staircase(
  rate: float, drops: Sequence[float], factor: float
) -> tuple[tuple[float, float], ...]:
  """The points of a rate divided by `factor` at the end of each epoch of
  `drops`."""
  return tuple(
    (epoch, rate / factor**passed) for passed, epoch in enumerate((0.0, *drops))
  )


def dexp(
  base: float, factor: float, parts: int, span: float
) -> tuple[tuple[float, float], ...]:
  """The points of the 2012 program's automatic rates.

  Part i of `parts` equal ones of `span` epochs has the rate
  `base * factor ** (-i / (parts - 1))`: the last one, which goes on for ever,
  `base / factor`.
  """
  return tuple(
    (span * i / parts, base * factor ** (-i / max(parts - 1, 1)))
    for i in range(parts)
  )


def learning_rates(plan: Plan, epoch: float, main: float) -> np.ndarray:
  """The rates of a step, the main one and those of `plan.rules`.

  Args:
    plan: whose rules count.
    epoch: at which the step begins.
    main: the schedule's rate then, which a rule has until its first point; what
      a rule has then rises in the first `plan.warmup` epochs, too.

  Returns:
    float32 [1 + rules], as `optimizer.make_optimizer` takes them.
  """
  warmth = _warmth(epoch, plan.warmup)
  own = [
    main if epoch < points[0][0] else _at(points, epoch) * warmth
    for _, points in plan.rules
  ]
  return np.array([main, *own], np.float32)


def _warmth(epoch: float, warmup: float) -> float:
  """The share of its rate that a step has."""
  return epoch / warmup if epoch < warmup else 1.0


def _at(points: Points, epoch: float) -> float:
  """The rate of the last point that has come; before any, 0."""
  before = 0.0
  for start, rate in points:
    if epoch >= start:
      before = rate
  return before


def make_schedule(plan: Plan, epochs: float = math.inf) -> UntilTarget:
  """The schedule of a plan, for a run of so many epochs."""
  return UntilTarget(_make_kind(plan, epochs), plan.target, plan.warmup)


def _make_kind(plan: Plan, epochs: float) -> Schedule:
  rate, factor = plan.learning_rate, plan.factor
  if plan.kind == 'plateau':
    return Plateau(rate, plan.patience, plan.max_drops, factor)
  shapes: dict[str, Callable[[float], float]] = {
    'cosine': lambda left: (1 - math.cos(math.pi * left)) / 2,
    'polynomial': lambda left: left**plan.power,
  }
  if plan.kind in shapes:
    return Falling(rate, plan.warmup, epochs, shapes[plan.kind])
  if plan.kind == 'dexp':
    return Planned(dexp(rate, factor, plan.parts, plan.span))
  return Planned(staircase(rate, plan.drops, factor))
