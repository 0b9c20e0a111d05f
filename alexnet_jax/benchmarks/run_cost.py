"""The real program from outside: start-up, memory, and speed end to end."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from alexnet_jax.benchmarks import timing
from alexnet_jax.benchmarks.results import Row
from alexnet_jax.benchmarks.timing import Spread
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.runtime.writers import METRICS_FILE
from alexnet_jax.training.settings import Settings

_STEPS = 5  # that a run is watched for at least
_NEVER = ('length', 'evals.every', 'checkpoint.every')  # so soon


@dataclasses.dataclass(frozen=True)
class Seen:
  """What a run that was stopped after some steps has shown.

  Attributes:
    done: seconds from the command to the end of each step.
    memory: the most that the process had by then, in GB.
    rows: of metrics.jsonl.
  """

  done: list[float]
  memory: float
  rows: list[dict[str, float]]

  @property
  def start(self) -> float:
    """Seconds from the command to the beginning of the first step."""
    step = min(b - a for a, b in zip(self.done, self.done[1:], strict=False))
    return self.done[0] - step

  @property
  def images_per_sec(self) -> Spread:
    """Of the steps from the third on."""
    return Spread.of([row['time/images_per_sec'] for row in self.rows[2:]])

  @property
  def waiting(self) -> Spread:
    """Share of the time that these steps waited for data."""
    return Spread.of([row['time/waiting'] for row in self.rows[2:]])


def measure_runs(
  kind: str,
  settings: Settings,
  arguments: Sequence[str],
  repeats: int,
  steps: int = _STEPS,
) -> list[Row]:
  """Trains for a few steps, in processes of their own.

  Args:
    kind: 'startup': twice each time, the second with what the first compiled;
      'memory' or 'end_to_end': once each time.
    settings: what `arguments` say.
    arguments: '--config=...' and such, of `main`.
    repeats: how often.
    steps: of each run.

  Returns:
    A row for each way to start.

  Raises:
    UserError: the program ended before.
  """
  names = ('cold compile', 'compiled before')
  seen: dict[str, list[Seen]] = {}
  for _ in range(repeats):
    with tempfile.TemporaryDirectory() as folder:
      for name in names[: 2 if kind == 'startup' else 1]:
        seen.setdefault(name, []).append(_watch(folder, arguments, steps))
  rows = []
  for name, runs in seen.items():
    row = timing.describe_run(kind, settings, repeats) | {
      'name': name if kind == 'startup' else 'alexnet_jax',
      'data': settings.data.name,
      'cache': settings.data.cache,
    }
    for field, values in (
      ('start_seconds', [each.start for each in runs]),
      ('peak_memory_gb', [each.memory for each in runs]),
      ('images_per_sec', [each.images_per_sec.median for each in runs]),
      ('waiting', [each.waiting.median for each in runs]),
    ):
      row |= Spread.of(values).fields(field)
    rows.append(row)
  return rows


def images_per_second(arguments: Sequence[str]) -> float:
  """Of a real run, in a process of its own; this one takes no device.

  Args:
    arguments: as above.

  Raises:
    UserError: the program ended before.
  """
  with tempfile.TemporaryDirectory() as folder:
    return _watch(folder, arguments, _STEPS).images_per_sec.median


def _watch(workdir: str, arguments: Sequence[str], steps: int) -> Seen:
  """Runs `main` until it has logged so many steps, then ends it."""
  file = Path(workdir) / METRICS_FILE
  file.unlink(missing_ok=True)
  command = [
    *(sys.executable, '-m', 'alexnet_jax.main'),
    *arguments,
    f'--workdir={workdir}',
    '--config.log_every=1 step',
    *(f'--config.{each}=1000000 steps' for each in _NEVER),
  ]
  done: list[float] = []
  start = time.perf_counter()
  with _process(command) as process:
    while len(done) < steps:
      rows = file.read_bytes().count(b'\n') if file.exists() else 0
      done += [time.perf_counter() - start] * (rows - len(done))
      if process.poll() is not None:
        raise UserError('the run ended; what it says is above')
      time.sleep(0.005)
    memory = _peak(process.pid)
  lines = file.read_text().splitlines()[:steps]
  return Seen(done[:steps], memory, [json.loads(line) for line in lines])


@contextlib.contextmanager
def _process(command: Sequence[str]) -> Iterator[subprocess.Popen]:
  environment = dict(os.environ)
  environment.pop('JAX_COMPILATION_CACHE_DIR', None)  # each has its own
  # So that SIGTERM ends the run, too, which else goes on for ever.
  before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
  process = subprocess.Popen(
    command, env=environment, stdout=subprocess.DEVNULL
  )
  try:
    yield process
  finally:
    process.kill()
    process.wait()
    signal.signal(signal.SIGTERM, before)


def _peak(pid: int) -> float:
  """GB, of the process alone: workers hold batches only."""
  try:
    status = Path(f'/proc/{pid}/status').read_text()
    (line,) = (x for x in status.splitlines() if x.startswith('VmHWM'))
    return int(line.split()[1]) * 1024 / 1e9
  except (OSError, ValueError):  # no Linux: what it has now
    return psutil.Process(pid).memory_info().rss / 1e9
