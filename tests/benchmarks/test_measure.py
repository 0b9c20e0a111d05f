"""`benchmark eval|input|startup|memory|end_to_end`: that they run, and that
what they count is right; how fast anything is is no test."""

import json
import re
import subprocess
import sys
import time
import types
from pathlib import Path

import jax
import numpy as np
import pytest
import small_runs
from conftest import max_norm_error

from alexnet_jax.benchmarks import (
  evaluation_speed,
  input_speed,
  layer_speed,
  results,
  run_cost,
)
from alexnet_jax.benchmarks.run_cost import Seen
from alexnet_jax.models.describe import describe
from alexnet_jax.runtime import writers
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training.settings import configure
from configs import default

pytestmark = pytest.mark.usefixtures('cached')

ROOT = Path(__file__).parents[2]
ABOUT = {'benchmark', 'commit', 'machine', 'cores', 'versions', 'repeats'}


@pytest.fixture(scope='module')
def pictures(tmp_path_factory) -> Path:
  return small_runs.prepare_pictures(
    tmp_path_factory.mktemp('data'), 'pictures'
  )


def spread_of(row, field):
  low, middle, high = (row[f'{field}{end}'] for end in ('_low', '', '_high'))
  assert 0 < low <= middle <= high
  return middle


def narrow():
  config = default.get_config()
  config.update_from_flattened_dict(
    {'batch_size': 4, 'model.width': 0.05, 'augment.crop_size': 64}
  )
  config.mesh.data = config.mesh.towers = 1
  return configure(config)


def described():
  return describe(narrow().model, 7, 64)


def test_an_evaluation_counts_an_image_once(monkeypatch):
  monkeypatch.setattr(evaluation_speed, 'VIEWS', (1, 2))
  one, two = evaluation_speed.measure_evaluations(
    narrow(), [(1, 1)], num_classes=7, repeats=2
  )
  assert one.keys() >= ABOUT
  assert (one['name'], two['name']) == ('mesh 1,1, 1 view', 'mesh 1,1, 2 views')
  forward = sum(layer.forward_flops for layer in described())
  for row, views in ((one, 1), (two, 2)):
    speed = spread_of(row, 'images_per_sec')
    assert row['gflops'] == pytest.approx(speed * views * forward / 1e9)
    assert row['name'] in results.format_rows([one, two])


def test_layers_are_those_of_the_network():
  found = {layer.name: layer for layer in layer_speed.list_layers(narrow(), 7)}
  assert ' '.join(found) == (
    'conv1 lrn1 pool1 conv2 lrn2 pool2 conv3 conv4 conv5 pool5 fc6 fc7 fc8'
  )
  towers, batch = 2, 4
  for counted in described():
    layer = found.pop(counted.name)
    assert towers * layer.operations == batch * counted.forward_flops
    assert towers * layer.operations * len(layer.wanted) == (
      batch * counted.training_flops
    )
  for layer in found.values():
    assert not layer.operations and len(layer.wanted) == 1


@pytest.mark.slow
def test_both_ways_of_a_layer_are_the_same_function():
  for layer in layer_speed.list_layers(narrow(), 7):
    keys = jax.random.split(jax.random.key(0), len(layer.args))
    args = [
      30 * jax.random.normal(key, arg.shape)
      for key, arg in zip(keys, layer.args, strict=True)
    ]
    assert max_norm_error(layer.ours(*args), layer.plain(*args)) <= 1e-5


@pytest.mark.slow
def test_every_layer_is_measured_in_both_ways():
  rows = layer_speed.measure_layers(narrow(), 7, repeats=2)
  layers = list(layer_speed.list_layers(narrow(), 7))
  assert [row['name'] for row in rows] == [layer.name for layer in layers]
  for row, layer in zip(rows, layers, strict=True):
    assert row.keys() >= ABOUT
    for way in ('', 'plain_'):
      spread_of(row, f'{way}forward_seconds')
      spread_of(row, f'{way}training_seconds')
    assert row['name'] in results.format_rows(rows)
    if layer.operations:
      whole = row['training_seconds']
      expected = len(layer.wanted) * layer.operations / whole / 1e9
      assert row['training_gflops'] == pytest.approx(expected)


@pytest.mark.slow
def test_the_input_gives_every_image_of_a_batch(pictures):
  config = small_runs.small_config(pictures, mesh__data=1, mesh__towers=1)
  rows = input_speed.measure_input(configure(config), repeats=1)
  assert [row['name'] for row in rows] == ['raw, batches', 'raw, views']
  for row in rows:
    assert row.keys() >= ABOUT
    assert (row['data'], row['batch'], row['workers']) == ('pictures', 8, 0)
    spread_of(row, 'images_per_sec')
    spread_of(row, 'images_per_sec_per_core')
    assert row['name'] in results.format_rows(rows)


def test_pictures_are_those_of_one_split(tmp_path):
  for split in ('test', 'train'):
    (tmp_path / split / 'hat').mkdir(parents=True)
    (tmp_path / split / 'hat' / '0.jpg').touch()
  settings = configure(default.get_config())
  for folder, found in ((tmp_path, 0), (tmp_path / 'train', 1)):
    with pytest.raises(UserError, match=f'{found} files in <class>'):
      input_speed.measure_input(settings, repeats=1, pictures=str(folder))


def test_a_sample_of_the_input_is_a_batch(pictures, monkeypatch):
  """Two batches, then two of views, in a quarter of a second each; by the
  clocks of processors, in three."""
  config = small_runs.small_config(pictures, mesh__data=1, mesh__towers=1)
  made = []

  def seconds(work, times):
    made.append([jax.tree.map(np.array, work()) for _ in range(times)])
    return 0.25

  class Process:
    """At every look it has worked for 4 s more, and its child for 2."""

    looks = 0

    def __init__(self):
      Process.looks += 1

    def cpu_times(self):
      return types.SimpleNamespace(user=3 * self.looks, system=self.looks)

    def children(self, recursive):
      assert recursive
      times = types.SimpleNamespace(user=0.5 * self.looks, system=0)
      times.system = 3 * times.user
      return [types.SimpleNamespace(cpu_times=lambda: times)]

  monkeypatch.setattr(
    input_speed, 'psutil', types.SimpleNamespace(Process=Process)
  )
  monkeypatch.setattr(input_speed.timing, 'time_calls', seconds)
  monkeypatch.setattr(
    input_speed.timing,
    'alternate',
    lambda contenders, *_, **__: {c.name: [c.measure(2)] for c in contenders},
  )
  rows = input_speed.measure_input(configure(config), repeats=1)
  assert [row['name'] for row in rows] == ['raw, batches', 'raw, views']
  for row in rows:
    assert spread_of(row, 'images_per_sec') == 8 / 0.25
    assert spread_of(row, 'images_per_sec_per_core') == pytest.approx(8 / 3)
  batches, views = made
  for first, second, shape in (
    (*(batch['image'] for batch in batches), (8, 256, 256, 3)),
    (*views, (8, 64, 64, 3)),
  ):
    assert first.shape == second.shape == shape
    assert (first != second).any()


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


def measured(kind, pictures, tmp_path):
  """Rows of the command, as its file has them, and what it printed."""
  file = tmp_path / f'{kind}.json'
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'alexnet_jax.benchmark', kind),
      '--config=configs/default.py',
      '--config.data.name=pictures',
      f'--config.data.dir={pictures}',
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


@pytest.mark.slow
def test_a_whole_run_is_watched(pictures, tmp_path):
  (row,) = measured('end_to_end', pictures, tmp_path)
  assert 0.1 < row['peak_memory_gb'] < 8


@pytest.mark.slow
def test_a_second_start_finds_what_the_first_has_compiled(pictures, tmp_path):
  cold, warm = measured('startup', pictures, tmp_path)
  assert (cold['name'], warm['name']) == ('cold compile', 'compiled before')


@pytest.mark.slow
def test_memory_of_a_run(pictures, tmp_path):
  (row,) = measured('memory', pictures, tmp_path)
  # At the very least what Python, JAX and one batch take.
  assert row['peak_memory_gb'] > 0.2
