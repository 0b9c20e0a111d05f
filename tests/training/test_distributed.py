"""Two real processes on this machine are one run."""

import contextlib
import itertools
import os
import re
import signal
import socket
import subprocess
import sys

import pytest
import small_runs
from conftest import max_norm_error

from alexnet_jax.data import builders, pipeline
from alexnet_jax.runtime import distributed, signals
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training.run import NotFiniteError

pytestmark = pytest.mark.fresh


def start_pair(
  program: small_runs.Program, *more: str
) -> list[subprocess.Popen]:
  """Two processes, a tower each."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  return [
    program.start(
      '--distributed=manual',
      f'--coordinator=localhost:{port}',
      '--processes=2',
      f'--process={process}',
      *more,
    )
    for process in range(2)
  ]


def finish_pair(
  processes: list[subprocess.Popen], status: int = 0
) -> list[str]:
  return [small_runs.finish(process, status) for process in processes]


@pytest.fixture(scope='module')
def pair(data_dir, cache_dir, tmp_path_factory):
  """An undisturbed run of two processes: its workdir, and what they said."""
  workdir = tmp_path_factory.mktemp('pair') / 'run'
  config = small_runs.small_config(data_dir)
  program = small_runs.Program(config, workdir, cache_dir)
  return workdir, finish_pair(start_pair(program))


@pytest.mark.parametrize('process', [0, 1])
def test_a_process_that_does_not_come_is_said(process):
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  code = (
    'from alexnet_jax.runtime import distributed\n'
    'distributed.SILENCE, distributed.PATIENCE = 1, 2\n'
    f'distributed.initialize("manual", "localhost:{port}", 2, {process})'
  )
  ended = subprocess.run(
    [sys.executable, '-c', code],
    cwd=small_runs.ROOT,
    capture_output=True,
    text=True,
    timeout=200,
  )
  first, last = ended.stderr.splitlines()
  assert (
    first == '--distributed=manual: waiting for other processes of this run'
  )
  assert last.startswith('error: --distributed=manual: not all processes of')
  assert 'after 3 seconds' in last
  assert ended.returncode == 2


def test_an_error_that_all_have_is_cleaned_up_after(monkeypatch):
  """So that an experiment of several processes learns that a run diverged."""
  monkeypatch.setattr(distributed, 'num_processes', lambda: 2)
  left = []
  monkeypatch.setattr(distributed.os, '_exit', left.append)

  def raising(error):
    with distributed.together():
      raise error

  with pytest.raises(NotFiniteError):
    raising(NotFiniteError('of all'))
  assert not left
  raising(UserError('of one'))
  assert left == [2]


def test_processes_know_who_shares_their_cores(tmp_path):
  """Three on this machine, two of them with one core."""
  cores = sorted(os.sched_getaffinity(0))
  if len(cores) == 1:
    pytest.skip('one core')
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  processes = []
  for process in range(3):
    code = (
      'import os, pathlib\n'
      'from alexnet_jax.runtime import distributed\n'
      f'os.sched_setaffinity(0, [{cores[process // 2]}])\n'
      f'distributed.initialize("manual", "localhost:{port}", 3, {process})\n'
      f'file = pathlib.Path("{tmp_path}", "{process}")\n'
      'file.write_text(str(distributed.processes_here()))'
    )
    command = [sys.executable, '-c', code]
    processes.append(subprocess.Popen(command, cwd=small_runs.ROOT))
  assert [process.wait(200) for process in processes] == [0, 0, 0]
  found = [(tmp_path / str(process)).read_text() for process in range(3)]
  assert found == ['(3, 2)', '(3, 2)', '(3, 1)']


def test_two_processes_train_as_one(pair, config, reference):
  """Losses within 1e-5 of one process, the same counts of errors."""
  workdir, _ = pair
  rows, wanted = small_runs.rows(workdir), small_runs.rows(reference)
  assert len(rows) == len(wanted)
  for row, other in zip(rows, wanted, strict=True):
    assert row.keys() == other.keys()
    for key in row:
      exact = not key.endswith('/loss') and not key.startswith('health/')
      tolerance = 1e-12 if exact else 1e-5
      assert row[key] == pytest.approx(other[key], rel=tolerance), key
  arrays, meta = small_runs.saved(config, workdir)
  others, other_meta = small_runs.saved(config, reference)
  assert meta['schedule'] == other_meta['schedule']
  assert meta['environment']['processes'] == 2
  for name, array in arrays.items():
    assert max_norm_error(array, others[name]) < 1e-4, name


def test_process_0_alone_speaks(pair):
  workdir, (first, second) = pair
  assert 'cpu:0 (process 0): tower 1 of 2' in first
  assert '(process 1): tower 2 of 2' in first
  assert 'epoch 4, test: loss' in first
  assert not [s for s in second.splitlines() if s and '[Gloo]' not in s]
  assert len(list(workdir.glob('events.*'))) == 1
  assert (workdir / 'conv1.png').exists()


@pytest.mark.slow
def test_sigterm_to_one_stops_both_and_they_resume(
  pair, program, config, tmp_path
):
  workdir = tmp_path / 'run'
  processes = start_pair(program(workdir))
  small_runs.wait_until(processes[0], workdir, 4)
  processes[1].terminate()
  first, _ = finish_pair(processes, signals.STOPPED)
  step = small_runs.last_step(workdir)
  assert f'asked to stop: saving after step {step}, then all leave' in first
  assert 4 <= step < 18
  assert (workdir / 'checkpoints' / str(step) / 'manifest.json').exists()
  first, _ = finish_pair(start_pair(program(workdir)))
  assert f'resuming from step {step}' in first
  small_runs.assert_equal_runs(config, workdir, pair[0])


@pytest.mark.slow
def test_sigterm_ends_an_evaluation(program, reference):
  processes = start_pair(program(reference), '--mode=eval')
  assert 'mesh: ' in processes[0].stdout.readline()
  for process in processes:
    process.terminate()
  for process in processes:
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM


@pytest.mark.slow
@pytest.mark.parametrize('parallelism', ['towers', 'owt'])
def test_a_run_moves_from_two_processes_to_one_and_back(
  parallelism, program, config, reference, tmp_path
):
  """With 'owt' each process reads rows of its own, too."""
  config.mesh.parallelism = parallelism
  workdir = tmp_path / 'run'
  for length in ('9 steps', '14 steps', '18 steps'):
    config.length = length
    if length == '14 steps':
      program(workdir, config).run()
    else:
      finish_pair(start_pair(program(workdir, config)))
  arrays, _ = small_runs.saved(config, workdir)
  for name, array in small_runs.saved(config, reference)[0].items():
    assert max_norm_error(arrays[name], array) <= 1e-4, name
  wanted = [r for r in small_runs.rows(reference) if 'train/loss' in r]
  rows = [r for r in small_runs.rows(workdir) if 'train/loss' in r]
  for row, other in zip(rows, wanted, strict=True):
    assert row['train/loss'] == pytest.approx(other['train/loss'], rel=1e-4)


@pytest.mark.parametrize('second', ['cat', 'dog'])
def test_what_processes_have_differently_is_refused(second):
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  codes = [
    'from alexnet_jax.runtime import distributed\n'
    f'distributed.initialize("manual", "localhost:{port}", 2, {process})\n'
    f'distributed.refuse_different("the data set pets", {classes})'
    for process, classes in enumerate((['cat'], [second]))
  ]
  processes = [
    subprocess.Popen(
      [sys.executable, '-c', code],
      cwd=small_runs.ROOT,
      stderr=subprocess.PIPE,
      text=True,
    )
    for code in codes
  ]
  for process in processes:
    said = process.communicate(timeout=200)[1]
    refused = 'the data set pets is not the same in all processes' in said
    assert refused == (second == 'dog'), said
    assert process.returncode == refused


@pytest.mark.slow
def test_both_begin_with_what_another_run_has_learnt(
  program, config, reference, tmp_path
):
  """One step at rate 0: all but the last layer are those of the reference."""
  config.update_from_flattened_dict(
    {
      'length': '1 step',
      'schedule.learning_rate': 0.0,
      'pretrained.source': str(reference),
    }
  )
  first, second = finish_pair(start_pair(program(tmp_path / 'run', config)))
  assert f'fc7 of {reference}' in first and 'starting' not in second
  got, _ = small_runs.saved(config, tmp_path / 'run')
  want, _ = small_runs.saved(config, reference, 'best')
  params = [name for name in got if name.startswith('.params')]
  assert len(params) == 16
  for name in params:
    same = got[name].tobytes() == want[name].tobytes()
    assert same == ('fc8' not in name), name


@pytest.mark.slow
def test_damaged_records_are_counted_over_both(
  damaged, program, config, tmp_path
):
  """Each process reads half of the rows; too many are too many for both."""
  bad = [3, 7, 8, 20, 35]
  config.data.dir = str(damaged('train', *bad))
  config.data.max_bad_records = 4
  config.mesh.data, config.mesh.towers = 2, 1
  config.evals.every, config.checkpoint.every = 'never', '1 step'
  outs = finish_pair(start_pair(program(tmp_path / 'run', config)), status=2)
  for out in outs:
    message = re.findall('^error: (.*), more than', out, re.MULTILINE)
    assert message == [f'examples {bad} of train are damaged']
  assert 'the next good ones stand in' in outs[0]

  state, meta = small_runs.saved(config, tmp_path / 'run')
  saved, end = int(state['.step']), small_runs.last_step(tmp_path / 'run') + 1
  dataset = builders.open_dataset('pictures', config.data.dir)
  options = {'seed': 0, 'batch_size': 8, 'max_bad_records': 4}
  met = []  # by each process, step by step
  for rows in range(4), range(4, 8):
    stream = pipeline.training_batches(dataset, rows=rows, **options)
    with contextlib.closing(stream) as batches:
      steps = itertools.islice(batches, end)
      met.append([set(batch['replaced']) - {-1} for batch in steps])
  together = [a | b for a, b in zip(*met, strict=True)]
  assert meta['bad_records'] == sorted(set().union(*together[:saved]))
  assert max(len(set().union(*steps)) for steps in met) <= 4


@pytest.mark.slow
@pytest.mark.parametrize('killed', [0, 1])
def test_who_loses_the_other_ends_with_a_message(killed, program, tmp_path):
  processes = start_pair(program(tmp_path / 'run'))
  small_runs.wait_until(processes[0], tmp_path / 'run', 4)
  small_runs.kill(processes[killed])
  _, err = processes[1 - killed].communicate(timeout=120)
  assert processes[1 - killed].returncode in (1, 2, -signal.SIGABRT)
  assert 'Traceback' not in err
  assert re.search('^error: |another task died', err, re.MULTILINE)


# ---- What the environment or the flags say.


def python(code: str, **environment: str) -> str:
  """What a program prints in a fresh process."""
  return subprocess.run(
    [sys.executable, '-c', code],
    cwd=small_runs.ROOT,
    env=os.environ | environment,
    capture_output=True,
    text=True,
    check=True,
  ).stdout


def slurm(tasks_on_node: str, local_id: int = 0) -> dict[str, str]:
  """The environment of the only process of a job."""
  return {
    'SLURM_JOB_ID': str(os.getpid()),
    'SLURM_STEP_NODELIST': 'localhost',
    'SLURM_NTASKS': '1',
    'SLURM_PROCID': '0',
    'SLURM_LOCALID': str(local_id),
    'SLURM_STEP_TASKS_PER_NODE': tasks_on_node,
  }


# One process per node sees all its devices, one per device its own.
@pytest.mark.parametrize(
  ('tasks', 'seen', 'devices'),
  [('1', '0,1,2,3', 'all'), ('4', '0,1,2,3', '2'), ('4', '2', 'all')],
)
def test_slurm_is_found_once(tasks, seen, devices):
  code = """
import jax
from alexnet_jax.data import builders, pipeline
from alexnet_jax.runtime import distributed
for _ in range(2):
  distributed.initialize()
seen = jax.config.read('jax_cuda_visible_devices')
print(jax.distributed.is_initialized(), seen)
"""
  environment = slurm(tasks, local_id=2) | {'CUDA_VISIBLE_DEVICES': seen}
  assert python(code, **environment) == f'True {devices}\n'


def test_without_a_cluster_a_process_is_alone():
  code = """
import jax
from alexnet_jax.data import builders, pipeline
from alexnet_jax.runtime import distributed
distributed.initialize(MODE)
print(jax.distributed.is_initialized(), distributed.num_processes())
"""
  assert python(code.replace('MODE', '')) == 'False 1\n'
  off = code.replace('MODE', "'off'")
  assert python(off, **slurm('1')) == 'False 1\n'


@pytest.mark.parametrize(
  ('mode', 'given'),
  [
    ('manual', (None, None, None)),
    ('manual', ('localhost:1', 2, None)),
    ('auto', ('localhost:1', 2, 0)),
    ('off', (None, None, 0)),
  ],
)
def test_half_of_the_flags_is_refused(mode, given):
  with pytest.raises(UserError, match=f'--distributed={mode}.*all three'):
    distributed.initialize(mode, *given)
