"""`benchmark startup|memory|end_to_end`: that runs are watched, and that what
is counted is right; how fast anything is is no test."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from test_measure import ABOUT, spread_of

from alexnet_jax.benchmarks import results, run_cost
from alexnet_jax.benchmarks.run_cost import Seen
from alexnet_jax.runtime import writers
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training.settings import configure
from configs import default

ROOT = Path(__file__).parents[2]

# A run's first step ends at 9 s, and a step takes half a second at best.
DONE = [9.0, 9.5, 10.25, 10.75, 11.5]
ROWS = [
  {'time/images_per_sec': s, 'time/waiting': s / 100}
  for s in (1, 1, 30, 40, 20)
]


def test_what_a_run_has_shown_by_hand():
  run = Seen(DONE, 0.5, ROWS)
  assert run.start == 8.5
  speed, waiting = run.images_per_sec, run.waiting
  assert (speed.median, speed.low, speed.high) == (30, 20, 40)
  assert (waiting.median, waiting.low, waiting.high) == (0.3, 0.2, 0.4)


class Clock:
  """In place of `time`: while one waits, a run of 200 MB ends its steps."""

  def __init__(self, started: Path):
    self.now, self.started = 100.0, started
    self.begun: list[list[str]] = []  # arguments
    self._left: list = []
    self._ended = False

  def perf_counter(self) -> float:
    return self.now

  def sleep(self, _) -> None:
    if self._ended:  # whoever waits once more has not seen it yet
      self._ended = False
      return
    if not self._left:
      end = time.monotonic() + 60
      while not self.started.exists():
        assert time.monotonic() < end
        time.sleep(0.005)
      self.begun.append(self.started.read_text().splitlines())
      self.started.unlink()
      self._begin = self.now
      self._left = list(zip(DONE, ROWS, strict=True))
    done, row = self._left.pop(0)
    with (self.folders()[-1] / writers.METRICS_FILE).open('a') as file:
      file.write(json.dumps(row) + '\n')
    self.now = self._begin + done
    self._ended = not self._left

  def folders(self) -> list[Path]:
    flag = '--workdir='
    return [
      Path(argument.removeprefix(flag))
      for arguments in self.begun
      for argument in arguments
      if argument.startswith(flag)
    ]


@pytest.fixture
def clock(monkeypatch, tmp_path):
  """A program that allocates 200 MB, says so, and waits to be ended."""
  body, started = tmp_path / 'body.py', tmp_path / 'started'
  body.write_text(f"""
import os, sys, time
big = b'x' * 200_000_000
with open({str(started)!r} + '.new', 'w') as file:
  file.write('\\n'.join(sys.argv[1:]))
os.rename(file.name, {str(started)!r})
time.sleep(60)
""")
  script = tmp_path / 'python'
  script.write_text(f'#!/bin/sh\nexec {sys.executable} -IS {body} "$@"\n')
  script.chmod(0o755)
  clock = Clock(started)
  monkeypatch.setattr(sys, 'executable', str(script))
  monkeypatch.setattr(run_cost, 'time', clock)
  return clock


@pytest.mark.parametrize(
  ('kind', 'names', 'shown'),
  [
    (
      'startup',
      ['cold compile', 'compiled before'],
      r'\| 8\.5 \(8\.5-8\.5\) \| 30 \(30-30\)',
    ),
    ('memory', ['alexnet_jax'], r'\| 0\.2\d* \(0\.2\d*-0\.2\d*\) \|'),
    (
      'end_to_end',
      ['alexnet_jax'],
      r'\| 30 \(30-30\) \| 0\.3 \(0\.3-0\.3\) \|',
    ),
  ],
)
def test_rows_of_a_run(clock, kind, names, shown):
  settings = configure(default.get_config())
  rows = run_cost.measure_runs(kind, settings, ['--config=x'], repeats=2)
  assert [row['name'] for row in rows] == names
  # Each repetition begins in an empty folder, and a second start in its.
  first, second = clock.folders()[0], clock.folders()[-1]
  assert first != second
  assert clock.folders() == [first] * len(names) + [second] * len(names)
  for arguments in clock.begun:
    assert '--config=x' in arguments and '-m alexnet_jax.main' in ' '.join(
      arguments
    )
  for row in rows:
    assert row.keys() >= ABOUT and row['repeats'] == 2
    assert row['start_seconds'] == 8.5
    assert row['images_per_sec'] == 30 and row['waiting'] == 0.3
    # Its own, whatever this process has; Python takes some 10 MB besides.
    assert 0.2 < row['peak_memory_gb'] < 0.25
  assert re.search(shown, results.format_rows(rows))


def test_a_run_that_ends_is_told():
  settings = configure(default.get_config())
  arguments = ['--config=configs/nowhere.py']
  with pytest.raises(UserError, match='the run ended'):
    run_cost.measure_runs('memory', settings, arguments, repeats=1)


def measured(kind, data_dir, tmp_path):
  """Rows of the command, as its file has them, and what it printed."""
  file = tmp_path / f'{kind}.json'
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'alexnet_jax.benchmark', kind),
      *('--config', 'configs/default.py', '--config.data.name', 'pictures'),
      f'--config.data.dir={data_dir}',
      *('--config.model.width=0.05', '--config.augment.crop_size=64'),
      *('--batch=8', '--repeats=1', f'--json={file}'),
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  rows = json.loads(file.read_text())
  for row in rows:
    assert row.keys() >= ABOUT
    assert (row['benchmark'], row['data']) == (kind, 'pictures')
    assert row['batch'] == 8
    for field in ('start_seconds', 'peak_memory_gb', 'images_per_sec'):
      spread_of(row, field)
    assert 0 <= row['waiting'] <= 1
    assert row['name'] in done.stdout
  return rows


def test_who_is_ended_ends_its_run():
  code = (
    'import time; from alexnet_jax.benchmarks import run_cost\n'
    'with run_cost._process(["sleep", "1000"]) as run:\n'
    '  print(run.pid, flush=True); time.sleep(1000)'
  )
  with subprocess.Popen(
    [sys.executable, '-c', code], stdout=subprocess.PIPE, text=True
  ) as program:
    run = psutil.Process(int(program.stdout.readline()))
    program.terminate()
    assert program.wait(timeout=60) == 143
  assert not run.is_running()


@pytest.mark.slow
def test_a_whole_run_is_watched(data_dir, tmp_path):
  (row,) = measured('end_to_end', data_dir, tmp_path)
  assert 0.1 < row['peak_memory_gb'] < 8


@pytest.mark.slow
def test_a_second_start_finds_what_the_first_has_compiled(data_dir, tmp_path):
  cold, warm = measured('startup', data_dir, tmp_path)
  assert (cold['name'], warm['name']) == ('cold compile', 'compiled before')


@pytest.mark.slow
def test_memory_of_a_run(data_dir, tmp_path):
  (row,) = measured('memory', data_dir, tmp_path)
  # At the very least what Python, JAX and one batch take.
  assert row['peak_memory_gb'] > 0.2
