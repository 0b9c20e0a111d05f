"""Tables and plots of all experiments that have rows.

  python -m experiments.table

writes the generated parts of docs/results.md, and beside the rows a plot of
each experiment: experiments/results/<experiment>_<form>.png. A generated part
of a page stands between two marks (see `replace_part`); a test compares it with
the rows.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import app
from etils import epath

from alexnet_jax.runtime.files import write_atomically
from experiments import plan, rows, verdicts

PAGE = plan.FOLDER.parent / 'docs/results.md'
Rows = Sequence[dict[str, str]]
Result = tuple[str, str, Rows]  # experiment, form, a row for each run


def main(_) -> None:
  results = read_all()
  write_atomically(epath.Path(PAGE), page(PAGE.read_text(), results))
  print(f'{PAGE} written')
  for result in results:
    _draw(*result)


def read_all(folder: Path = rows.RESULTS) -> list[Result]:
  """All experiments and forms that have rows in `folder`."""
  results: list[Result] = []
  for name in plan.names():
    runs = rows.read(name, folder)
    for form in sorted({row['form'] for row in runs}):
      results.append((name, form, [r for r in runs if r['form'] == form]))
  return results


def page(text: str, results: Sequence[Result]) -> str:
  """docs/results.md, whose text is `text`, with the tables of `results`."""
  text = replace_part(text, 'summary', summary(results))
  sections = '\n'.join(section(*result) for result in results)
  return replace_part(text, 'experiments', sections)


def replace_part(text: str, name: str, body: str) -> str:
  """A page with another body between `<!-- name -->` and `<!-- /name -->`.

  Raises:
    ValueError: the page does not have both marks, once each and in this order.
  """
  begin, end = f'<!-- {name} -->', f'<!-- /{name} -->'
  before, *rest = text.split(begin)
  after = rest[0].split(end)[1:] if len(rest) == 1 else []
  if len(after) != 1:
    raise ValueError(f'the page needs {begin} once, and {end} once after it')
  return f'{before}{begin}\n\n{body.strip()}\n\n{end}{after[0]}'


def summary(results: Sequence[Result]) -> str:
  """A table with a line for each variant that a claim is about."""
  out = [
    '| experiment | scale | variant | paper | 2012 diary | ours | verdict |',
    '|---|---|---|---|---|---|---|',
  ]
  for name, form, runs in results:
    experiment = plan.load(name)
    scale = experiment.forms[form].scale
    for line in verdicts.lines(experiment, runs, form):
      if line.verdict:
        out.append(
          f'| `{name}` | {scale} | {line.variant} | '
          f'{_claimed(experiment, line, "paper")} | '
          f'{_claimed(experiment, line, "diary")} | '
          f'{_outcome(experiment, line)}, n = {line.n} | {line.verdict} |'
        )
  return '\n'.join(out)


def section(name: str, form: str, runs: Rows) -> str:
  """An experiment in one form: claim, scale, and a line for each variant."""
  experiment = plan.load(name)
  claim = experiment.claim[:1].upper() + experiment.claim[1:]
  hours = sum(float(row['hours']) for row in runs)
  commits = sorted({row['commit'] for row in runs})
  hardware = sorted({f'{r["hardware"]}, {r["versions"]}' for r in runs})
  epochs = experiment.read == 'epochs'
  target = experiment.forms[form].target
  measure = _MEASURES[experiment.read].format(target=target)
  views = sorted({int(row['views']) for row in runs})
  first = runs[0]
  how = (
    f'error on {first["curve_split"]} after each epoch'
    if epochs
    else f'{first["examples"]} images of {first["split"]}, '
    f'{" or ".join(map(str, views))} view{"s" * (views != [1])}'
  )
  out = [
    f'### `{name}`, {form}',
    '',
    f'{claim}. {experiment.forms[form].scale}; {how}. '
    f'{len(runs)} run{"s" * (len(runs) > 1)}, {hours:.1f} hours of training on '
    f'{"; ".join(hardware)}; commit {", ".join(commits)}.',
    '',
    f'| variant | n | {measure} | against the baseline | paper | 2012 diary | '
    'verdict |',
    '|---|---|---|---|---|---|---|',
  ]
  for line in verdicts.lines(experiment, runs, form):
    mean = 'none' if line.mean is None else f'{line.mean:.1f} ± {line.se:.1f}'
    out.append(
      f'| {line.variant} | {line.n} | {mean} | {_difference(experiment, line)} '
      f'| {_claimed(experiment, line, "paper")} '
      f'| {_claimed(experiment, line, "diary")} | {line.verdict} |'
    )
  picture = f'../experiments/results/{name}_{form}.png'
  return '\n'.join([*out, '', f'![{name}]({picture})', ''])


def _claimed(
  experiment: plan.Experiment, line: verdicts.Line, source: str
) -> str:
  variant = line.variant
  if experiment.read == 'epochs':
    factor = getattr(experiment, source).get(variant.partition(' ')[0])
    return f'x {factor:g}' if factor else ''
  if source == 'paper' and variant in experiment.reported:
    return f'{experiment.reported[variant]:g} %'
  if source == 'paper' and variant in experiment.higher:
    return 'higher'
  points = getattr(experiment, source).get(variant)
  return '' if points is None else f'{points:+g}'


def _difference(experiment: plan.Experiment, line: verdicts.Line) -> str:
  if line.difference is None:
    return ''
  if experiment.read == 'epochs':
    return f'x {line.difference:.1f}'
  return f'{line.difference:+.1f} ± {line.difference_se:.1f}'


def _outcome(experiment: plan.Experiment, line: verdicts.Line) -> str:
  if line.mean is None:
    return 'never'
  unit = _UNITS[experiment.read]
  return _difference(experiment, line) or f'{line.mean:.1f} {unit}'


_MEASURES = {
  'differences': 'top-1 error, %',
  'epochs': 'epochs to {target:g} %',
  'chance': 'runs that stay at chance, %',
  'colour': 'points of colour between the towers',
}
_UNITS = {
  'differences': '%',
  'epochs': 'epochs',
  'chance': '% stay',
  'colour': 'points',
}


def _draw(name: str, form: str, runs: Rows) -> None:
  from alexnet_jax.drawing import canvas

  experiment = plan.load(name)
  fig = canvas.figure(6.4, 3.2)
  ax = fig.subplots()
  if experiment.read == 'epochs':
    for number, (variant, seeds) in enumerate(
      plan.by_variant(runs, form).items()
    ):
      kind = variant.partition(' ')[0] != experiment.baseline
      for row in seeds:
        curve = [float(text) for text in row['curve'].split()]
        status = '' if curve else f', {row["status"]}'
        ax.plot(
          range(1, len(curve) + 1),
          curve,
          color=canvas.colour(int(kind)),
          ls=('-', '--', ':', '-.')[number // 2 % 4],
          marker='.',
          label=f'{variant}{status}' if row is seeds[0] else None,
        )
    ax.axhline(experiment.forms[form].target, color=canvas.FAINT, lw=0.8)
    ax.set_xlabel('epoch')
    ax.set_ylabel(f'{runs[0]["curve_split"]} error, %')
    ax.set_ylim(0, 100)
    ax.set_xlim(left=0)
    # Beside the axes, since curves may be anywhere in them. Handles are long
    # enough to show dashes.
    ax.legend(
      fontsize=7, loc='upper left', bbox_to_anchor=(1, 1), handlelength=4
    )
  else:
    lines = verdicts.lines(experiment, runs, form)
    for number, line in enumerate(lines):
      assert line.mean is not None
      ax.errorbar(
        line.mean, number, xerr=line.se, fmt='o', capsize=3, color=canvas.INK
      )
    ax.set_yticks(
      range(len(lines)), [f'{line.variant} (n = {line.n})' for line in lines]
    )
    ax.set_ylim(len(lines) - 0.5, -0.5)
    if experiment.read == 'chance':  # a share of runs
      ax.set_xlim(-3, 103)
    ax.set_xlabel(f'{_MEASURES[experiment.read]}, with its standard error')
  ax.set_title(experiment.forms[form].scale, loc='left')
  canvas.save(fig, rows.RESULTS / f'{name}_{form}.png')


if __name__ == '__main__':
  app.run(main)
