"""One row per run, in results/<experiment>.csv: all that tables are made of."""

import contextlib
import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags
from etils import epath

from alexnet_jax.runtime import metrics
from alexnet_jax.runtime.files import locked, write_atomically

if TYPE_CHECKING:
  from experiments.plan import Run

RESULTS = Path(__file__).parent / 'results'
CHOSEN = flags.DEFINE_string(
  'results',
  str(RESULTS),
  'Folder of the rows. Default: the one that comes with the program, '
  'experiments/results; for runs of your own give a folder of your own.',
)
RESULT_FILE = 'result.json'  # of a workdir whose run is finished
# `data` is a fingerprint of the pictures; top1 and top5 are errors in percent,
# of `examples` pictures of `split`; `curve` has those on `curve_split` after
# each evaluation; `colour`, of each tower, `conv1_colour`, in percent.
COLUMNS = (
  *('experiment', 'form', 'variant', 'seed', 'config', 'status', 'data'),
  *('split', 'views', 'examples', 'top1', 'top5', 'at_chance', 'epochs'),
  *('steps', 'hours', 'curve_split', 'curve', 'colour', 'colour_se'),
  *('commit', 'versions', 'hardware', 'date'),
)
_KEY = ('form', 'variant', 'seed', 'config', 'split', 'views')
Row = dict[str, str]


def path(experiment: str, folder: Path = RESULTS) -> Path:
  return folder / f'{experiment}.csv'


def read(experiment: str, folder: Path = RESULTS) -> list[Row]:
  """The rows there are, in the order of the file."""
  file = path(experiment, folder)
  if not file.exists():
    return []
  with file.open(newline='') as stream:
    return list(csv.DictReader(stream))


def add(row: Row, right: str, folder: Path = RESULTS) -> None:
  """Writes a row, in place of an older one of the same run.

  Args:
    row: of `of`.
    right: likewise, which the row's file in results/right/ is to hold.
    folder: of all rows.
  """
  bits, file = right_path(row, folder), path(row['experiment'], folder)
  bits.parent.mkdir(parents=True, exist_ok=True)
  with locked(folder / '.lock', lambda: None):  # another sweep's, for a moment
    others = [
      other
      for other in read(row['experiment'], folder)
      if any(other[name] != row[name] for name in _KEY)
    ]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator='\n')
    writer.writeheader()
    writer.writerows([*others, row])
    if right:
      write_atomically(epath.Path(bits), f'{right}\n')
    write_atomically(epath.Path(file), stream.getvalue())


def right_path(row: Row, folder: Path = RESULTS) -> Path:
  """Where there is which pictures a run got right, one bit each."""
  reading = reading_name(row['split'], int(row['views']))
  return folder / f'right/{row["config"]}_{row["data"]}_{reading}.txt'


def right(row: Row, folder: Path = RESULTS) -> np.ndarray | None:
  """Which pictures a run got right: bool [examples]; None: it is not kept.

  Another training of the same configuration may have left the file since: its
  errors are not the row's.
  """
  file = right_path(row, folder)
  if not row['top1'] or not file.exists():
    return None
  packed = np.frombuffer(bytes.fromhex(file.read_text()), np.uint8)
  found = np.unpackbits(packed, count=int(row['examples'])).astype(bool)
  own = abs(100 * (1 - found.mean()) - float(row['top1'])) < 0.0051
  return found if own else None


def reading_name(split: str, views: int) -> str:
  """Of an evaluation."""
  return f'{split}_{views}'


def has(run: 'Run', folder: Path = RESULTS) -> bool:
  """Whether the run's row is there."""
  want = identity(run).items()
  return any(want <= row.items() for row in read(run.experiment, folder))


def identity(run: 'Run') -> Row:
  """What a run's row has at `_KEY`."""
  split, views = run.reading
  own = (run.form, run.variant, str(run.seed), run.key, split, str(views))
  return dict(zip(_KEY, own, strict=True))


def of(run: 'Run', workdir: Path) -> tuple[Row, str] | None:
  """The row of a run, from what it left in its workdir, and which pictures it
  got right.

  Returns:
    None: it is not finished, or what the row reads was not measured yet.
  """
  file = workdir / RESULT_FILE
  if not file.exists():
    return None
  result = json.loads(file.read_text())
  split, views = run.reading
  values = result['readings'].get(reading_name(split, views), {})
  finished = result['status'] == 'finished'
  if finished and not values:
    return None
  log = workdir / 'metrics.jsonl'  # none, where others trained the networks
  lines = log.read_text().splitlines() if log.exists() else []
  logged = [json.loads(line) for line in lines]
  config = run.resolve()
  curve = f'{metrics.prefix(config.evals.split)}/top1_error'
  environment = result['environment']
  chance = not finished or values['loss'] >= result['chance']
  row = {
    **identity(run),
    'experiment': run.experiment,
    'status': result['status'],
    'data': result['data'],
    'examples': values.get('examples', ''),
    'top1': _percent(values['top1_error']) if finished else '',
    'top5': _percent(values['top5_error']) if finished else '',
    'at_chance': int(chance),
    'epochs': round(logged[-1]['epoch'], 2) if logged else 0,
    'steps': logged[-1]['step'] if logged else 0,
    'hours': round(_hours(logged, config.batch_size), 3),
    'curve_split': config.evals.split,
    'curve': ' '.join(_percent(x[curve]) for x in logged if curve in x),
    'colour': ' '.join(map(_percent, result['colour'])),
    'colour_se': ' '.join(map(_percent, result['colour_se'])),
    'commit': environment['commit'],
    'versions': ' '.join(
      f'{name}-{environment[name]}' for name in ('python', 'jax', 'flax')
    ),
    'hardware': f'{len(environment["devices"])} x '
    f'{environment["devices"][0]}, {environment["cpu_threads"]} cores',
    'date': result['date'],
  }
  return {name: str(x) for name, x in row.items()}, values.get('right', '')


def last(workdir: Path) -> dict[str, Any]:
  """The newest row of metrics of a run, {} if there is none."""
  file = workdir / 'metrics.jsonl'
  if file.exists():
    for line in reversed(file.read_text().splitlines()[-2:]):
      with contextlib.suppress(ValueError):  # half a line
        return json.loads(line)
  return {}


def _percent(share: float) -> str:
  return f'{100 * share:.2f}'


def _hours(logged: list[dict], batch_size: int) -> float:
  """Of training steps: without evaluations, and without what a kill lost."""
  seconds, before = 0.0, 0
  for row in logged:
    if 'time/images_per_sec' in row:
      images = (row['step'] - before) * batch_size
      seconds += images / row['time/images_per_sec']
      before = row['step']
  return seconds / 3600
