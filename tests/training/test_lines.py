"""What a person reads while a run goes on, against the run's own rows."""

import json
import math
import re
import shutil

import numpy as np
import pytest
import small_runs

from alexnet_jax.runtime import signals
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training import health, loop

pytestmark = pytest.mark.usefixtures('cached')


def plus_minus(share: float, count: int) -> str:
  """To the second digit of the standard error, which lies between 1 and 99."""
  spread = 100 * math.sqrt(share * (1 - share) / count)
  digits = 1 if 1 <= spread < 10 else 0
  return f'{100 * share:.{digits}f} ± {spread:.{digits}f}%'


@pytest.fixture(scope='module')
def spoken(data_dir, cache_dir, tmp_path_factory):
  """A run with a row every five steps, and all that it says."""
  config = small_runs.small_config(data_dir, log_every='5 steps')
  workdir = tmp_path_factory.mktemp('spoken') / 'run'
  out = small_runs.Program(config, workdir, cache_dir).run()
  return config, workdir, out


def test_no_line_is_longer_than_a_terminal(spoken):
  _, workdir, out = spoken
  for line in out.splitlines():
    # A warning is a sentence or two; off a terminal progress is written whole.
    if not line.startswith('warning: ') and 'images/s' not in line:
      assert len(line.replace(str(workdir), 'runs/default')) <= 80, line


def test_the_beginning_says_what_is_trained(spoken):
  config, workdir, out = spoken
  arrays, _ = small_runs.saved(config, workdir)
  parameters = sum(a.size for n, a in arrays.items() if n.startswith('.params'))
  for line in (
    f'workdir:  {workdir}',
    'data:     pictures, 6 classes; images: 36 train, 13 validation, 11 test',
    f'network:  alexnet, 2 towers, {parameters:,} parameters',
    'training: 4 epochs of 4.5 steps, 8 images a step',
  ):
    assert line in out.splitlines()


def test_the_end_says_what_was_saved(spoken):
  _, workdir, out = spoken
  rows = [r for r in small_runs.rows(workdir) if 'validation/loss' in r]
  best = min(rows, key=lambda row: row['validation/top1_error'])
  error = plus_minus(best['validation/top1_error'], 13)
  assert (
    f'done: step 18 is saved; the best is step {best["step"]}, validation '
    f'error {error}'
  ) in out.splitlines()
  assert "to train on: a longer --config.length (it is '4 epochs')" in out


def test_the_lines_of_evaluations_are_their_rows(spoken):
  _, workdir, out = spoken
  lowest, wanted = math.inf, []
  for row in small_runs.rows(workdir):
    for split, count in (('validation', 13), ('test', 11)):
      if f'{split}/loss' not in row:
        continue
      loss, error, top5 = (
        row[f'{split}/{name}'] for name in ('loss', 'top1_error', 'top5_error')
      )
      best = split == 'validation' and error < lowest
      lowest = min(lowest, error) if split == 'validation' else lowest
      wanted.append(
        f'epoch {row["epoch"]:.3g}, {split}: loss {loss:.3f}, error '
        f'{plus_minus(error, count)}, top-5 {plus_minus(top5, count)}'
        f'{", best" if best else ""}'
      )
  found = [x for x in out.splitlines() if re.match('epoch .* (valid|test)', x)]
  assert found == wanted and len(wanted) == 5


def test_the_last_line_of_progress_is_the_last_row(spoken):
  _, workdir, out = spoken
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  row = [r for r in map(json.loads, lines) if 'train/loss' in r][-1]
  # On a slow machine there are some before that round to 4.0, too.
  line = [x for x in out.splitlines() if x.startswith('epoch 4.0/4, ')][-1]
  assert line == (
    f'epoch 4.0/4, loss {row["train/loss"]:.3f}, error '
    f'{row["train/top1_error"]:.0%} (top-5 {row["train/top5_error"]:.0%}), '
    f'{row["time/images_per_sec"]:,.0f} images/s, 00:00 left, '
    f'{row["time/waiting"]:.0%} waiting for data'
  )


def test_a_row_is_the_mean_of_the_steps_since_the_last(spoken, reference):
  """Of the rows of the same run with one for each step."""
  _, workdir, _ = spoken
  each = {
    row['step']: row
    for row in small_runs.rows(reference)
    if 'train/loss' in row
  }
  found = [r for r in small_runs.rows(workdir) if 'train/loss' in r]
  assert [row['step'] for row in found] == [5, 10, 15, 18]
  before = 0
  for row in found:
    steps = [each[step] for step in range(before + 1, row['step'] + 1)]
    for name in ('loss', 'top1_error', 'top5_error'):
      mean = np.mean([step[f'train/{name}'] for step in steps])
      assert row[f'train/{name}'] == pytest.approx(mean, rel=1e-6)
    before = row['step']


def test_a_row_outlives_a_stop_between_two(
  spoken, tmp_path, monkeypatch, capsys
):
  """To the bit, though two of its five steps were another process's."""
  config, whole, _ = spoken
  workdir = tmp_path / 'run'
  with monkeypatch.context() as patch:
    patch.setattr(signals.StopRequest, 'due', lambda self, step: step == 7)
    status = loop.train_and_evaluate(config, workdir, command='again')
    assert status == signals.STOPPED
  out = capsys.readouterr().out
  assert 'stopped: step 7 is saved; the best is step 5, validation' in out
  assert out.endswith('to go on: again\n')
  assert loop.train_and_evaluate(config, workdir) == 0
  small_runs.assert_equal_runs(config, workdir, whole)


def test_the_alarm_is_said_once_until_it_ends(
  config, tmp_path, monkeypatch, capsys
):
  found = iter(['first', 'again', None, 'later'])  # after each of four epochs
  monkeypatch.setattr(health, 'alarm', lambda *_: next(found))
  assert loop.train_and_evaluate(config, tmp_path / 'run') == 0
  said = [
    line for line in capsys.readouterr().err.splitlines() if 'war' in line
  ]
  alarms = [line for line in said if line.endswith(('first', 'again', 'later'))]
  assert alarms == ['warning: first', 'warning: later']


def test_what_ends_a_run_early_has_a_last_row(config, tmp_path):
  config.log_every, config.schedule.target = 'never', 1.0
  assert loop.train_and_evaluate(config, tmp_path / 'run') == 0
  rows = small_runs.rows(tmp_path / 'run')
  assert [r['step'] for r in rows if 'train/loss' in r] == [5]


def test_another_data_set_is_refused(config, reference, tmp_path, capsys):
  workdir = shutil.copytree(reference, tmp_path / 'run')
  config.data.name = 'others'
  words = 'run is on the data set pictures, and config.data.name is others: '
  with pytest.raises(UserError, match=words):
    loop.train_and_evaluate(config, workdir)
  assert 'complete' not in capsys.readouterr().out
