"""One row per run, in results/<experiment>.csv: all that tables are made of."""

import contextlib
import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from etils import epath

from alexnet_jax.runtime import metrics
from alexnet_jax.runtime.files import write_atomically
from experiments import plan

RESULTS = plan.FOLDER / 'results'
RESULT_FILE = 'result.json'  # of a workdir whose run is finished
# `curve` has the errors on `curve_split` after each evaluation, in percent;
# `colour`, of each tower, `looking.colour` of conv1's kernels, in percent.
COLUMNS = (
  *('experiment', 'form', 'variant', 'seed', 'config', 'status'),
  *('split', 'examples', 'top1', 'top5', 'views', 'views_top1', 'views_top5'),
  *('epochs', 'steps', 'hours', 'curve_split', 'curve', 'commit', 'versions'),
  *('hardware', 'date', 'at_chance', 'colour', 'colour_se'),
)
_KEY = ('form', 'variant', 'seed', 'config')


def path(experiment: str, folder: Path = RESULTS) -> Path:
  return folder / f'{experiment}.csv'


def read(experiment: str, folder: Path = RESULTS) -> list[dict[str, str]]:
  """The rows there are, in the order of the file.

  A row that is older than a column has '' there.
  """
  file = path(experiment, folder)
  if not file.exists():
    return []
  with file.open(newline='') as stream:
    found = csv.DictReader(stream)
    return [{name: row.get(name, '') for name in COLUMNS} for row in found]


def add(row: dict[str, Any], folder: Path = RESULTS) -> None:
  """Writes a row, in place of an older one of the same run."""
  rows = [
    other
    for other in read(row['experiment'], folder)
    if any(other[name] != str(row[name]) for name in _KEY)
  ]
  rows.append({name: str(row[name]) for name in COLUMNS})
  folder.mkdir(parents=True, exist_ok=True)
  write_atomically(epath.Path(path(row['experiment'], folder)), _text(rows))


def _text(rows: Iterable[dict[str, str]]) -> str:
  stream = io.StringIO()
  writer = csv.DictWriter(stream, COLUMNS, lineterminator='\n')
  writer.writeheader()
  writer.writerows(rows)
  return stream.getvalue()


def has(run: plan.Run, folder: Path = RESULTS) -> bool:
  """Whether the run's row is there, with what its experiment reads."""
  want = (run.form, run.variant, str(run.seed), run.key)
  read_as = plan.load(run.experiment).read
  return any(
    tuple(row[name] for name in _KEY) == want
    and (row['status'] != 'finished' or has_reading(row, read_as))
    for row in read(run.experiment, folder)
  )


def has_reading(row: dict[str, str], read_as: str) -> bool:
  """Whether a row has what is read: an older one, or that of a run that
  diverged, may not."""
  columns = {'chance': 'at_chance', 'colour': 'colour'}
  return bool(row[columns.get(read_as, 'seed')])


def of(run: plan.Run, workdir: Path) -> dict[str, Any] | None:
  """The row of a run, from what it left in its workdir.

  Returns:
    None: it is not finished, or not all that rows have was measured yet.
  """
  file = workdir / RESULT_FILE
  if not file.exists():
    return None
  result = json.loads(file.read_text())
  views = result['views'].get(str(run.views), {})
  finished = result['status'] == 'finished'
  evaluated = views or not (run.views > 1 or run.members)
  if (finished and not evaluated) or 'colour' not in result:
    return None
  log = workdir / 'metrics.jsonl'  # none, where others trained the networks
  lines = log.read_text().splitlines() if log.exists() else []
  logged = [json.loads(line) for line in lines]
  config = run.resolve()
  split, curve_split = result['split'], config.evals.split
  own, curve = metrics.prefix(split), metrics.prefix(curve_split)
  last = _last(logged, f'{own}/top1_error')
  loss = views.get('loss') if run.members else last.get(f'{own}/loss')
  environment = result['environment']
  return {
    'experiment': run.experiment,
    'form': run.form,
    'variant': run.variant,
    'seed': run.seed,
    'config': run.key,
    'status': result['status'],
    'split': split,
    'examples': result['examples'],
    'top1': _percent(last, f'{own}/top1_error'),
    'top5': _percent(last, f'{own}/top5_error'),
    'views': run.views,
    'views_top1': _percent(views, 'top1_error'),
    'views_top5': _percent(views, 'top5_error'),
    'epochs': round(logged[-1]['epoch'], 2) if logged else 0,
    'steps': logged[-1]['step'] if logged else 0,
    'hours': round(_hours(logged, config.batch_size), 3),
    'curve_split': curve_split,
    'curve': ' '.join(
      _percent(row, f'{curve}/top1_error')
      for row in logged
      if f'{curve}/top1_error' in row
    ),
    'commit': environment['commit'],
    'versions': ' '.join(
      f'{name}-{environment[name]}' for name in ('python', 'jax', 'flax')
    ),
    'hardware': f'{len(environment["devices"])} x '
    f'{environment["devices"][0]}, {environment["cpu_threads"]} cores',
    'date': result['date'],
    'at_chance': int(loss is None or loss >= result['chance']),
    'colour': ' '.join(f'{100 * x:.2f}' for x in result['colour']),
    'colour_se': ' '.join(f'{100 * x:.2f}' for x in result['colour_se']),
  }


def last(workdir: Path) -> dict[str, Any]:
  """The newest row of metrics of a run, {} if there is none."""
  file = workdir / 'metrics.jsonl'
  if file.exists():
    for line in reversed(file.read_text().splitlines()[-2:]):
      with contextlib.suppress(ValueError):  # half a line
        return json.loads(line)
  return {}


def _last(logged: list[dict], name: str) -> dict:
  found = [row for row in logged if name in row]
  return found[-1] if found else {}


def _percent(values: dict, name: str) -> str:
  return f'{100 * values[name]:.2f}' if name in values else ''


def _hours(logged: list[dict], batch_size: int) -> float:
  """Of training steps: without evaluations, and without what a kill lost."""
  seconds, before = 0.0, 0
  for row in logged:
    if 'time/images_per_sec' in row:
      images = (row['step'] - before) * batch_size
      seconds += images / row['time/images_per_sec']
      before = row['step']
  return seconds / 3600
