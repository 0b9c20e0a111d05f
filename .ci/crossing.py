"""What one environment leaves, and another takes up: .ci/newest.

leave FOLDER: prepares a data set, and trains; keeps the half of the run, too.
take FOLDER: reads every record, evaluates that half, and trains it to its end.
"""

import hashlib
import json
import re
import shutil
import sys
from pathlib import Path

import small_runs

from alexnet_jax.data import builders
from alexnet_jax.runtime import backend

HALF = 9  # steps, of 18


def program(folder: Path, name: str, **overrides) -> small_runs.Program:
  config = small_runs.small_config(folder / 'data', **overrides)
  return small_runs.Program(config, folder / name, folder / sys.version[:4])


def digests(folder: Path) -> dict[str, str]:
  """Of all pictures and labels, by split."""
  dataset = builders.open_dataset('pictures', folder / 'data')
  found = {}
  for split in small_runs.IMAGES:
    sha, source = hashlib.sha256(), dataset.source(split)
    for index in range(dataset.num_examples(split)):
      record = source[index]
      sha.update(record['image'].tobytes() + bytes([record['label']]))
    found[split] = sha.hexdigest()
  return found


def leave(folder: Path) -> None:
  folder.mkdir()
  small_runs.prepare_pictures(folder, 'pictures')
  program(folder, 'half', length=f'{HALF} steps').run()
  shutil.copytree(folder / 'half', folder / 'whole')
  program(folder, 'whole').run()
  (folder / 'digests.json').write_text(json.dumps(digests(folder)))


def take(folder: Path) -> None:
  assert digests(folder) == json.loads((folder / 'digests.json').read_text())
  out = program(folder, 'half').run(
    '--mode=eval', '--checkpoint=last', '--split=test'
  )
  whole = small_runs.rows(folder / 'whole')
  (then,) = (x for x in whole if x['step'] == HALF and 'test/loss' in x)
  found = re.search(r'loss (\S+), top-1 error (\S+) ', out)
  assert found, out
  assert abs(float(found[1]) - then['test/loss']) < 1e-3, (out, then)
  assert abs(float(found[2]) - 100 * then['test/top1_error']) < 1, out

  out = program(folder, 'half').run()
  assert f'resuming from step {HALF}' in out, out
  worst = 0.0
  for row, other in zip(small_runs.rows(folder / 'half'), whole, strict=True):
    assert row.keys() == other.keys(), (row, other)
    for key in row:
      error = abs(row[key] - other[key]) / (abs(other[key]) or 1)
      exact = not key.endswith('/loss') and not key.startswith('health/')
      assert error <= (1e-12 if exact else 1e-4), (key, row, other)
      worst = max(worst, error)
  print(f'{folder.name}: every record the same, evaluated, resumed at {HALF};')
  print(f'  as it goes on where it was left, to {worst:.1e}')


if __name__ == '__main__':
  print({name: backend.describe()[name] for name in ('python', 'jax', 'flax')})
  {'leave': leave, 'take': take}[sys.argv[1]](Path(sys.argv[2]))
