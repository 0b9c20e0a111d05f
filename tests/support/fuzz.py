"""Bad input by the thousand, and what becomes of it.

  PYTHONPATH=. python tests/support/fuzz.py --count=4000 --seed=0

Each kind of input starts from valid bytes, which `spoil` changes at random.
What takes them in either reads them or refuses in one message of ours; a
crash, another exception, a wait of a minute, 4 GB more memory or a file
written anywhere else ends the run. Input i of a kind is a function of the
seed, the kind and i alone: --kinds=tars --first=123 --count=1 repeats one.
"""

import argparse
import collections
import faulthandler
import json
import logging
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from absl import flags
from hostile_inputs import KINDS, overrides
from spoiling import random_changes, spoil


def run(kind: Callable, seed: int, first: int, count: int) -> dict[str, int]:
  """Feeds `count` bad inputs of a kind; returns how many came to what."""
  outcomes: collections.Counter = collections.Counter()
  with tempfile.TemporaryDirectory(prefix='fuzz') as home:
    folder = Path(home) / 'a' / 'b' / 'c'
    folder.mkdir(parents=True)
    valid, feed = kind(folder)
    before = around(folder)
    for index in range(first, first + count):
      rng = random.Random(f'{seed}/{kind.__name__}/{index}')
      head, data = rng.choice(valid)
      changes = random_changes(rng)
      if kind is overrides:  # its values are bad as they are
        changes = changes[rng.randint(0, 2) :]
      data = head + spoil(data, changes)
      faulthandler.dump_traceback_later(60, exit=True)
      try:
        outcomes[feed(data)] += 1
      except BaseException:
        print(f'--kinds={kind.__name__} --seed={seed} --first={index}')
        raise
      faulthandler.cancel_dump_traceback_later()
      assert around(folder) == before, f'written outside: {index}'
  return outcomes


def around(folder: Path) -> list[str]:
  """Everything near a folder but what is in it, and what hypothesis keeps."""
  up = [p for parent in folder.parents[:3] for p in parent.iterdir()]
  near = {*up, *Path.cwd().iterdir()} - {folder, Path.cwd() / '.hypothesis'}
  return sorted(map(str, near))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--count', type=int, default=1000, help='of each kind')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--first', type=int, default=0)
  parser.add_argument('--kinds', default=','.join(k.__name__ for k in KINDS))
  options = parser.parse_args()
  flags.FLAGS.mark_as_parsed()
  logging.disable(logging.WARNING)  # of each skipped checkpoint
  faulthandler.enable()
  kinds = {kind.__name__: kind for kind in KINDS}
  for name in options.kinds.split(','):
    kind = kinds[name]
    used = int(Path('/proc/self/statm').read_text().split()[0])
    limit = used * resource.getpagesize() + 4 * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, -1))
    start = time.process_time()
    outcomes = run(kind, options.seed, options.first, options.count)
    seconds = time.process_time() - start
    print(f'{kind.__name__}: {json.dumps(outcomes)}, {seconds:.0f} CPU-s')
    sys.stdout.flush()


if __name__ == '__main__':
  os.chdir(tempfile.mkdtemp(prefix='fuzz_cwd'))
  main()
