"""metrics.jsonl and TensorBoard through kill and resume; the progress line."""

import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from alexnet_jax.runtime.writers import (
  MetricsWriter,
  Progress,
  Status,
  read_rows,
)


def run(workdir, steps, resume_step=None, offset=0.0):
  with MetricsWriter(workdir, resume_step) as writer:
    for step in steps:
      writer.scalars(step, {'train/loss': np.float32(1 / step + offset)})
      if step % 2 == 0:
        writer.scalars(step, {'validation/top1_error': 0.5, 'count': 7})


def rows(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def events(workdir, tag):
  accumulator = event_accumulator.EventAccumulator(str(workdir))
  accumulator.Reload()
  return [(e.step, e.value) for e in accumulator.Scalars(tag)]


def test_rows_and_events(tmp_path):
  run(tmp_path, range(1, 3))
  loss = [1.0, 0.5]
  assert rows(tmp_path) == [
    {'step': 1, 'train/loss': loss[0]},
    {'step': 2, 'train/loss': loss[1]},
    {'step': 2, 'validation/top1_error': 0.5, 'count': 7},
  ]
  assert events(tmp_path, 'train/loss') == [(1, loss[0]), (2, loss[1])]
  assert events(tmp_path, 'count') == [(2, 7.0)]


def test_tensorboard_has_the_epoch_of_a_step_once(tmp_path):
  """Each row has it; a step may have several rows."""
  with MetricsWriter(tmp_path) as writer:
    for step, name in ((1, 'train/loss'), (2, 'train/loss'), (2, 'test/loss')):
      writer.scalars(step, {'epoch': step / 4, name: 1.0})
  assert events(tmp_path, 'epoch') == [(1, 0.25), (2, 0.5)]
  assert [row['epoch'] for row in read_rows(tmp_path)] == [0.25, 0.5, 0.5]


def test_tensorboard_has_accuracies_and_the_configuration(tmp_path):
  fields = {'width': 0.25, 'split': 'test', 'drops': [5.0], 'exact': False}
  with MetricsWriter(tmp_path / 'mine') as writer:
    writer.configuration(0, fields)
    writer.scalars(1, {'test/top1_error': 0.25})
  assert events(tmp_path / 'mine', 'test/top1_accuracy') == [(1, 0.75)]
  assert rows(tmp_path / 'mine') == [{'step': 1, 'test/top1_error': 0.25}]
  accumulator = event_accumulator.EventAccumulator(str(tmp_path / 'mine'))
  accumulator.Reload()
  (content,) = accumulator.PluginTagToContent('hparams').values()
  data = plugin_data_pb2.HParamsPluginData.FromString(content)
  start = data.session_start_info
  assert start.hparams['width'].number_value == 0.25
  assert start.hparams['split'].string_value == 'test'
  assert start.hparams['drops'].string_value == '[5.0]'
  assert start.hparams['exact'].WhichOneof('kind') == 'bool_value'


def test_a_value_is_written_to_the_last_bit(tmp_path):
  value = np.float32(1) / np.float32(3)
  with MetricsWriter(tmp_path) as writer:
    writer.scalars(1, {'x': value})
  assert np.float32(rows(tmp_path)[0]['x']) == value
  assert events(tmp_path, 'x') == [(1, float(value))]


def test_resumed_equals_uninterrupted(tmp_path):
  whole, broken = tmp_path / 'whole', tmp_path / 'broken'
  run(whole, range(1, 11))
  # Killed at step 9, in the middle of a line; the checkpoint is of step 6.
  run(broken, range(1, 10), offset=0.0)
  path = broken / 'metrics.jsonl'
  path.write_text(path.read_text() + '{"step": 9, "train/l')
  run(broken, range(7, 9), resume_step=6, offset=1.0)  # killed again
  run(broken, range(7, 11), resume_step=6)
  assert path.read_bytes() == (whole / 'metrics.jsonl').read_bytes()
  for tag in ('train/loss', 'validation/top1_error'):
    assert events(broken, tag) == events(whole, tag)
  assert not list(broken.glob('.*'))


def test_a_torn_line_goes_even_when_its_step_stays(tmp_path):
  run(tmp_path, [1, 2])
  path = tmp_path / 'metrics.jsonl'
  kept = path.read_text()
  # Whole as JSON, but the newline that ends a row is not there.
  path.write_text(kept + '{"step": 3, "train/loss": 1}')
  run(tmp_path, [], resume_step=5)
  assert path.read_text() == kept


def test_a_new_run_starts_a_new_log(tmp_path):
  run(tmp_path, range(1, 4), offset=1.0)
  run(tmp_path, [1])
  assert rows(tmp_path) == [{'step': 1, 'train/loss': 1.0}]
  assert events(tmp_path, 'train/loss') == [(1, 1.0)]


def test_each_row_is_on_disk_at_once(tmp_path):
  with MetricsWriter(tmp_path) as writer:
    writer.scalars(1, {'x': 1})
    assert len(rows(tmp_path)) == 1
    assert events(tmp_path, 'x') == [(1, 1.0)]


def test_only_process_0_writes(tmp_path):
  with MetricsWriter(tmp_path / 'run', write=False) as writer:
    writer.scalars(1, {'x': 1})
    writer.image(1, 'filters', np.zeros((2, 2, 3), np.uint8))
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('shape', [(5, 7, 3), (5, 7)])
def test_image(tmp_path, shape):
  image = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
  with MetricsWriter(tmp_path) as writer:
    writer.image(3, 'filters', image)
  accumulator = event_accumulator.EventAccumulator(str(tmp_path))
  accumulator.Reload()
  (event,) = accumulator.Images('filters')
  assert (event.step, event.height, event.width) == (3, 5, 7)
  png = tmp_path / 'image.png'
  png.write_bytes(event.encoded_image_string)
  np.testing.assert_array_equal(np.asarray(Image.open(png)), image)


def test_progress_off_a_terminal_is_plain_lines(capsys):
  with Progress(100, 'steps', 'train', initial=40) as progress:
    for step in range(60):
      progress.update(1, f'loss {step}')
  out, err = capsys.readouterr()
  lines = err.splitlines()
  assert out == '' and '\r' not in err and all(lines)
  assert len(lines) == 2  # sixty updates took less than ten seconds
  assert lines[0].startswith('train: 40/100 steps')
  assert re.fullmatch(
    r'train: 100/100 steps, +\S+ steps/s, 00:00 gone, 00:00 left, loss 59',
    lines[1],
  )


class Terminal(io.StringIO):
  def isatty(self) -> bool:
    return True


def test_a_status_fits_the_terminal(monkeypatch, capsys):
  """What does not fit goes last, whole parts of it."""
  monkeypatch.setattr(sys, 'stderr', Terminal())
  monkeypatch.setenv('COLUMNS', '40')
  with Status() as status:
    status.update(['epoch 1.0/2', 'loss 1.234', '1,234 images/s', '9 left'])
    status.say('epoch 1: evaluated')
    status.update(['epoch 2.0/2', 'loss 1.2', '1,234 images/s', '9 left'])
  written = re.split('[\\r\\n]', sys.stderr.getvalue())
  assert max(map(len, written)) < 40
  shown = [text.strip() for text in written if text.strip()]
  assert shown[-1] == 'epoch 2.0/2, loss 1.2, 1,234 images/s'
  assert 'epoch 1.0/2, loss 1.234, 1,234 images/s' in shown
  assert capsys.readouterr().out == 'epoch 1: evaluated\n'


def test_a_status_off_a_terminal_is_whole_lines(capsys):
  with Status() as status:
    for number in range(60):
      status.update(['a' * 60, 'b' * 60, str(number)])
  lines = capsys.readouterr().err.splitlines()
  assert lines[-1] == f'{"a" * 60}, {"b" * 60}, 59' and len(lines) <= 2
  with Status(show=False) as status:
    status.update(['nothing'])
    status.say('nothing')
  assert capsys.readouterr() == ('', '')


def test_progress_tells_where_it_stopped(capsys):
  progress = Progress(10, 'images')
  progress.update(3)
  progress.close()
  assert capsys.readouterr().err.splitlines()[-1].startswith('3/10 images')


def test_progress_and_writers_start_no_backend():
  """Data workers and `prepare` use them beside forked processes."""
  code = (
    'import sys, threading, alexnet_jax.runtime.writers as w\n'
    'w.Progress(1, "x").close()\n'
    'assert "jax" not in sys.modules and "tensorflow" not in sys.modules\n'
    'assert threading.active_count() == 1'
  )
  subprocess.run([sys.executable, '-c', code], check=True)
