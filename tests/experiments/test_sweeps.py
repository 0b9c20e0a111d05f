"""Sweeps end with every run once, whatever stops them."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import small_runs
from absl.testing import flagsaver
from experiment_rows import a_row
from submitit.local.local import LocalJob

from alexnet_jax.runtime.files import locked
from experiments import plan, rows, run
from experiments.run import Sweep

ROOT = Path(__file__).parents[2]


@pytest.fixture
def sweep(data_dir, cache_dir, tmp_path):
  """The command on the tiny data set: two variants of `lrn`, in seconds."""

  def start(*more: str) -> subprocess.Popen:
    small = {
      'data.name': 'pictures',
      'augment.crop_size': 64,
      'model.width': 0.05,
      'batch_size': 8,
      'length': '12 steps',
      'log_every': '1 step',
      'checkpoint.every': '2 steps',
    }
    return subprocess.Popen(
      [
        *(sys.executable, '-m', 'experiments.run', '--experiment=lrn'),
        *(f'--set={field}={value}' for field, value in small.items()),
        *(f'--root={tmp_path / "root"}', f'--results={tmp_path / "results"}'),
        *(f'--data_dir={data_dir}', *more),
      ],
      cwd=ROOT,
      env=os.environ
      | {
        'JAX_COMPILATION_CACHE_DIR': str(cache_dir),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
      },
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      start_new_session=True,
    )

  return start


def wait_for_step(tmp_path: Path, step: int, runs: int) -> None:
  """Until `runs` workdirs have logged it."""
  deadline = time.monotonic() + 300
  while time.monotonic() < deadline:
    files = (tmp_path / 'root').glob('folder-*')
    if sum(small_runs.last_step(file) >= step for file in files) >= runs:
      return
    time.sleep(0.05)
  raise AssertionError('no run got there')


@pytest.mark.slow
@pytest.mark.parametrize('how', [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_sweep_stopped_midway_ends_with_every_run_once(sweep, tmp_path, how):
  process = sweep()
  wait_for_step(tmp_path, 4, runs=2)  # the second run is under way
  if how == signal.SIGINT:  # Ctrl-C is for all that a terminal shows
    os.killpg(process.pid, how)
  else:
    process.send_signal(how)
  out, err = process.communicate(timeout=120)
  if how != signal.SIGKILL:
    assert process.returncode == 75
    assert 'stopped: the same command goes on' in out
    assert '1/2 runs' in out + err and '2/2 runs' not in out + err
    checkpoints = [
      max(int(step.name) for step in run.glob('checkpoints/[0-9]*'))
      for run in (tmp_path / 'root').glob('folder-*')
    ]
    steps = [
      small_runs.last_step(run) for run in (tmp_path / 'root').glob('folder-*')
    ]
    assert sorted(checkpoints) == sorted(steps)  # saved where they stopped
  out = small_runs.finish(sweep())
  assert '2 runs, 1 have rows' in out
  found = rows.read('lrn', tmp_path / 'results')
  assert [row['variant'] for row in found] == ['with', 'without']
  for row in found:
    assert row['status'] == 'finished' and row['steps'] == '12'
    assert row['split'] == 'test' and row['views'] == '10'
    right = rows.right(row, tmp_path / 'results')
    assert len(right) == int(row['examples']) == 11
    wrong = 100 * (1 - right.mean())
    assert float(row['top1']) == pytest.approx(wrong, abs=0.005)
    assert len(row['curve'].split()) == 3  # 12 steps are 2.67 epochs
  assert len({row['data'] for row in found}) == 1
  for workdir in (tmp_path / 'root').glob('folder-*'):
    steps = [row['step'] for row in small_runs.rows(workdir)]
    assert steps == sorted(steps) and steps.count(1) == 1
  out = small_runs.finish(sweep())
  assert '2 runs, 2 have rows' in out
  errors = [f'{float(row["top1"]):.1f}' for row in found]
  assert f'* with: {errors[0]}, n = 1' in out  # it ends with its table
  assert f'* without: {errors[1]}, n = 1' in out


@pytest.mark.slow
def test_a_run_that_another_stops_is_no_error(sweep, tmp_path):
  process = sweep('--variants=^with$')
  wait_for_step(tmp_path, 4, runs=1)
  (log,) = (tmp_path / 'root/logs').glob('*_log.err')
  os.kill(int(log.name.partition('_')[0]), signal.SIGTERM)
  out, _ = process.communicate(timeout=120)
  assert process.returncode == 75 and 'error' not in out
  assert 'lrn, with, seed 0 was stopped: the same command goes on' in out
  assert '1 runs, 0 have rows' in small_runs.finish(sweep('--variants=^with$'))
  assert len(rows.read('lrn', tmp_path / 'results')) == 1


@pytest.mark.slow
def test_a_diverged_run_is_a_row_and_a_dry_run_only_talks(sweep, tmp_path):
  out = small_runs.finish(sweep('--dry_run', '--variants=without'))
  assert 'lrn: without, seed 0: at most 1 minute,' in out
  assert 'model.lrn.enabled=False' in out
  assert not (tmp_path / 'root').exists()
  small_runs.finish(
    sweep('--variants=without', '--set=schedule.learning_rate=1e30')
  )
  (row,) = rows.read('lrn', tmp_path / 'results')
  assert row['status'] == 'not finite' and row['top1'] == ''
  assert rows.right(row, tmp_path / 'results') is None


@pytest.mark.slow
def test_a_sweep_averages_what_it_trained(sweep, tmp_path):
  more = ['--experiment=ensemble', '--set=length=2 steps']
  process = sweep(*more, '--variants=five')
  out, _ = process.communicate(timeout=300)
  assert process.returncode == 1 and 'run its variant first' in out
  small_runs.finish(sweep(*more, '--jobs=2'))
  found = rows.read('ensemble', tmp_path / 'results')
  assert sorted(row['variant'] for row in found) == ['five'] + ['one'] * 5
  (five,) = (row for row in found if row['variant'] == 'five')
  assert five['seed'] == '4' and five['colour'] == ''
  assert 0 <= float(five['top1']) <= 100
  for row in found:
    if row is not five:
      assert row['at_chance'] == '1'  # after two steps
      assert len(row['colour'].split()) == len(row['colour_se'].split()) == 2


@pytest.mark.slow
def test_more_views_leave_the_commit_that_trained(sweep, tmp_path):
  small_runs.finish(sweep('--variants=^with$'))
  (file,) = (tmp_path / 'root').glob('folder-*/result.json')
  result = json.loads(file.read_text())
  assert list(result['readings']) == ['test_10']
  result['environment']['commit'] = 'before'
  file.write_text(json.dumps(result))
  small_runs.finish(sweep('--experiment=views'))  # of the same network
  readings = json.loads(file.read_text())['readings']
  assert sorted(readings) == ['test_1', 'test_10', 'test_2']
  found = rows.read('views', tmp_path / 'results')
  assert [row['commit'] for row in found] == ['before'] * 3
  # The centre is what the loop's own evaluation saw at the end.
  last = small_runs.rows(file.parent)[-1]
  for name in ('loss', 'top1_error', 'top5_error'):
    assert readings['test_1'][name] == pytest.approx(last[f'test/{name}'], 1e-5)


def test_a_network_is_trained_once_at_a_time(tmp_path):
  """Several jobs at a time: experiments that share a run do not start it."""
  runs = plan.select('lrn,dropout,one_tower', 'small', 1)
  assert len(runs) == 6 and len({run.key for run in runs}) == 4
  sweep = Sweep(runs, tmp_path, tmp_path)
  started = []
  while one := sweep._next():
    sweep._jobs[one] = None
    started.append(one.key)
  assert len(started) == len(set(started)) == 4
  sweep._jobs.clear()
  assert sweep._next().key in started  # whose row is there by then


def test_what_another_process_trains_is_waited_for(tmp_path, capsys):
  runs = plan.select('lrn', 'small', 1)
  workdir = plan.workdir(tmp_path, runs[0])
  workdir.mkdir()
  sweep = Sweep(runs, tmp_path, tmp_path)
  with locked(workdir / '.lock', pytest.fail):
    assert sweep._next() is runs[1]
    assert sweep._next() is None and sweep._next() is None
  assert capsys.readouterr().out == f'waiting for {workdir}\n'
  assert sweep._next() is runs[0]


def test_sweeps_that_start_together_share_out_their_runs(tmp_path, capsys):
  """A job takes the lock of its workdir only once it has opened its data."""
  runs = plan.select('lrn,one_tower', 'small', 1)
  assert [one.key for one in runs].count(runs[0].key) == 2
  first, second = (Sweep(runs, tmp_path, tmp_path) for _ in range(2))
  assert first._next() is runs[0] and second._next() is runs[1]
  first._jobs[runs[0]] = second._jobs[runs[1]] = None
  assert first._next() is runs[3] and second._next() is None
  assert capsys.readouterr().out.count('waiting for ') == 3
  assert first._collect() == 1 and second._next() is runs[0]


def test_rows_that_two_sweeps_add_are_all_kept(tmp_path):
  def add(variant):
    for seed in range(20):
      rows.add(a_row(variant, seed, 10.0), '', tmp_path)

  with ThreadPoolExecutor() as pool:
    list(pool.map(add, 'abc'))
  assert len(rows.read('lrn', tmp_path)) == 60


def test_a_sweep_that_waits_can_be_stopped(tmp_path):
  """Within the half second that it sleeps, and it starts nothing."""
  workdir = plan.workdir(tmp_path, plan.select('lrn', 'small', 1, '^with$')[0])
  workdir.mkdir()
  command = (sys.executable, '-m', 'experiments.run', '--experiment=lrn')
  with locked(workdir / '.lock', pytest.fail):
    process = subprocess.Popen(
      [
        *(*command, '--variants=^with$', f'--root={tmp_path}'),
        f'--results={tmp_path / "results"}',
      ],
      cwd=ROOT,
      stdout=subprocess.PIPE,
      text=True,
    )
    while not process.stdout.readline().startswith('waiting for '):
      assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
  assert process.returncode == 75
  assert not (tmp_path / 'logs').exists()


def test_nothing_is_submitted_after_a_stop(tmp_path, monkeypatch):
  sweep = Sweep(plan.select('lrn', 'small', 1), tmp_path, tmp_path)
  one = sweep._next()
  sweep._ask_to_stop()  # between the two
  monkeypatch.setattr(sweep, '_executor', lambda: None)
  sweep._start(one)
  assert not sweep._jobs and sweep._next() is None


def test_how_a_job_ended_is_said(tmp_path, capsys, monkeypatch):
  """As submitit keeps it: stopped by another, failed, killed."""
  runs = plan.select('lrn,dropout', 'small', 1)[:3]
  sweep = Sweep(runs, tmp_path, tmp_path)
  outcomes = (('success', 'stopped'), ('error', 'a trace'), None)
  tasks = 0, 1  # of one run
  sweep._waiting = []
  for number, (one, outcome) in enumerate(zip(runs, outcomes, strict=True)):
    job = LocalJob(tmp_path, str(number), tasks)
    if outcome:
      for task in tasks:
        path = job.task(task).paths.result_pickle
        path.write_bytes(pickle.dumps(outcome))
    sweep._jobs[one] = job
  monkeypatch.setattr(signal, 'signal', lambda *_: None)
  with flagsaver.flagsaver(experiment='lrn,dropout'):
    assert sweep.run() == 75
  out = capsys.readouterr().out
  assert out.count('error: ') == 2
  assert f'{runs[0].experiment}, {runs[0]} was stopped: the same comm' in out


_SHARE = {'XLA_PYTHON_CLIENT_MEM_FRACTION': '0.300'}
_PAGES = {'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=1'}


@pytest.mark.parametrize(
  ('executor', 'given', 'added'),
  [
    ('local', {}, _SHARE | _PAGES),
    ('local', {'XLA_CLIENT_MEM_FRACTION': '.2'}, _PAGES),
    ('local', {'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=0'}, _SHARE),
    ('slurm', {}, _PAGES),
  ],
)
def test_runs_share_the_memory_of_this_machine_in_large_pages(
  executor, given, added, tmp_path, monkeypatch
):
  want, given = given | added, dict(given)
  monkeypatch.setattr(os, 'environ', given)
  monkeypatch.setattr(run.logging, 'set_verbosity', lambda _: None)
  monkeypatch.setattr(Sweep, 'run', lambda _: 0)
  with flagsaver.flagsaver(
    experiment='lrn', jobs=3, executor=executor, results=str(tmp_path)
  ):
    assert run.main([]) == 0
  assert given == want


def test_an_unknown_experiment_is_refused(sweep):
  process = sweep('--experiment=nope')
  _, err = process.communicate(timeout=120)
  assert process.returncode == 2
  assert err.startswith('error: --experiment=nope: there are ')
