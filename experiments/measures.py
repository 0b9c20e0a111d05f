"""Numbers with a 95 % interval, from the rows of runs.

Half of an interval is the larger of t sd / sqrt(n) over n seeds and 1.96
standard errors over the test pictures of the mean over seeds: approximately,
for where both count the larger may be too short.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from experiments import rows as kept
from experiments.rows import Row


@dataclasses.dataclass(frozen=True)
class Measured:
  """What rows say.

  Attributes:
    n: runs, or pairs of them.
    value: mean over them.
    low: one end of its 95 % interval; NaN of one run.
    high: the other.
    sd: over seeds.
    se: standard error over pictures, of the mean over seeds.
    noise: what of its square more seeds make smaller.
    bound: 'over' or 'under', where `value` is only a bound and the interval has
      no end on that side; else ''.
  """

  n: int
  value: float
  low: float
  high: float
  sd: float = 0.0
  se: float = 0.0
  noise: float = 0.0
  bound: str = ''


@dataclasses.dataclass(frozen=True)
class Runs:
  """What a claim is measured from.

  Attributes:
    rows: of a variant.
    base: of the baseline.
    target: percent, of the form.
    folder: of all rows.
  """

  rows: Sequence[Row]
  base: Sequence[Row]
  target: float = 25.0
  folder: Path = kept.RESULTS

  def wrong(self, row: Row) -> np.ndarray | None:
    """100 for each picture that a run got wrong, else 0; [100] if it diverged;
    None: it is not known of which."""
    if row['status'] != 'finished':
      return np.array([100.0])
    right = kept.right(row, self.folder)
    return None if right is None else np.where(right, 0.0, 100.0)


def error(row: Row) -> float:
  """Top-1 error in percent; all of it of a run that diverged."""
  return float(row['top1']) if row['status'] == 'finished' else 100.0


def epochs(row: Row, target: float) -> tuple[float, bool]:
  """Epochs until the curve of a run, one error an epoch, is at `target`,
  between two along a line; or how many it has, and True: it never is."""
  curve = [float(text) for text in row['curve'].split()]
  for number, value in enumerate(curve):
    if value <= target:
      before = curve[number - 1]
      part = (before - target) / (before - value) if number else 1.0
      return number + part, False
  return float(max(len(curve), 1)), True


def measure(
  values: Sequence[float], pictures: Sequence[np.ndarray | None] = ()
) -> Measured | None:
  """The mean over seeds with its interval; None: there are no values.

  Args:
    values: [n], of the seeds.
    pictures: n arrays whose means `values` are; one is None: it is not known,
      nor is the interval then. Without them values are not of pictures.
  """
  if not values:
    return None
  n, mean = len(values), float(np.mean(values))
  if n == 1:
    return Measured(1, mean, math.nan, math.nan)
  known = [array for array in pictures if array is not None]
  se, noise = 0.0, 0.0
  if len(known) < len(pictures):
    se = math.nan
  elif known:
    each = np.stack(np.broadcast_arrays(*known))
    se = float(picture_error(each))
    noise = float(each.var(axis=0, ddof=1).mean()) / each.size
  low, high = interval(np.asarray(values), se)
  sd = float(np.std(values, ddof=1))
  return Measured(n, mean, float(low), float(high), sd, se, noise)


def interval(values: np.ndarray, se: Any = 0.0) -> tuple[Any, Any]:
  """The 95 % interval of a mean over seeds.

  Args:
    values: [..., n].
    se: [...], standard error over pictures.

  Returns:
    Its two ends, [...].
  """
  mean = values.mean(axis=-1)
  half = half_width(values.shape[-1], values.std(axis=-1, ddof=1), se)
  return mean - half, mean + half


def half_width(n: Any, sd: Any, se: Any) -> Any:
  """Half of an interval: of n seeds, and of pictures."""
  return np.maximum(stats.t.ppf(0.975, n - 1) * sd / np.sqrt(n), 1.96 * se)


def picture_error(pictures: np.ndarray) -> Any:
  """Standard error over pictures of a mean over seeds: [..., n, pictures].

  0 where one column stands for all pictures.
  """
  each = pictures.mean(axis=-2)
  if each.shape[-1] == 1:
    return np.zeros(each.shape[:-1])
  return each.std(axis=-1, ddof=1) / math.sqrt(each.shape[-1])


def binomial_interval(stuck: Any, n: Any) -> tuple[Any, Any]:
  """Clopper and Pearson's exact 95 % interval of a share, `stuck` of `n`."""
  stuck, n = np.asarray(stuck), np.asarray(n)
  low = stats.beta.ppf(0.025, stuck, n - stuck + 1)
  high = stats.beta.ppf(0.975, stuck + 1, n - stuck)
  return np.where(stuck == 0, 0.0, low), np.where(stuck == n, 1.0, high)
