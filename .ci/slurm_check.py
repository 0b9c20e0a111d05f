"""What the runs that .ci/slurm made must have in common."""

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


if __name__ == '__main__':
  main(Path(sys.argv[1]))
