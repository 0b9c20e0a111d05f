"""One run of a sweep: what its process sees, refuses and leaves."""

import os
import sys

import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_runs
from absl.testing import flagsaver

from alexnet_jax import library
from alexnet_jax.data import builders
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training import evaluation
from experiments import job, plan, rows, run
from experiments.run import Sweep


@pytest.mark.parametrize('views', [1, 10])
def test_the_pictures_kept_are_those_that_an_evaluation_counts(
  reference, config, views
):
  source = builders.open_dataset('pictures', config.data.dir).source('test')
  model = library.load(reference, 'last')
  found = job.evaluate([model], source, views)
  counted = evaluation.evaluate_checkpoint(reference, 'last', 'test', views)
  for name, value in counted.items():
    assert found[name] == pytest.approx(value, 1e-5)
  records = [source[i] for i in range(len(source))]
  p = model.predict(np.stack([record['image'] for record in records]), views)
  right = p.argmax(1) == [record['label'] for record in records]
  assert found['examples'] == len(source)
  packed = np.frombuffer(bytes.fromhex(found['right']), np.uint8)
  assert np.unpackbits(packed)[: len(right)].tolist() == right.tolist()
  # Two networks of which one is sure of the other's errors.
  sure = Sure(records)
  assert job.evaluate([model, sure, sure], source, views)['top1_error'] == 0


class Sure:
  """Knows the labels of a split, in order."""

  def __init__(self, records):
    self._labels = [record['label'] for record in records]

  def predict(self, images, views):
    assert len(images[: len(images)]) == len(self._labels)
    return np.eye(small_runs.CLASSES, dtype=np.float32)[self._labels]


def test_data_prepared_anew_are_other_data(tmp_path):
  (one,) = plan.select('lrn', 'small', 1, '^with$')
  half = job.Job(one, tmp_path, '/data', ())
  half._refuse_other_data('old')
  half._refuse_other_data('old')
  with pytest.raises(UserError, match='other data of the name imagenette_146'):
    half._refuse_other_data('new')
  (tmp_path / 'data.txt').unlink()  # as runs left none before
  (tmp_path / rows.RESULT_FILE).write_text('{"data": "old"}')
  with pytest.raises(UserError, match='other data'):
    half._refuse_other_data('new')
  averaged = plan.select('ensemble', 'small', 1, 'five')[0]
  for member in averaged.members:
    workdir = plan.workdir(tmp_path, member)
    workdir.mkdir()
    result = '{"data": "old", "status": "finished"}'
    (workdir / rows.RESULT_FILE).write_text(result)
  five = job.Job(averaged, plan.workdir(tmp_path, averaged), '/data', ())
  assert len(five._members('old')) == 5
  with pytest.raises(UserError, match='other data'):
    five._members('new')


def submitted(form, data_dir, root):
  """A sweep that has submitted a run, and submitit's job of it."""
  (one,) = plan.select('lrn', form, 1, '^with$')
  sweep = Sweep([one], root, root)
  with flagsaver.flagsaver(experiment='lrn', data_dir=str(data_dir)):
    sweep._start(one)
  return sweep, sweep._jobs[one]


class Seen(job.Job):
  """A job that tells which GPUs its process is shown."""

  def _run(self, config):
    return repr(os.environ.get('CUDA_VISIBLE_DEVICES'))


@pytest.mark.parametrize('shown', [None, '', '1', 'GPU-5f3a,MIG-77'])
def test_a_run_sees_the_gpus_that_its_sweep_sees(
  shown, data_dir, tmp_path, monkeypatch
):
  """submitit's local executor shows its jobs none."""
  monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
  if shown is not None:
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', shown)
  monkeypatch.setattr(run, 'Job', Seen)
  cloudpickle.register_pickle_by_value(sys.modules[__name__])
  _, seen = submitted('small', data_dir, tmp_path)
  assert seen.result() == repr(shown)


def test_a_form_of_gpus_is_not_trained_on_cpus(
  data_dir, tmp_path, monkeypatch, capsys
):
  monkeypatch.setenv('JAX_PLATFORMS', '')
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
  sweep, refused = submitted('gpu', data_dir, tmp_path)
  refused.wait()
  capsys.readouterr()
  sweep._collect()
  (text,) = sweep._failed
  assert 'UserError: there is no GPU: pip install' in text
  assert capsys.readouterr().out == f'failed: {text}\n'  # at once


class Filling(job.Job):
  """A job whose device has too little memory."""

  def _run(self, config):
    return str(jnp.zeros(1 << 50))


class Failing(job.Job):
  """A job in which XLA fails in another way."""

  def _run(self, config):
    def fail(x):
      raise ValueError('no such thing')

    return str(jax.jit(fail)(1))


@pytest.mark.parametrize(
  ('kind', 'reason'),
  [
    (Filling, 'UserError: the device has too little memory'),
    (Failing, 'ValueError: no such thing'),
  ],
)
def test_a_sweep_says_why_a_run_failed(
  kind, reason, data_dir, tmp_path, monkeypatch
):
  """Below it JAX leaves a note on what it left out."""
  monkeypatch.setattr(run, 'Job', kind)
  cloudpickle.register_pickle_by_value(sys.modules[__name__])
  sweep, failed = submitted('small', data_dir, tmp_path)
  failed.wait()
  sweep._collect()
  (text,) = sweep._failed
  assert reason in text
