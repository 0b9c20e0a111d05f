"""The page of results and its pictures, from all rows.

  python -m experiments.table                        # of the program's rows
  python -m experiments.table --results=runs/results  # prints what yours say

The first writes the generated parts of docs/results.md and draws
docs/pictures/claims.png and figure_1.png. A generated part stands between two
marks (`replace_part`); a test compares it with the rows.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from etils import epath
from matplotlib.figure import Figure

from alexnet_jax.benchmarks.results import replace_part
from alexnet_jax.drawing import canvas, charts
from alexnet_jax.runtime import errors
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.runtime.files import write_atomically
from experiments import cost, plan, rows
from experiments.claims import Claim
from experiments.forms import Overrides
from experiments.measures import Measured, Runs
from experiments.rows import Row

PAGE = plan.FOLDER.parent / 'docs/results.md'
_PICTURES = PAGE.parent / 'pictures'


@dataclasses.dataclass(frozen=True)
class Line:
  """What is said of a variant.

  Attributes:
    claim: about it; None: there is none.
    alone: what its rows say.
    against: what they say beside the baseline's.
  """

  variant: str
  claim: Claim | None
  alone: Measured | None
  against: Measured | None
  verdict: str

  @property
  def judged(self) -> Measured | None:
    """What the verdict is about."""
    return self.alone if self.claim and self.claim.alone else self.against


@dataclasses.dataclass(frozen=True)
class Result:
  """An experiment in a form: its rows, and its lines, the baseline first.

  Attributes:
    left_out: how many other rows there are and why, in words; '': none.
  """

  name: str
  form: str
  rows: Sequence[Row]
  lines: Sequence[Line]
  left_out: str = ''

  @property
  def experiment(self) -> plan.Experiment:
    return plan.load(self.name)


def main(_: Sequence[str]) -> None:
  folder = Path(rows.CHOSEN.value)
  results = read_all(folder)
  if folder != rows.RESULTS:
    if not results:
      raise UserError(f'--results={folder}: no experiment has rows there')
    print('\n'.join(map(plain, results)))
    return
  write_atomically(epath.Path(PAGE), page(PAGE.read_text(), results))
  print(f'{PAGE} written')
  canvas.save(charts.forest(forest(results)), _PICTURES / 'claims.png')
  for result in results:
    cifar = (result.name, result.form) == ('relu_vs_tanh', 'cifar')
    if cifar and result.rows:
      canvas.save(figure_1(result), _PICTURES / 'figure_1.png')


def read_all(folder: Path = rows.RESULTS) -> list[Result]:
  """All experiments and forms that have rows in `folder`."""
  return [
    read(name, form, folder)
    for name in plan.names()
    for form in sorted({row['form'] for row in rows.read(name, folder)})
  ]


def read(
  name: str,
  form: str,
  folder: Path = rows.RESULTS,
  extra: Overrides | None = None,
) -> Result:
  """An experiment's rows in a form, and what they say.

  Args:
    name: of the experiment.
    form: of it.
    folder: of all rows.
    extra: what all runs set, too; rows of runs that do not are left out.
  """
  found, left_out = _alike(name, form, folder, extra)
  experiment = plan.load(name)
  target, reader = experiment.forms[form].target, experiment.reader
  groups = reader.groups(found, target)
  base = groups.get(experiment.baseline, [])
  lines = []
  for variant in sorted(groups, key=lambda name: name != experiment.baseline):
    claim = experiment.claims.get(variant)
    runs = Runs(groups[variant], base, target, folder)
    alone, against = reader.each(runs), None
    judge = claim or reader
    if variant != experiment.baseline and not judge.alone:
      against = judge.compare(runs)
    line = Line(groups[variant][0]['variant'], claim, alone, against, '')
    if claim and line.judged:
      verdict = claim.verdict(line.judged, full=form == 'full')
      line = dataclasses.replace(line, verdict=verdict)
    lines.append(line)
  return Result(name, form, found, lines, left_out)


def _alike(
  name: str, form: str, folder: Path, extra: Overrides | None
) -> tuple[list[Row], str]:
  """The rows of planned runs on one data set, by seed, and what is left out."""
  there = [row for row in rows.read(name, folder) if row['form'] == form]
  there.sort(key=lambda row: int(row['seed']))
  seeds = int(there[-1]['seed']) + 1 if there else 0
  wanted = {
    (run.variant, str(run.seed)): rows.identity(run).items()
    for run in plan.plan(name, form, seeds, extra)
  }
  planned = [
    row
    for row in there
    if (want := wanted.get((row['variant'], row['seed'])))
    and want <= row.items()
  ]
  data = [row['data'] for row in planned]

  def rank(one: str) -> tuple[int, str]:
    return data.count(one), max(r['date'] for r in planned if r['data'] == one)

  most = max(sorted(set(data)), key=rank, default='')
  found = [row for row in planned if row['data'] == most]
  left = [
    f'{count} row{"s" * (count > 1)} of other {what}'
    for count, what in (
      (len(there) - len(planned), 'settings, variants, split or views'),
      (len(planned) - len(found), 'data'),
    )
    if count
  ]
  return found, f'Left out: {", ".join(left)}.' if left else ''


# -- the page


def page(text: str, results: Sequence[Result]) -> str:
  """docs/results.md, whose text is `text`, with what `results` say."""
  text = replace_part(text, 'summary', summary(results))
  return replace_part(text, 'experiments', '\n'.join(map(section, results)))


def summary(results: Sequence[Result]) -> str:
  """A table with a line for each variant that a claim is about."""
  out = [
    '| claim | form | variant | paper | 2012 diary | ours | n | verdict |',
    '|---|---|---|---|---|---|---|---|',
  ]
  for result in results:
    for line in result.lines:
      if line.claim and line.judged:
        link = f'[`{result.name}`](#{result.name}-{result.form})'
        cells = (
          *(link, result.form, line.variant, _said(line.claim, 'paper')),
          *(_said(line.claim, 'diary'), _shown(line.judged, line.claim.text)),
          *(str(line.judged.n), line.verdict),
        )
        out.append(f'| {" | ".join(cells)} |')
  return '\n'.join(out)


def section(result: Result) -> str:
  """An experiment in one form: claim, scale, and what was found."""
  experiment = result.experiment
  form, reader = experiment.forms[result.form], experiment.reader
  claim = experiment.claim[:1].upper() + experiment.claim[1:]
  head = f'### `{result.name}`, {result.form}'
  if not result.rows:
    return f'{head}\n\n{result.left_out}\n'
  out = [
    head,
    '',
    f'{claim}. {form.scale}; {_made(result.rows)}. '
    f'{reader.measure[:1].upper()}{reader.measure[1:]}:',
    '',
    *_lines(result),
    '',
  ]
  return '\n'.join([*out, *([result.left_out, ''] if result.left_out else [])])


def plain(result: Result) -> str:
  """The same for a terminal."""
  measure = result.experiment.reader.measure
  lines = (line.replace('**', '') for line in _lines(result))
  head = f'{result.name}, {result.form}; {measure}:'
  made = f'Of {_made(result.rows)}.' if result.rows else ''
  return '\n'.join(filter(None, [head, *lines, made, result.left_out]))


def _made(runs: Sequence[Row]) -> str:
  """What rows were measured on, and which trainings they are of."""
  views = sorted({int(row['views']) for row in runs})
  pictures = sorted({row['examples'] for row in runs if row['examples']})
  # A training that several rows read is one.
  trained = {
    tuple(row[name] for name in ('config', 'seed', 'date', 'commit')): row
    for row in runs
  }
  # Python's own sum rounds in another way since 3.12.
  hours = math.fsum(float(row['hours']) for row in trained.values())
  machines = sorted({f'{r["hardware"]}, {r["versions"]}' for r in runs})
  return (
    f'{" or ".join(pictures)} pictures of {runs[0]["split"]}, '
    f'{" or ".join(map(str, views))} view{"s" * (views != [1])}; '
    f'{len(trained)} run{"s" * (len(trained) > 1)}, {cost.duration(hours)} of '
    f'training on {"; ".join(machines)}; commit '
    f'{", ".join(sorted({row["commit"] for row in runs}))}'
  )


def _lines(result: Result) -> list[str]:
  reader, out = result.experiment.reader, []
  for line in result.lines:
    text = f'* {line.variant}: '
    if line.alone:
      text += f'{_shown(line.alone, "{:.1f}".format)}, n = {line.alone.n}'
    if line.against:
      text += (
        f'; {_shown(line.against, (line.claim or reader).text)} against '
        f'{result.experiment.baseline}, n = {line.against.n}'
      )
    out.append(f'{text}: **{line.verdict}**' if line.verdict else text)
  return out


def _said(claim: Claim, source: str) -> str:
  """What the paper or the diary claims."""
  value = getattr(claim, source)
  if value is not None:
    return claim.text(value, 'g')
  return claim.words if source == 'paper' else ''


def _shown(found: Measured, text: Callable[[float], str]) -> str:
  """A value and its interval, in words."""
  value = f'{found.bound} {text(found.value)}'.strip()
  if math.isnan(found.low):
    return value
  high = 'no end' if math.isinf(found.high) else text(found.high)
  return f'{value} ({text(found.low)} to {high})'


# -- what is drawn


def forest(results: Sequence[Result]) -> list[charts.Panel]:
  """What each claim says and what was measured, by axis."""
  panels: dict[str, charts.Panel] = {}
  for result in results:
    for line in result.lines:
      if line.claim and line.judged:
        claim, found = line.claim, line.judged
        panel = panels.setdefault(
          claim.axis, charts.Panel(claim.axis, claim.null, claim.logarithmic)
        )
        panel.lines.append(
          charts.Judged(
            f'{result.name}, {result.form}: {line.variant} (n = {found.n})',
            *(found.value, found.low, found.high, claim.paper, claim.diary),
          )
        )
  return list(panels.values())


def figure_1(result: Result) -> Figure:
  """Figure 1: the training error of every run, by epoch."""
  curves: dict[str, list[list[float]]] = {}
  for row in result.rows:
    curve = [float(text) for text in row['curve'].split()]
    curves.setdefault(row['variant'], []).append(curve)
  target = result.experiment.forms[result.form].target
  label = f'{result.rows[0]["curve_split"]} error, %'
  return charts.errors_by_epoch(curves, label, target)


if __name__ == '__main__':
  errors.run(main)
