"""Rows of metrics in W&B, trackio and MLflow: those of metrics.jsonl, each
once, over a kill and two resumes; and trackers that fail."""

import json
import os
import re
import sqlite3
import struct
import subprocess
import sys

import pytest
import small_runs

from alexnet_jax.runtime import trackers
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.runtime.writers import MetricsWriter

# One process of a run: from a checkpoint's step on to another, then its end.
PART = """
import os, signal, sys
from alexnet_jax.runtime.writers import MetricsWriter

name, workdir, begin, end, killed = sys.argv[1:]
begin, end = int(begin), int(end)
writer = MetricsWriter(workdir, begin or None, names=[name])
writer.configuration(begin, {'optimizer.momentum': 0.9, 'data.name': 'shapes'})
for step in range(begin + 1, end + 1):
  epoch = step / 4
  writer.scalars(step, {'epoch': epoch, 'train/loss': 1 / step})
  if step % 3 == 0:
    error = 1 / (1 + step)
    writer.scalars(step, {'epoch': epoch, 'validation/top1_error': error})
if killed == 'killed':
  os.kill(os.getpid(), signal.SIGKILL)
writer.close()
"""
# The first part ended well, but the second resumes before its end; that is
# killed past the checkpoint that the third resumes from.
PARTS = ((0, 6, ''), (4, 9, 'killed'), (7, 12, ''))


@pytest.fixture(params=['wandb', 'trackio', 'mlflow'])
def kind(request):
  pytest.importorskip(request.param, reason="extra: '.[trackers]'")
  return request.param


def test_a_record_has_each_row_once_over_a_kill(kind, tmp_path):
  workdir = tmp_path / 'a_run'
  env = os.environ | {
    'WANDB_MODE': 'offline',
    'WANDB_SILENT': 'true',
    'TRACKIO_DIR': str(tmp_path / 'trackio'),
    'MLFLOW_TRACKING_URI': f'file:{tmp_path}/mlruns',
    'MLFLOW_ALLOW_FILE_STORE': 'true',  # its simplest store
    'PYTHONPATH': str(small_runs.ROOT),
  }
  for begin, end, killed in PARTS:
    words = [kind, str(workdir), str(begin), str(end), killed]
    done = subprocess.run(
      [sys.executable, '-c', PART, *words],
      env=env,
      cwd=tmp_path,
      capture_output=True,
      text=True,
    )
    assert done.returncode == (-9 if killed else 0), done.stderr
    # The second goes on from 3 rows before the record's end; so does the third
    # where what was sent before the kill has arrived.
    warning = rf'--trackers={kind}: the record has (\d) rows of an attempt'
    said = re.findall(warning, done.stderr)
    assert done.stderr.count('--trackers') == len(said), done.stderr
    assert begin == 7 or said == ([] if begin == 0 else ['3'])
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  rows = list(map(json.loads, lines))
  assert [row['step'] for row in rows] == [
    *(1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 9, 9, 10, 11, 12, 12)
  ]
  assert globals()[f'read_{kind}'](tmp_path) == rows
  assert not list(workdir.glob('events*'))  # TensorBoard was not asked for


def read_wandb(folder):
  """The rows of the files of an offline run, as `wandb sync` would send them:
  one run, whose own steps count the rows."""
  from wandb.proto import wandb_internal_pb2

  files = sorted((folder / 'a_run/wandb').glob('offline-run-*/*.wandb'))
  assert len({file.name for file in files}) == 1 and len(files) == len(PARTS)
  rows = []
  for file in files:
    data, record = file.read_bytes(), b''
    blocks = [data[i : i + 32768] for i in range(0, len(data), 32768)]
    blocks[0] = blocks[0][7:]  # what kind of file it is
    for block in blocks:
      while len(block) >= 7:
        _, size, part = struct.unpack('<IHB', block[:7])
        record += block[7 : 7 + size]
        block = block[7 + size :]
        if part in (1, 4):  # whole, or the end of one
          found = wandb_internal_pb2.Record.FromString(record)
          record = b''
          if found.HasField('history'):
            items = found.history.item
            row = {
              x.key or '/'.join(x.nested_key): json.loads(x.value_json)
              for x in items
            }
            assert row.pop('_step') == len(rows)
            rows.append({k: v for k, v in row.items() if k[0] != '_'})
  return rows


def read_trackio(folder):
  base = sqlite3.connect(folder / 'trackio/alexnet_jax.db')
  found = list(
    base.execute('select run_name, step, metrics from metrics order by id')
  )
  assert len({name for name, _, _ in found}) == 1
  return [{'step': step} | json.loads(text) for _, step, text in found]


def read_mlflow(folder):
  """The files of its store: a line is time, value and step."""
  (run,) = [x.parent for x in (folder / 'mlruns').glob('*/*/metrics')]
  assert (run / 'params/optimizer.momentum').read_text() == '0.9'
  values = {}
  for file in (run / 'metrics').rglob('*'):
    if file.is_file():
      name = str(file.relative_to(run / 'metrics'))
      for line in file.read_text().splitlines():
        _, value, step, *_ = line.split()
        values.setdefault(int(step), []).append((name, float(value)))
  rows = []
  for step, pairs in sorted(values.items()):
    # A step's rows have no order there: that of training is written first.
    parts = {'train/loss': {}, 'validation/top1_error': {}}
    epochs = [value for name, value in pairs if name == 'epoch']
    for name, value in pairs:
      if name in parts:
        assert not parts[name], 'twice'
        parts[name] = {'step': step, 'epoch': epochs.pop(), name: value}
    assert not epochs
    rows += [row for row in parts.values() if row]
  return rows


class _Failing:
  """A record that takes two rows."""

  key = 'x'
  rows = 0

  def __init__(self, *_):
    self.got = []

  def log(self, number, row):
    if len(self.got) == 2:
      raise OSError('no room\nleft')
    self.got.append((number, row['step']))

  def close(self, failed):
    raise AssertionError('it was given up')


def test_a_tracker_that_fails_is_given_up_and_the_run_goes_on(
  tmp_path, monkeypatch, caplog
):
  made = []
  monkeypatch.setitem(
    trackers._KINDS, 'wandb', lambda *_: made.append(_Failing()) or made[0]
  )

  def broken(*_):
    raise RuntimeError('no server')

  monkeypatch.setitem(trackers._KINDS, 'mlflow', broken)
  with MetricsWriter(tmp_path, names=['wandb', 'mlflow']) as writer:
    writer.configuration(0, {})
    for step in range(1, 6):
      writer.scalars(step, {'epoch': step})
  assert made[0].got == [(0, 1), (1, 2)]
  assert len((tmp_path / 'metrics.jsonl').read_text().splitlines()) == 5
  words = sorted(record.getMessage() for record in caplog.records)
  assert words == [
    '--trackers=mlflow fails and gets no more of this run, which goes on: '
    'no server',
    '--trackers=wandb fails and gets no more of this run, which goes on: '
    'no room left',
  ]


class _Kept:
  """A record in memory; it is gone on with by its number."""

  made: list['_Kept'] = []

  def __new__(cls, _, key, fields):
    if key:
      return cls.made[int(key)]
    record = super().__new__(cls)
    record.key, record.got, record.fields = str(len(cls.made)), [], fields
    cls.made.append(record)
    return record

  @property
  def rows(self):
    return len(self.got)

  def log(self, number, row):
    assert number == len(self.got)
    self.got.append(row)

  def close(self, failed):
    self.failed = failed


@pytest.fixture
def kept(monkeypatch):
  monkeypatch.setattr(_Kept, 'made', [])
  monkeypatch.setitem(trackers._KINDS, 'wandb', _Kept)
  return _Kept.made


def write(folder, begin, spaced, steps):
  """A process of a run; it ends without `close`, as by a kill."""
  writer = MetricsWriter(folder, begin or None, names=['wandb'])
  writer.configuration(begin, {'log_every': f'{spaced} steps'})
  for step in steps:
    writer.scalars(step, {'epoch': step})
  return writer


def test_rows_of_other_settings_are_in_a_record_of_their_own(
  tmp_path, kept, caplog
):
  """From a checkpoint at step 4 after a kill at 9: with the same rows, and with
  those of other steps."""
  write(tmp_path, 0, 1, range(1, 10))
  write(tmp_path, 4, 1, range(5, 9))
  (first,) = kept
  assert [row['step'] for row in first.got] == list(range(1, 10))
  assert 'are not written again' in caplog.text
  write(tmp_path, 4, 2, range(6, 13, 2)).close()
  assert len(kept) == 2 and not kept[1].failed
  steps = [row['step'] for row in kept[1].got]
  assert steps == [1, 2, 3, 4, 6, 8, 10, 12]
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert kept[1].got == list(map(json.loads, lines))
  assert kept[1].fields == {'log_every': '2 steps'}
  # Not asked for when the rows changed: it is begun anew when it is again.
  with MetricsWriter(tmp_path, 8, names=['tensorboard']) as writer:
    writer.configuration(8, {'log_every': '3 steps'})
    for step in range(9, 30, 3):
      writer.scalars(step, {'epoch': step})
  write(tmp_path, 27, 3, [30]).close()
  steps = [row['step'] for row in kept[2].got]
  assert steps == [1, 2, 3, 4, 6, 8, 9, 12, 15, 18, 21, 24, 27, 30]


def test_other_settings_after_an_orderly_end_are_of_the_same_record(
  tmp_path, kept
):
  write(tmp_path, 0, 2, range(2, 13, 2)).close()
  write(tmp_path, 12, 1, [13])
  assert len(kept) == 1 and kept[0].got[-1]['step'] == 13


@pytest.mark.parametrize('text', ['{"wan', '[]', '{"wandb": 3}', ''])
def test_damaged_names_of_records_are_one_warning(text, tmp_path, kept, caplog):
  write(tmp_path, 0, 1, range(1, 4))
  (tmp_path / trackers.IDS).write_text(text)
  write(tmp_path, 3, 1, [4])
  (words,) = [record.getMessage() for record in caplog.records]
  assert words.endswith('trackers.json is damaged: other records are begun')
  assert [row['step'] for row in kept[1].got] == [1, 2, 3, 4]


def test_a_record_is_told_that_a_run_has_failed(tmp_path, kept):
  def fail():
    with MetricsWriter(tmp_path, names=['wandb']) as writer:
      writer.configuration(0, {})
      raise ZeroDivisionError

  with pytest.raises(ZeroDivisionError):
    fail()
  assert kept[0].failed


def test_an_unknown_tracker_and_a_missing_package_are_refused(monkeypatch):
  with pytest.raises(UserError, match="'wandbx' is none of tensorboard, wandb"):
    trackers.check(['tensorboard', 'wandbx'])
  monkeypatch.setattr(trackers.importlib.util, 'find_spec', lambda _: None)
  with pytest.raises(UserError, match=r"pip install -e '.\[trackers\]'"):
    trackers.check(['wandb'])
