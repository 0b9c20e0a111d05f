"""Reads the rows of an experiment: is the claim so, at this scale?

A standard error here has two parts, of which the larger counts: that of a
share of N test images, p (1 - p) / N over the runs, and the spread over seeds,
where there are several. A difference of less than two of its standard errors
says nothing: 'too small to tell'. The share of n runs that stay at chance has
an error, too, where it is 0 or 1: that of one more run of either kind.
"""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

from experiments.plan import Experiment, by_variant

AGREES, DISAGREES = 'agrees', 'disagrees'
UNKNOWN, UNTESTED = 'too small to tell', ''


@dataclasses.dataclass(frozen=True)
class Line:
  """A line of an experiment's table; percents, or epochs.

  Attributes:
    n: finished runs.
    mean: over them, of what the experiment reads; None: none of them finished,
      or got there.
    se: standard error of the mean.
    difference: from the baseline, or the ratio of epochs.
    difference_se: its standard error.
    verdict: one of the four above, or a remark.
  """

  variant: str
  n: int
  mean: float | None
  se: float = 0.0
  difference: float | None = None
  difference_se: float = 0.0
  verdict: str = UNTESTED


def error(row: Mapping[str, str]) -> float:
  """Top-1 error in percent; 'not finite' counts as chance."""
  if row['status'] != 'finished':
    return 100.0
  return float(row['top1'])


def apart(row: Mapping[str, str]) -> tuple[float, float]:
  """Points of colour between the first and the last tower, and the standard
  error over their kernels."""
  towers, errors = (
    [float(x) for x in row[column].split()]
    for column in ('colour', 'colour_se')
  )
  return abs(towers[0] - towers[-1]), math.hypot(errors[0], errors[-1])


def standard_error(values: Sequence[float], examples: int) -> float:
  """Of the mean of errors in percent, measured on `examples` images each."""
  p = statistics.mean(values) / 100
  sampling = 100 * math.sqrt(p * (1 - p) / examples / len(values))
  if len(values) == 1:
    return sampling
  return max(sampling, statistics.stdev(values) / math.sqrt(len(values)))


def lines(
  experiment: Experiment, rows: Sequence[dict[str, str]], form: str
) -> list[Line]:
  """A line for each variant that has rows, the baseline first."""
  column = {'chance': 'at_chance', 'colour': 'colour'}.get(experiment.read)
  found = by_variant([r for r in rows if not column or r[column]], form)
  if experiment.read == 'epochs':
    return _epochs(experiment, found, experiment.forms[form].target)
  order = sorted(found, key=lambda variant: variant != experiment.baseline)
  measured = {
    variant: _read(experiment.read, found[variant]) for variant in order
  }
  return [
    _line(experiment, variant, found[variant], measured) for variant in order
  ]


def _read(read_as: str, rows: Sequence[dict[str, str]]) -> tuple[float, float]:
  """What an experiment reads of a variant's rows, and its standard error."""
  n = len(rows)
  if read_as == 'chance':
    stuck = sum(int(row['at_chance']) for row in rows)
    p = (stuck + 1) / (n + 2)
    return 100 * stuck / n, 100 * math.sqrt(p * (1 - p) / n)
  if read_as == 'colour':
    points, errors = zip(*map(apart, rows), strict=True)
    kernels = math.hypot(*errors) / n
    seeds = statistics.stdev(points) / math.sqrt(n) if n > 1 else 0.0
    return statistics.mean(points), max(kernels, seeds)
  values = [error(row) for row in rows]
  return statistics.mean(values), standard_error(
    values, int(rows[0]['examples'])
  )


def _line(
  experiment: Experiment,
  variant: str,
  rows: Sequence[dict[str, str]],
  measured: Mapping[str, tuple[float, float]],
) -> Line:
  mean, se = measured[variant]
  line = Line(variant, len(rows), mean, se)
  if experiment.read == 'colour' and variant == experiment.baseline:
    return dataclasses.replace(line, verdict=_in_every_run(rows))
  if variant in experiment.reported:
    away = mean - experiment.reported[variant]
    verdict = AGREES if away <= 2 * se else f'{away:+.1f} from what is reported'
    return dataclasses.replace(line, verdict=verdict)
  base = measured.get(experiment.baseline)
  if variant == experiment.baseline or base is None:
    return line
  difference, spread = mean - base[0], math.hypot(se, base[1])
  return dataclasses.replace(
    line,
    difference=difference,
    difference_se=spread,
    verdict=_verdict(experiment, variant, difference, spread),
  )


def _in_every_run(rows: Sequence[dict[str, str]]) -> str:
  """Whether the towers of every run differ."""
  differ = sum(value >= 2 * spread for value, spread in map(apart, rows))
  if differ == len(rows):
    return AGREES
  return f'{UNKNOWN} in {len(rows) - differ} of {len(rows)} runs'


def _verdict(
  experiment: Experiment, variant: str, difference: float, spread: float
) -> str:
  claimed = experiment.paper.get(variant, experiment.diary.get(variant))
  if claimed is None and variant not in experiment.higher:
    return UNTESTED
  if abs(difference) < 2 * spread:
    return UNKNOWN
  upwards = claimed is None or claimed > 0
  return AGREES if (difference > 0) == upwards else DISAGREES


def _epochs(
  experiment: Experiment,
  found: Mapping[str, Sequence[dict[str, str]]],
  target: float,
) -> list[Line]:
  """Fewest epochs on each activation's grid, and their ratio.

  Variants are named '<activation> <point of the grid>'. A point counts where
  all of its seeds got there; the mean of their epochs is compared.
  """
  best: dict[str, Line] = {}
  for variant, rows in found.items():
    kind = variant.partition(' ')[0]
    reached = [epochs_to(row['curve'].split(), target) for row in rows]
    if any(epochs is None for epochs in reached):
      best.setdefault(kind, Line(variant, len(rows), None))
      continue
    values = [epochs for epochs in reached if epochs is not None]
    mean = statistics.mean(values)
    se = statistics.stdev(values) / math.sqrt(len(values)) if values[1:] else 0
    other = best.get(kind)
    if other is None or other.mean is None or mean < other.mean:
      best[kind] = Line(variant, len(rows), mean, se)
  base = best.get(experiment.baseline)
  out = [base] if base else []
  for kind, line in best.items():
    if kind == experiment.baseline:
      continue
    if line.mean is None:
      verdict = 'never got there'
    elif base is None or base.mean is None:
      verdict = UNTESTED
    else:
      ratio = line.mean / base.mean
      verdict = AGREES if ratio > 1 else DISAGREES
      line = dataclasses.replace(line, difference=ratio)
    out.append(dataclasses.replace(line, verdict=verdict))
  return out


def epochs_to(curve: Sequence[str], target: float) -> float | None:
  """Epochs until a curve of percents, one an epoch, is at `target`, between
  two epochs along a line; None: it never is."""
  before = None
  for epoch, text in enumerate(curve, start=1):
    value = float(text)
    if value <= target:
      if before is None:
        return float(epoch)
      return epoch - 1 + (before - target) / (before - value)
    before = value
  return None
