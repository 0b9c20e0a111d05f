"""The rates as training goes on (§5), decided on the host.

A schedule knows epochs and errors, not steps or devices. What it has decided
is `position()`, a JSON value saved with every checkpoint.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import ml_collections
import numpy as np

from alexnet_jax.runtime.errors import UserError

Points = Sequence[tuple[float, float]]  # (epoch, the rate from there on)


class Schedule(Protocol):
  """The rate of the next step, and when to stop."""

  def rate(self, epoch: float) -> float:
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

  def rate(self, epoch: float) -> float:
    return _at(self._points, epoch)

  def observe(self, epoch: float, error: float) -> None:
    pass

  finished = False

  def position(self) -> dict[str, Any]:
    return {}

  def resume(self, position: dict[str, Any]) -> None:
    pass


class Plateau:
  """The paper's rule: divide the rate when validation stops improving.

  After `patience` epochs without a better top-1 error the rate is divided by
  `factor`, `max_drops` times; when that would be once more, it is finished.
  """

  def __init__(
    self, rate: float, patience: float, max_drops: int, factor: float
  ):
    self._rate, self._factor = rate, factor
    self._patience, self._max_drops = patience, max_drops
    self._best: float | None = None
    self._since = 0.0
    self._drops, self._finished = 0, False

  def rate(self, epoch: float) -> float:
    return self._rate / self._factor**self._drops

  def observe(self, epoch: float, error: float) -> None:
    if self._best is None or error < self._best:
      self._best, self._since = error, epoch
    elif epoch - self._since >= self._patience:
      self._since = epoch
      if self._drops == self._max_drops:
        self._finished = True
      else:
        self._drops += 1

  @property
  def finished(self) -> bool:
    return self._finished

  def position(self) -> dict[str, Any]:
    return {
      'best': self._best,
      'since': self._since,
      'drops': self._drops,
      'finished': self._finished,
    }

  def resume(self, position: dict[str, Any]) -> None:
    if position.keys() != self.position().keys():
      raise UserError(f'a checkpoint has {position} for a place in plateaus')
    self._best, self._since = position['best'], position['since']
    self._drops, self._finished = position['drops'], position['finished']


class Until:
  """Another schedule, finished as well by an error of at most `target`."""

  def __init__(self, schedule: Schedule, target: float):
    self._schedule, self._target, self._reached = schedule, target, False

  def rate(self, epoch: float) -> float:
    return self._schedule.rate(epoch)

  def observe(self, epoch: float, error: float) -> None:
    self._reached |= error <= self._target
    self._schedule.observe(epoch, error)

  @property
  def finished(self) -> bool:
    return self._reached or self._schedule.finished

  def position(self) -> dict[str, Any]:
    return {**self._schedule.position(), 'reached': self._reached}

  def resume(self, position: dict[str, Any]) -> None:
    inner = dict(position)
    self._reached = bool(inner.pop('reached', False))
    self._schedule.resume(inner)


def staircase(
  rate: float, drops: Sequence[float], factor: float
) -> tuple[tuple[float, float], ...]:
  """The points of a rate divided by `factor` at the end of each epoch of
  `drops`.

  Raises:
    UserError: drops that do not rise.
  """
  if list(drops) != sorted(drops):
    raise UserError(f'schedule.drops={tuple(drops)} must rise')
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


def rates(
  config: ml_collections.ConfigDict, epoch: float, main: float
) -> np.ndarray:
  """The rates of a step, the main one and those of `config.rules`.

  Args:
    config: `config.schedule`.
    epoch: at which the step begins.
    main: the schedule's rate then, which a rule has until its first point.

  Returns:
    float32 [1 + rules], as `optimizer.make_optimizer` takes them.
  """
  own = [_at(points, epoch, main) for _, points in config.rules]
  return np.array([main, *own], np.float32)


def _at(points: Points, epoch: float, before: float = 0.0) -> float:
  """The rate of the last point that has come."""
  for start, rate in points:
    if epoch >= start:
      before = rate
  return before


def make_schedule(config: ml_collections.ConfigDict) -> Schedule:
  """The schedule of `config.schedule`.

  Raises:
    UserError: no such kind.
  """
  schedule = _make_kind(config)
  return Until(schedule, config.target) if config.target else schedule


def _make_kind(config: ml_collections.ConfigDict) -> Schedule:
  if config.kind == 'staircase':
    return Planned(staircase(config.rate, config.drops, config.factor))
  if config.kind == 'plateau':
    return Plateau(
      config.rate, config.patience, config.max_drops, config.factor
    )
  if config.kind == 'dexp':
    return Planned(dexp(config.rate, config.factor, config.parts, config.span))
  raise UserError(
    f"schedule.kind is 'staircase', 'plateau' or 'dexp', not {config.kind!r}"
  )
