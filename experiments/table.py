"""Tables and plots of all experiments that have rows.

  python -m experiments.table

writes what stands between the marks `<!-- experiments -->` and
`<!-- /experiments -->` of README.md and docs/paper.md, and a plot beside the
rows, experiments/results/<experiment>_<form>.png. A test holds both texts to
the rows.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import app
from etils import epath

from alexnet_jax.runtime.files import write_atomically
from experiments import plan, rows, verdicts

ROOT = plan.FOLDER.parent
BEGIN, END = '<!-- experiments -->', '<!-- /experiments -->'
Rows = Sequence[dict[str, str]]


def main(_) -> None:
  for file, text in texts().items():
    write_atomically(epath.Path(file), text)
    print(f'{file} written')
  for name, form, found in _with_rows():
    _plot(name, form, found)


def texts(folder: Path = rows.RESULTS) -> dict[Path, str]:
  """The two documents as they should be, by file."""
  found = list(_with_rows(folder))
  return {
    ROOT / 'README.md': _replaced(ROOT / 'README.md', summary(found)),
    ROOT / 'docs/paper.md': _replaced(
      ROOT / 'docs/paper.md', '\n'.join(section(*one) for one in found)
    ),
  }


def _with_rows(folder: Path = rows.RESULTS) -> Iterator[tuple[str, str, Rows]]:
  """(experiment, form, its rows) of all that have some."""
  for name in plan.names():
    found = rows.read(name, folder)
    for form in sorted({row['form'] for row in found}):
      yield name, form, [row for row in found if row['form'] == form]


def _replaced(file: Path, body: str) -> str:
  before, _, rest = file.read_text().partition(BEGIN)
  after = rest.partition(END)[2]
  return f'{before}{BEGIN}\n\n{body.strip()}\n\n{END}{after}'


def summary(found: Sequence[tuple[str, str, Rows]]) -> str:
  """One line for each variant that a claim is about."""
  out = [
    '| experiment | scale | variant | paper | 2012 diary | ours | verdict |',
    '|---|---|---|---|---|---|---|',
  ]
  for name, form, its_rows in found:
    experiment = plan.load(name)
    scale = experiment.forms[form].scale
    for line in verdicts.lines(experiment, its_rows, form):
      if line.verdict:
        out.append(
          f'| `{name}` | {scale} | {line.variant} | '
          f'{_claimed(experiment, line, "paper")} | '
          f'{_claimed(experiment, line, "diary")} | '
          f'{_ours(experiment, line)}, n = {line.n} | {line.verdict} |'
        )
  return '\n'.join(out)


def section(name: str, form: str, its_rows: Rows) -> str:
  """An experiment in one form: claim, scale, a line for each variant."""
  experiment = plan.load(name)
  hours = sum(float(row['hours']) for row in its_rows)
  commits = sorted({row['commit'] for row in its_rows})
  hardware = sorted({f'{r["hardware"]}, {r["versions"]}' for r in its_rows})
  epochs = experiment.read == 'epochs'
  target = experiment.forms[form].target
  measure = _MEASURES[experiment.read].format(target=target)
  views = sorted({int(row['views']) for row in its_rows})
  first = its_rows[0]
  how = (
    f'error on {first["curve_split"]} after each epoch'
    if epochs
    else f'{first["examples"]} images of {first["split"]}, '
    f'{" or ".join(map(str, views))} view(s)'
  )
  out = [
    f'### `{name}`, {form}',
    '',
    f'{experiment.claim}. {experiment.forms[form].scale}; {how}. '
    f'{len(its_rows)} runs, {hours:.1f} hours of training on '
    f'{"; ".join(hardware)}; commit {", ".join(commits)}.',
    '',
    f'| variant | n | {measure} | against the baseline | paper | 2012 diary | '
    'verdict |',
    '|---|---|---|---|---|---|---|',
  ]
  for line in verdicts.lines(experiment, its_rows, form):
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


def _ours(experiment: plan.Experiment, line: verdicts.Line) -> str:
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


def _plot(name: str, form: str, its_rows: Rows) -> None:
  from alexnet_jax.drawing import canvas

  experiment = plan.load(name)
  fig = canvas.figure(6.4, 3.2)
  ax = fig.subplots()
  if experiment.read == 'epochs':
    for number, (variant, seeds) in enumerate(
      plan.by_variant(its_rows, form).items()
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
    ax.set_ylabel(f'{its_rows[0]["curve_split"]} error, %')
    ax.set_ylim(0, 100)
    ax.set_xlim(left=0)
    # Beside the curves, which may go anywhere; long enough to show dashes.
    ax.legend(
      fontsize=7, loc='upper left', bbox_to_anchor=(1, 1), handlelength=4
    )
  else:
    lines = verdicts.lines(experiment, its_rows, form)
    for number, line in enumerate(lines):
      assert line.mean is not None
      ax.errorbar(
        line.mean, number, xerr=line.se, fmt='o', capsize=3, color=canvas.INK
      )
    ax.set_yticks(
      range(len(lines)), [f'{line.variant} (n = {line.n})' for line in lines]
    )
    ax.set_ylim(len(lines) - 0.5, -0.5)
    if experiment.read == 'chance':  # none has less than none, or more than all
      ax.set_xlim(-3, 103)
    ax.set_xlabel(f'{_MEASURES[experiment.read]}, with its standard error')
  ax.set_title(experiment.forms[form].scale, loc='left')
  canvas.save(fig, rows.RESULTS / f'{name}_{form}.png')


if __name__ == '__main__':
  app.run(main)
