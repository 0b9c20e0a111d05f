"""Where rows of metrics go besides metrics.jsonl: to programs that keep records
of runs.

A row has a number, its place in metrics.jsonl, and a record says how many it
has. So whatever a kill took from either of them, and whatever a resumed run
writes again, a record has each row once, in order. A record of rows that will
not come again, for the settings are others since, is left, and another begun. A
tracker that fails gets no more rows; the run goes on.
"""

import importlib.util
import json
import struct
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from absl import logging
from etils import epath

from alexnet_jax.runtime import files
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.runtime.fingerprints import fingerprint

TENSORBOARD = 'tensorboard'  # of `writers`
IDS = 'trackers.json'  # in the folder of a run: its records' names
_PROJECT = 'alexnet_jax'
_SETTINGS = 'settings'  # beside the names: of the configuration they are of

Row = Mapping[str, float]


class Tracker(Protocol):
  """A record of a run, begun or gone on with by `(workdir, key, fields)`: the
  folder of the run, what its record is known by, and the configuration."""

  key: str  # as it is to be given when the run is resumed
  rows: int  # that the record has

  def log(self, number: int, row: Row) -> None:
    """Adds a row; it has its 'step'."""

  def close(self, failed: bool) -> None:
    """Waits until the record has all rows, and says how the run ended."""


class _Wandb:
  """Weights & Biases. The number of a row is its own step, which may not come
  twice; the charts are over ours."""

  def __init__(self, workdir: epath.Path, key: str, fields: Mapping[str, Any]):
    import wandb

    place = None if files.in_bucket(workdir) else str(workdir)
    self.key = key or uuid.uuid4().hex[:8]
    self._run = wandb.init(
      project=_PROJECT,
      id=self.key,
      name=workdir.name,
      dir=place,
      config=dict(fields),
      resume='allow',
      settings=wandb.Settings(console='off'),
    )
    self._run.define_metric('*', step_metric='step')
    folder = Path(place or '.') / 'wandb'
    # A run that is not offline leaves files, too, of rows that the server has.
    logs = folder.glob(f'offline-run-*-{self.key}/*.wandb')
    self.rows = max(self._run.step, sum(map(_wandb_rows, logs)))

  def log(self, number: int, row: Row) -> None:
    self._run.log(dict(row), step=number, commit=True)

  def close(self, failed: bool) -> None:
    self._run.finish(exit_code=int(failed))


def _wandb_rows(path: Path) -> int:
  """How many rows a file of an offline run has; its end may be torn off."""
  from wandb.proto import wandb_internal_pb2

  def records() -> Iterator[bytes]:
    data, at, whole = path.read_bytes(), 7, b''
    while at + 7 <= len(data):
      if (left := 32768 - at % 32768) < 7:  # of a block: no head fits
        at += left
        continue
      _, size, kind = struct.unpack_from('<IHB', data, at)
      whole += data[at + 7 : at + 7 + size]
      at += 7 + size
      if kind in (0, 1, 4) and at <= len(data):  # whole, or the last part
        yield whole
        whole = b''

  count = 0
  for record in records():
    found = wandb_internal_pb2.Record.FromString(record)
    count += found.WhichOneof('record_type') == 'history'
  return count


class _Trackio:
  """trackio, on this machine."""

  def __init__(self, workdir: epath.Path, key: str, fields: Mapping[str, Any]):
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    self.key = key or f'{workdir.name}-{uuid.uuid4().hex[:8]}'
    self.rows = SQLiteStorage.get_log_count(_PROJECT, self.key)
    self._run = trackio.init(
      _PROJECT, self.key, config=dict(fields), resume='allow'
    )

  def log(self, number: int, row: Row) -> None:
    del number
    row = dict(row)
    self._run.log(row, step=int(row.pop('step')))

  def close(self, failed: bool) -> None:
    del failed
    self._run.finish()


class _Mlflow:
  """MLflow, where $MLFLOW_TRACKING_URI says."""

  def __init__(self, workdir: epath.Path, key: str, fields: Mapping[str, Any]):
    import mlflow
    from mlflow import entities

    self._entities, self._client = entities, mlflow.MlflowClient()
    self.key, self.rows = key, 0
    if key:
      # Each row has an epoch.
      self.rows = len(self._client.get_metric_history(key, 'epoch'))
      self._client.update_run(key, 'RUNNING')
      return
    found = self._client.get_experiment_by_name(_PROJECT)
    place = (
      found.experiment_id if found else self._client.create_experiment(_PROJECT)
    )
    self.key = self._client.create_run(place, run_name=workdir.name).info.run_id
    params = [entities.Param(name, str(x)[:500]) for name, x in fields.items()]
    for start in range(0, len(params), 100):  # at most, in one call
      self._client.log_batch(self.key, params=params[start : start + 100])

  def log(self, number: int, row: Row) -> None:
    del number
    now, step = time.time_ns() // 1_000_000, int(row['step'])
    self._client.log_batch(
      self.key,
      [self._entities.Metric(k, x, now, step) for k, x in row.items()],
    )

  def close(self, failed: bool) -> None:
    self._client.set_terminated(self.key, 'FAILED' if failed else 'FINISHED')


_KINDS: dict[str, Callable[..., Tracker]] = {
  'wandb': _Wandb,
  'trackio': _Trackio,
  'mlflow': _Mlflow,
}


def check(names: Sequence[str]) -> None:
  """Refuses trackers that there are not.

  Raises:
    UserError: an unknown name, or its package is missing.
  """
  for name in names:
    if name not in (TENSORBOARD, *_KINDS):
      raise UserError(
        f'--trackers={",".join(names)}: {name!r} is none of '
        + ', '.join((TENSORBOARD, *_KINDS))
      )
    if importlib.util.find_spec(name) is None:
      raise UserError(
        f'--trackers={name}: its package is missing: pip install -e '
        "'.[trackers]'"
      )


class Trackers:
  """The records of a run."""

  def __init__(
    self,
    names: Sequence[str],
    workdir: epath.Path,
    fields: Mapping[str, Any],
    rows: Sequence[Row],
    resumed: bool,
    dropped: bool = False,
  ):
    """Opens them, and brings them up to date.

    Args:
      names: of `check`; TensorBoard's is another's.
      workdir: of the run.
      fields: the configuration, by its names.
      rows: that metrics.jsonl has.
      resumed: the same records, and not new ones.
      dropped: it had more, of an attempt that went further.
    """
    path, self._number = workdir / IDS, 0
    self._open: dict[str, Tracker] = {}
    keys = _read_keys(path) if resumed else {}
    settings = fingerprint(dict(fields))
    others = keys.pop(_SETTINGS, settings) != settings
    if keys and others and dropped:
      _begin_others(keys)
    for name in _KINDS.keys() & set(names):
      try:
        tracker = _KINDS[name](workdir, keys.get(name, ''), fields)
        if (more := tracker.rows - len(rows)) > 0 and others:
          tracker.close(failed=True)
          _begin_others({name: tracker.key})
          tracker = _KINDS[name](workdir, '', fields)
        elif more > 0:
          logging.warning(
            '--trackers=%s: the record has %d rows of an attempt that went '
            'further: rows of the same numbers are not written again',
            *(name, more),
          )
        self._open[name] = tracker
      except Exception as error:  # of many kinds, and no reason to stop
        _warn(name, error)
    keys |= {name: tracker.key for name, tracker in self._open.items()}
    if keys or path.exists():
      text = json.dumps({**keys, _SETTINGS: settings})
      files.write_atomically(path, text)
    for row in rows:
      self.add(row)

  def add(self, row: Row) -> None:
    """The next row of metrics.jsonl."""
    for name, tracker in list(self._open.items()):
      try:
        if self._number >= tracker.rows:
          tracker.log(self._number, row)
      except Exception as error:
        self._open.pop(name)
        _warn(name, error)
    self._number += 1

  def close(self, failed: bool) -> None:
    for name, tracker in self._open.items():
      try:
        tracker.close(failed)
      except Exception as error:
        _warn(name, error)


def _read_keys(path: epath.Path) -> dict[str, str]:
  """By what the records of a run are known; {} where there is no such file."""
  if not path.exists():
    return {}
  try:
    keys = json.loads(path.read_text())
    if all(isinstance(text, str) for text in keys.values()):
      return keys
  except (ValueError, AttributeError):
    pass
  logging.warning('%s is damaged: other records are begun', path)
  return {}


def _begin_others(keys: dict[str, str]) -> None:
  """Says so, and forgets these: what they have will not come again."""
  logging.warning(
    'the settings are others now, and the records %s have rows of an attempt '
    'that went further: other records are begun',
    ', '.join(f'{name} {key}' for name, key in sorted(keys.items())),
  )
  keys.clear()


def _warn(name: str, error: Exception) -> None:
  reason = ' '.join(str(error).split())[:400] or type(error).__name__
  logging.warning(
    '--trackers=%s fails and gets no more of this run, which goes on: %s',
    name,
    reason,
  )
