"""Claims, and what rows say of them.

A claim is a type: it knows what it reads of rows, and which 95 % interval of it
confirms or refutes it. Of runs that are compared those of one seed are a pair,
and so are their pictures.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from experiments import measures
from experiments.measures import Measured, Runs
from experiments.rows import Row

AGREES, DISAGREES = 'agrees', 'disagrees'
UNKNOWN = 'too small to tell'
ONE_RUN, TWO_RUNS = 'one run', 'two runs'  # too few for a verdict
_MOST = 1000  # runs that a verdict may be said to need


def _choose(agrees: Any, disagrees: Any) -> np.ndarray:
  return np.select([agrees, disagrees], [AGREES, DISAGREES], UNKNOWN)


def _above(low: Any, high: Any, claimed: float = 0.0) -> np.ndarray:
  """The verdicts on a value that is claimed to be above 0.

  Args:
    low: [...], one end of each interval.
    high: [...], the other.
    claimed: how far above; 0: it is not said.
  """
  near = (-claimed / 2 < low) & (high < claimed / 2)
  return _choose(low > 0, (high < 0) | near)


def _within(low: Any, high: Any, margin: float) -> np.ndarray:
  """Likewise that it is less than `margin` from 0."""
  inside = (-margin < low) & (high < margin)
  return _choose(inside, (low > margin) | (high < -margin))


@dataclasses.dataclass(frozen=True)
class Claim:
  """About the error of a variant; the types below say what.

  Attributes:
    paper: what the paper says, in the unit of the type.
    diary: likewise the authors' logs of 2012.
    split: that the claim is about; '': the form's last, 'test' if there is one.
    networks: averaged by the variant, which is compared with their mean alone.
    grid: variants are the points of a grid, '<name> <point>', and claims are
      about names: of each the point counts that is best at the seeds which all
      its points have. It is judged on the same rows, and so a little too well.
  """

  paper: float | None = None
  diary: float | None = None
  split: str = ''
  networks: int = 1
  grid: bool = False

  measure = 'top-1 error, %'  # of one variant
  axis = 'points of top-1 error above the baseline'  # of what is judged
  null: ClassVar[float | None] = 0.0  # where there is no effect
  logarithmic = False
  words = ''  # what is claimed, where it is no number
  alone = False  # judged without the baseline
  sized = False  # whether the size is claimed, too
  fixed: ClassVar[tuple[str, ...]] = ()  # fields that --set may not change

  @property
  def size(self) -> float:
    """What is claimed, by the paper if it says."""
    size = self.diary if self.paper is None else self.paper
    return 0.0 if size is None else size

  def groups(self, rows: Sequence[Row], target: float) -> dict[str, list[Row]]:
    """The rows of each variant, by its name among the claims."""
    found: dict[str, list[Row]] = {}
    for row in rows:
      found.setdefault(row['variant'], []).append(row)
    if not self.grid:
      return found
    points: dict[str, list[list[Row]]] = {}
    for variant, own in found.items():
      points.setdefault(variant.partition(' ')[0], []).append(own)
    best = {}
    for name, grid in points.items():
      seeds = set.intersection(*({row['seed'] for row in own} for own in grid))

      def rank(own: list[Row], seeds: set[str] = seeds) -> tuple:
        shared = [row for row in own if row['seed'] in seeds]
        return self.rank(shared or own, target)

      best[name] = min(grid, key=rank)
    return best

  def rank(self, rows: Sequence[Row], target: float) -> tuple:
    """Of the rows of a point of a grid: the best one's is the lowest."""
    del target
    return (float(np.mean([measures.error(row) for row in rows])),)

  def each(self, runs: Runs) -> Measured | None:
    """What the rows of one variant say."""
    wrong = [runs.wrong(row) for row in runs.rows]
    return measures.measure([measures.error(row) for row in runs.rows], wrong)

  def compare(self, runs: Runs) -> Measured | None:
    """What they say beside the baseline's; None: none can be compared."""
    values: list[float] = []
    pictures: list[np.ndarray | None] = []
    for row in runs.rows:
      last = int(row['seed'])
      base = [
        other
        for other in runs.base
        if last - self.networks < int(other['seed']) <= last
        and all(other[name] == row[name] for name in ('data', 'split'))
      ]
      if len(base) < self.networks:
        continue
      theirs = [measures.error(other) for other in base]
      values.append(measures.error(row) - float(np.mean(theirs)))
      ours, *others = (runs.wrong(other) for other in (row, *base))
      known = [array for array in others if array is not None]
      if ours is None or len(known) < len(base):
        pictures.append(None)
      else:
        pictures.append(ours - np.mean(np.broadcast_arrays(*known), axis=0))
    return measures.measure(values, pictures)

  def judge(self, low: Any, high: Any) -> np.ndarray:
    """Verdicts [...] on intervals with these ends [...]."""
    raise NotImplementedError

  def verdict(self, found: Measured, full: bool) -> str:
    """The verdict on what was measured, or the n that would tell.

    Args:
      found: of `each` or `compare`, as `alone` says.
      full: at the paper's own scale, where the claimed size counts.
    """
    if found.n < 3:
      return ONE_RUN if found.n == 1 else TWO_RUNS
    if math.isnan(found.low):
      return 'pictures not kept'
    verdict = str(self.judge(np.array(found.low), np.array(found.high)))
    if verdict == UNKNOWN:
      return f'{UNKNOWN} ({self.needed(found)} would tell)'
    if not self.sized:
      return verdict
    held = found.low <= self.size <= found.high
    if full and verdict == AGREES and not held:
      verdict = DISAGREES
    within = 'possible' if found.bound else 'held'  # of an interval with an end
    return f'{verdict}, size {within if held else "not held"}'

  def needed(self, found: Measured) -> str:
    """The runs that would tell, if all else stays as it was measured."""
    n = np.arange(3, _MOST)
    same = max(0.0, found.se**2 - found.noise)  # however many seeds
    se = np.sqrt(same + found.noise * found.n / n)
    half = measures.half_width(n, found.sd, se)
    tells = self.judge(found.value - half, found.value + half) != UNKNOWN
    return f'n = {n[tells][0]}' if tells.any() else f'n over {_MOST}'

  def text(self, value: float, form: str = '.1f') -> str:
    """A value that is judged, in words."""
    return f'{value:+{form}}'


@dataclasses.dataclass(frozen=True)
class Difference(Claim):
  """Points of error above the baseline, or below."""

  sized = True

  def judge(self, low: Any, high: Any) -> np.ndarray:
    ends = (low, high) if self.size > 0 else (-high, -low)
    return _above(*ends, abs(self.size))


@dataclasses.dataclass(frozen=True)
class Higher(Claim):
  """An error above the baseline's; it is not said how far."""

  words = 'higher'

  def judge(self, low: Any, high: Any) -> np.ndarray:
    return _above(low, high)


@dataclasses.dataclass(frozen=True)
class Lower(Claim):
  """Likewise below."""

  words = 'lower'

  def judge(self, low: Any, high: Any) -> np.ndarray:
    return _above(-high, -low)


@dataclasses.dataclass(frozen=True)
class Equivalent(Claim):
  """An error within `margin` points of the baseline's."""

  margin: float = 1.0

  @property
  def words(self) -> str:  # type: ignore[override]
    return f'within {self.margin:g}'

  def judge(self, low: Any, high: Any) -> np.ndarray:
    return _within(low, high, self.margin)


@dataclasses.dataclass(frozen=True)
class Reported(Claim):
  """An error, `paper`, within `margin` points."""

  margin: float = 1.0
  axis, null = 'top-1 error, %', None
  alone = True

  def judge(self, low: Any, high: Any) -> np.ndarray:
    return _within(low - self.size, high - self.size, self.margin)

  def text(self, value: float, form: str = '.1f') -> str:
    return f'{value:{form}} %'


@dataclasses.dataclass(frozen=True)
class Ratio(Claim):
  """`paper` times the baseline's epochs to the form's target.

  Of a grid the point with the fewest epochs is the best. If none reaches the
  target it is that with the lowest last error, of those that finished.
  """

  grid: bool = True

  measure = 'epochs to the target'
  fixed = ('evals.every',)  # a curve has an error for each epoch
  axis, null, logarithmic = "times the baseline's epochs", 1.0, True
  sized = True

  def rank(self, rows: Sequence[Row], target: float) -> tuple:
    epochs, short = zip(
      *(measures.epochs(row, target) for row in rows), strict=True
    )
    cut = any(row['status'] != 'finished' for row in rows)
    last = [float((row['curve'].split() or ['100'])[-1]) for row in rows]
    return any(short), cut, math.fsum(last if any(short) else epochs)

  def each(self, runs: Runs) -> Measured | None:
    found = [measures.epochs(row, runs.target) for row in runs.rows]
    measured = measures.measure([epochs for epochs, _ in found])
    if not measured or not any(short for _, short in found):
      return measured
    high = math.inf if measured.n > 1 else math.nan
    return dataclasses.replace(measured, high=high, bound='over')

  def compare(self, runs: Runs) -> Measured | None:
    base = {(row['seed'], row['data']): row for row in runs.base}
    logs, short, long = [], False, False
    for row in runs.rows:
      if other := base.get((row['seed'], row['data'])):
        ours, never = measures.epochs(row, runs.target)
        theirs, nor = measures.epochs(other, runs.target)
        logs.append(math.log(ours / theirs))
        short, long = short or never, long or nor
    found = measures.measure(logs)
    if not found or (short and long):  # a ratio between any two
      return None
    return dataclasses.replace(
      found,
      value=math.exp(found.value),
      low=0.0 if long and found.n > 1 else math.exp(found.low),
      high=math.inf if short and found.n > 1 else math.exp(found.high),
      bound='over' if short else 'under' if long else '',
    )

  def judge(self, low: Any, high: Any) -> np.ndarray:
    with np.errstate(divide='ignore'):
      return _above(np.log(low), np.log(high), math.log(self.size))

  def needed(self, found: Measured) -> str:
    if found.bound:
      return 'longer runs'
    logs = dataclasses.replace(found, value=math.log(found.value))
    return Difference(math.log(self.size)).needed(logs)

  def text(self, value: float, form: str = '.1f') -> str:
    return f'x {value:{form}}'


@dataclasses.dataclass(frozen=True)
class Stalls(Claim):
  """More than half of the runs stay at chance."""

  measure = axis = 'runs that stay at chance, %'
  null = 50.0
  words = 'most'
  alone = True

  def each(self, runs: Runs) -> Measured | None:
    n = len(runs.rows)
    stuck = sum(int(row['at_chance']) for row in runs.rows)
    low, high = measures.binomial_interval(stuck, n)
    return Measured(n, 100 * stuck / n, 100 * float(low), 100 * float(high))

  def judge(self, low: Any, high: Any) -> np.ndarray:
    return _choose(low > 50, high < 50)

  def needed(self, found: Measured) -> str:
    n = np.arange(6, _MOST)
    ends = measures.binomial_interval(np.round(n * found.value / 100), n)
    tells = self.judge(*(100 * end for end in ends)) != UNKNOWN
    return f'n = {n[tells][0]}' if tells.any() else f'n over {_MOST}'

  def text(self, value: float, form: str = '.0f') -> str:
    return f'{value:{form}} %'


@dataclasses.dataclass(frozen=True)
class Apart(Claim):
  """The towers differ in colour by more than kernels do by chance.

  Read is the square of the difference between the first tower's mean and the
  last one's, less what their standard errors over kernels make of it.
  """

  measure = axis = 'squared points of colour between towers, beyond chance'
  words = 'differ'
  alone = True

  def each(self, runs: Runs) -> Measured | None:
    values = []
    for row in runs.rows:
      if row['colour']:  # it did not diverge
        mean = [float(x) for x in row['colour'].split()]
        se = [float(x) for x in row['colour_se'].split()]
        chance = se[0] ** 2 + se[-1] ** 2
        values.append((mean[0] - mean[-1]) ** 2 - chance)
    return measures.measure(values)

  def judge(self, low: Any, high: Any) -> np.ndarray:
    return _above(low, high)
