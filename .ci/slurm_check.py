"""What the runs that .ci/slurm made must have in common."""

import csv
import json
import re
import sys
from pathlib import Path


def rows(workdir: Path) -> list[dict]:
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [
    {k: v for k, v in json.loads(line).items() if not k.startswith('time/')}
    for line in lines
  ]


def main(work: Path) -> None:
  one, two = rows(work / 'one'), rows(work / 'two')
  assert len(one) == len(two) > 40
  worst = 0.0
  for row, other in zip(two, one, strict=True):
    assert row.keys() == other.keys()
    for key in row:
      error = abs(row[key] - other[key]) / (abs(other[key]) or 1)
      if not key.endswith('/loss') and not key.startswith('health/'):
        limit = 1e-12  # rates, and counts of errors
      else:
        limit = 1e-5 if row['step'] <= 3 else 1e-4
        worst = max(worst, error)
      assert error <= limit, (row, other)
  print(f'two tasks are one process: losses within {worst:.1e}')

  log = (work / 'preempted.log').read_text()
  stop = re.search(r'asked to stop: saving after step (\d+)', log)
  assert stop, 'it was not stopped'
  assert f'resuming from step {stop[1]}' in log
  assert rows(work / 'preempted') == two
  print(f'preempted at step {stop[1]}, requeued and resumed: to the bit')

  with (work / 'results' / 'weight_decay.csv').open(newline='') as stream:
    found = {row['variant']: row for row in csv.DictReader(stream)}
  assert found.keys() == {'0.0005', 'none'}
  assert {(row['status'], row['steps']) for row in found.values()} == {
    ('finished', '30')
  }
  workdirs = [path.parent for path in work.glob('sweep/*/metrics.jsonl')]
  assert len(workdirs) == 2
  for workdir in workdirs:
    steps = [row['step'] for row in rows(workdir) if 'train/loss' in row]
    assert steps == list(range(1, 31))
  # One of the two waited in Slurm's queue when the sweep was killed.
  assert len(list(work.glob('sweep/logs/*_submitted.pkl'))) == 2
  print('the killed sweep went on: two runs, a row each, every step once')


if __name__ == '__main__':
  main(Path(sys.argv[1]))
