"""Jobs that a sweep has left in Slurm's queue."""

import dataclasses
import os
import pickle

import pytest
from absl.testing import flagsaver

from alexnet_jax.runtime.errors import UserError
from experiments import plan
from experiments.run import Sweep


@pytest.fixture
def slurm(tmp_path, monkeypatch):
  """Slurm's programs, by others of their names; sets what one of them does."""
  folder = tmp_path / 'bin'
  folder.mkdir()

  def does(**programs):
    for name, program in programs.items():
      (folder / name).write_text(f'#!/bin/sh\n{program}\n')
      (folder / name).chmod(0o755)

  sacct = 'echo "JobID|State|NodeList"; echo "7|PENDING|"'
  does(sbatch='echo Submitted batch job 7', srun='', squeue='', sacct=sacct)
  monkeypatch.setenv('PATH', str(folder), prepend=os.pathsep)
  with flagsaver.flagsaver(experiment='lrn', executor='slurm'):
    yield does


def left(tmp_path, slurm, views=10) -> Sweep:
  """A sweep after one that was killed when it had submitted job 7."""
  (one, *_) = plan.select('lrn', 'small', 1)
  first = Sweep([one], tmp_path, tmp_path / 'results')
  first._start(first._next())
  first._claims.clear()
  slurm(sbatch='echo Submitted batch job 8')
  again = dataclasses.replace(one, views=views)
  return Sweep([again], tmp_path, tmp_path / 'results')


_GONE = 'echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1'


@pytest.mark.parametrize(
  ('squeue', 'job'), [('echo 7 PENDING', '7'), ('', '8'), (_GONE, '8')]
)
def test_a_job_that_slurm_still_has_is_not_submitted_again(
  squeue, job, tmp_path, slurm
):
  second = left(tmp_path, slurm)
  slurm(squeue=squeue)
  one = second._next()
  second._start(one)
  assert second._jobs[one].job_id == job
  assert not second._jobs[one].done()


def test_a_job_of_an_earlier_command_may_not_be_all(tmp_path, slurm):
  """It had ten views to measure, and now one is asked for."""
  second = left(tmp_path, slurm, views=1)
  slurm(squeue='echo 7 RUNNING')
  one = second._next()
  second._start(one)
  path = second._jobs[one].paths.result_pickle
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(pickle.dumps(('success', 'finished')))
  assert second._collect() == 0 and not second._failed
  slurm(squeue='')
  assert second._next() is one
  second._start(one)
  assert second._jobs[one].job_id == '8'


def test_a_queue_that_does_not_answer_is_an_error(tmp_path, slurm):
  second = left(tmp_path, slurm)
  slurm(squeue='echo "Unable to contact slurm controller" >&2; exit 1')
  with pytest.raises(UserError, match='squeue: Unable to contact'):
    second._start(second._next())
