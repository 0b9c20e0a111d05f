"""The program trains, stops, and refuses in one message."""

import gzip
import itertools
import json
import re
import shutil
import signal
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
import small_runs
from tensorboard.backend.event_processing import event_accumulator

from alexnet_jax.runtime import signals
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training import loop as train
from alexnet_jax.training import step as steps

pytestmark = pytest.mark.usefixtures('cached')


def steps_of(rows: list[dict], key: str) -> list[int]:
  return [row['step'] for row in rows if key in row]


# ---- What a run leaves behind.


def test_a_run_trains_evaluates_and_saves(reference):
  rows = small_runs.rows(reference)
  assert steps_of(rows, 'train/loss') == list(range(1, 19))
  # 36 images in batches of 8: epochs end within steps 5 and 14.
  assert steps_of(rows, 'validation/loss') == [5, 9, 14, 18]
  assert steps_of(rows, 'test/loss') == [18]
  for row in rows:
    assert row['epoch'] == row['step'] * 8 / 36
    for split, count in {**small_runs.IMAGES, 'train': 8}.items():
      for error in ('top1_error', 'top5_error'):
        if f'{split}/{error}' in row:  # a whole number of this many images
          wrong = row[f'{split}/{error}'] * count
          assert wrong == pytest.approx(round(wrong), abs=1e-9)


def test_the_training_split_is_apart_from_its_batches(
  program, config, tmp_path
):
  config.length = '9 steps'
  config.evals.split = config.evals.final_split = 'train'
  program(tmp_path / 'run').run()
  rows = small_runs.rows(tmp_path / 'run')
  assert steps_of(rows, 'train/loss') == list(range(1, 10))
  assert steps_of(rows, 'train_split/loss') == [5, 9, 9]
  for row in rows:
    assert not {'train/loss', 'train_split/loss'} <= row.keys()
    if 'train_split/loss' in row:  # all 36 images
      wrong = row['train_split/top1_error'] * 36
      assert wrong == pytest.approx(round(wrong), abs=1e-9)


def test_the_rate_of_a_row_is_the_plateau_rules(reference):
  """The rule of §5 by hand, from the errors in the file."""
  rate, best, since, drops = 0.01, np.inf, 0.0, 0
  for row in small_runs.rows(reference):
    if 'train/learning_rate' in row:
      assert row['train/learning_rate'] == pytest.approx(rate, rel=1e-12)
    elif 'validation/loss' in row:
      # The step that ends an epoch may be a part of a step late.
      epoch = float(int(row['epoch']))
      if row['validation/top1_error'] < best:
        best, since = row['validation/top1_error'], epoch
      elif epoch - since >= 1:
        rate, since, drops = rate / 10, epoch, drops + 1
  assert drops  # else this tested nothing


@pytest.mark.fresh
@pytest.mark.parametrize('cache', ['none', 'device'])
def test_the_step_is_compiled_once(config, tmp_path, cache):
  """Beside the preflight, and then not again."""
  config.length, config.data.cache = '2 steps', cache
  compiled = []

  def listen(event, _, fun_name='', **rest):
    if event == '/jax/core/compile/backend_compile_duration':
      compiled.append((fun_name, threading.current_thread()))

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    assert train.train_and_evaluate(config, tmp_path / 'run') == 0
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  (thread,) = (who for name, who in compiled if name == 'jit(train_step)')
  assert thread is not threading.main_thread()


@pytest.mark.fresh  # it counts programs
def test_rates_of_rules_and_noise_that_ends(config, tmp_path, monkeypatch):
  """Ten steps of 8 of 36 images; conv1 stands from the 7th on."""
  seen, programs = [], []
  make = steps.jitted_step

  def spy(*args, **kwargs):
    jitted = make(*args, **kwargs)

    def call(state, batch, rates, constants, cache):
      kernels = np.asarray(state.params['conv1']['kernel'][...])
      seen.append((constants, kernels, np.asarray(rates)))
      out = jitted(state, batch, rates, constants, cache)
      programs.append(jitted._cache_size())
      return out

    return call

  monkeypatch.setattr(steps, 'jitted_step', spy)
  config.update_from_flattened_dict(
    {
      'mesh.towers': 1,
      'model.towers': 1,  # half of what is compiled
      'length': '10 steps',
      'schedule.kind': 'staircase',
      'schedule.drops': (1.0,),
      'schedule.rules': (
        ('conv1', ((0.5, 1e-3), (1.2, 0.0))),
        ('bias', ((0.0, 0.02),)),
      ),
      'augment.color_until': '0.5 epochs',
      'augment.color_divisor': 1.1,
      'augment.share': 4,
    }
  )
  assert train.train_and_evaluate(config, tmp_path / 'run') == 0
  # Epochs at which the steps begin: 0, 0.22, 0.44, 0.67, 0.89, 1.11, 1.33, ...
  main = [0.01] * 5 + [0.001] * 5
  conv1 = [0.01] * 3 + [1e-3] * 3 + [0.0] * 4
  rows = [
    r for r in small_runs.rows(tmp_path / 'run') if 'train/learning_rate' in r
  ]
  for name, want in (('', main), ('/conv1', conv1), ('/bias', [0.02] * 10)):
    found = [row[f'train/learning_rate{name}'] for row in rows]
    assert found == pytest.approx(want, rel=1e-6), name
  np.testing.assert_allclose(seen[4][2], [0.01, 1e-3, 0.02], 1e-6)
  noise = [np.abs(constants.components).sum() > 0 for constants, *_ in seen]
  assert noise == [True] * 3 + [False] * 7
  divisors = [float(constants.divisor) for constants, *_ in seen]
  assert divisors == pytest.approx([1.1] * 3 + [1.0] * 7)
  kernels = [kernel for _, kernel, _ in seen]
  moved = [not np.array_equal(a, b) for a, b in itertools.pairwise(kernels)]
  assert moved == [True] * 6 + [False] * 3
  # Nothing is compiled when a rate or the noise changes: from the second step
  # on, whose state is not the one that was just made.
  assert set(programs[1:]) == {programs[1]}


def test_tensorboard_shows_the_rows(reference):
  events = event_accumulator.EventAccumulator(str(reference))
  events.Reload()
  for key in (
    'train/loss',
    'train/learning_rate',
    'validation/top1_error',
    'test/loss',
  ):
    rows = [row for row in small_runs.rows(reference) if key in row]
    scalars = events.Scalars(key)
    assert [scalar.step for scalar in scalars] == [row['step'] for row in rows]
    np.testing.assert_allclose(
      [scalar.value for scalar in scalars], [row[key] for row in rows], 1e-6
    )


def test_the_last_checkpoints_and_the_best_stay(reference):
  names = {int(path.name) for path in (reference / 'checkpoints').iterdir()}
  errors = {
    row['step']: row['validation/top1_error']
    for row in small_runs.rows(reference)
    if 'validation/loss' in row
  }
  best = min(errors, key=errors.__getitem__)
  assert names == {14, 16, 18, best}


def test_a_complete_run_does_nothing_twice(program, reference, tmp_path):
  workdir = shutil.copytree(reference, tmp_path / 'run')

  def files() -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in workdir.rglob('*') if p.is_file()}

  before = files()
  out = program(workdir).run()
  assert f'{workdir} is complete: 18 steps' in out
  assert files() == before


@pytest.mark.parametrize(
  ('batch_size', 'steps'),
  [pytest.param(16, 3, marks=pytest.mark.slow), (4, 9)],
)
def test_another_batch_size_moves_nothing_backwards(
  batch_size, steps, config, reference, tmp_path, capsys
):
  """A fifth epoch of 36 pictures, after four with batches of 8."""
  workdir = shutil.copytree(reference, tmp_path / 'run')
  config.batch_size, config.length = batch_size, '5 epochs'
  assert train.train_and_evaluate(config, workdir) == 0
  out = capsys.readouterr().out
  assert 'resuming from step 18, epoch 4.00, 144 examples seen' in out
  rows = small_runs.rows(workdir)
  epochs = {row['step']: row['epoch'] for row in rows}
  assert list(epochs.values()) == sorted(epochs.values())
  assert max(epochs) == 18 + steps
  assert epochs[18 + steps] == 4 + steps * batch_size / 36
  rates = [r['train/learning_rate'] for r in rows if 'train/loss' in r]
  assert rates == sorted(rates, reverse=True)
  meta = small_runs.saved(config, workdir)[1]
  assert meta['position']['examples'] == 144 + steps * batch_size


def test_a_rate_falls_to_the_end_of_steps_of_another_size(
  config, reference, tmp_path
):
  """18 steps of 8 pictures of 36 are done; 9 of 4 are one more epoch."""
  workdir = shutil.copytree(reference, tmp_path / 'run')
  config.batch_size, config.length = 4, '27 steps'
  config.schedule.kind = 'cosine'
  assert train.train_and_evaluate(config, workdir) == 0
  rows = small_runs.rows(workdir)
  rates = {row['step']: row.get('train/learning_rate') for row in rows[::-1]}
  for step in range(18, 27):
    left = (27 - step) / 9 / 5  # of five epochs
    rate = 0.01 * (1 - np.cos(np.pi * left)) / 2
    assert rates[step + 1] == pytest.approx(rate, rel=1e-6)
  errors = [r['validation/top1_error'] for r in rows if 'validation/loss' in r]
  meta = small_runs.saved(config, workdir)[1]
  assert meta['schedule']['lowest'] == min(errors)


# ---- What stops it.


@pytest.mark.fresh
def test_sigterm_saves_and_leaves(program, config, reference, tmp_path):
  workdir = tmp_path / 'run'
  process = program(workdir).start_until(6)
  process.terminate()
  out = small_runs.finish(process, signals.STOPPED)
  assert 'SIGTERM: saving after this step' in out
  step = small_runs.last_step(workdir)
  assert 6 <= step < 18
  assert (workdir / 'checkpoints' / str(step) / 'manifest.json').exists()
  assert f'resuming from step {step}' in program(workdir).run()
  small_runs.assert_equal_runs(config, workdir, reference)


@pytest.mark.fresh
def test_a_second_ctrl_c_leaves_at_once(program, tmp_path):
  process = program(tmp_path / 'run').start_until(2)
  process.send_signal(signal.SIGINT)
  while 'SIGINT: saving' not in process.stderr.readline():
    assert process.poll() is None
  process.send_signal(signal.SIGINT)
  _, err = process.communicate(timeout=60)
  assert process.returncode == -signal.SIGINT
  assert 'Traceback' not in err


def test_a_loss_that_is_not_finite_stops_the_run(
  program, config, reference, tmp_path
):
  workdir = shutil.copytree(reference, tmp_path / 'run')
  config.length = '24 steps'
  config.schedule.learning_rate = 1e30
  out = program(workdir, config).run(status=2)
  (message,) = re.findall('^error: .*', out, re.MULTILINE)
  bad = int(re.search(r'step (\d+) is not finite', message)[1])
  assert bad in (19, 20)  # huge weights, or already their loss
  assert 'config.schedule.learning_rate' in message  # what to try
  assert small_runs.last_step(workdir) < bad
  folder = workdir / 'checkpoints'
  for step in [int(path.name) for path in folder.iterdir()]:
    assert step < bad
    arrays, _ = small_runs.saved(config, workdir, step)
    assert all(np.isfinite(array).all() for array in arrays.values())


@pytest.mark.parametrize(
  ('field', 'value', 'words'),
  [
    ('model.lrn.alpha', 2e-4, r'config\.model\.lrn.*0\.0002.*0\.0001'),
    ('optimizer.kind', 'adamw', r"kind is 'adamw', .* state of 'momentum'"),
    ('optimizer.ema', 0.9, r'config\.optimizer\.ema is 0.9, .* state of 0.0'),
  ],
)
def test_what_a_run_cannot_go_on_with_is_refused(
  field, value, words, config, reference
):
  config.update_from_flattened_dict({field: value})
  with pytest.raises(UserError, match=words):
    train.train_and_evaluate(config, reference)


def test_a_changed_rate_goes_on_and_is_logged(
  config, reference, tmp_path, caplog
):
  workdir = shutil.copytree(reference, tmp_path / 'run')
  config.schedule.learning_rate = 0.02
  config.optimizer.momentum = 0.8
  config.length = '20 steps'
  assert train.train_and_evaluate(config, workdir) == 0
  rows = small_runs.rows(workdir)
  assert rows[: len(small_runs.rows(reference))] == small_runs.rows(reference)
  # Three drops are behind it.
  rates = [
    r['train/learning_rate']
    for r in rows
    if r['step'] > 18 and 'train/learning_rate' in r
  ]
  assert rates == pytest.approx([2e-5, 2e-5])
  for change in (
    'schedule.learning_rate = 0.02, before 0.01',
    'optimizer.momentum = 0.8, before 0.9',
    "length = '20 steps', before '4 epochs'",
  ):
    assert f'resuming with another config: {change}' in caplog.text


# ---- The trace of the profiler.


@pytest.mark.fresh  # names are no part of what a program is kept under
def test_a_profile_names_the_layers(config, tmp_path):
  config.length = '4 steps'
  config.evals.final_split = ''
  train.train_and_evaluate(config, tmp_path, profile=(1, 3))
  (plane,) = (tmp_path / 'profile').rglob('*.xplane.pb')
  content = plane.read_bytes()
  layers = ['conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'fc6', 'fc7', 'fc8']
  for name in [*layers, 'lrn1', 'lrn2', 'pool1', 'pool2', 'pool5', 'loss']:
    # Forward and backward, with the layer's name for both.
    assert f'/jvp({name})/'.encode() in content, name
    assert f'/transpose(jvp({name}))/'.encode() in content, name
  for name in ('augment', 'update'):
    assert f'/{name}/'.encode() in content, name
  (trace,) = (tmp_path / 'profile').rglob('*.trace.json.gz')
  events = json.loads(gzip.decompress(trace.read_bytes()))['traceEvents']
  assert any('train_step' in event.get('name', '') for event in events)
