"""Where a run writes: metrics.jsonl, TensorBoard, pictures, a progress line."""

import contextlib
import io
import json
import math
import shutil
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import numpy as np
import tqdm
from etils import epath
from PIL import Image
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.hparams import summary_v2 as hyperparameters
from tensorboard.summary.writer import record_writer

from alexnet_jax.runtime import trackers
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.runtime.files import (
  append_to,
  explained,
  folder,
  make_folder,
  missing_run,
  sync,
  write_atomically,
)

METRICS_FILE = 'metrics.jsonl'
REPORT = 'report.html'


class MetricsWriter(contextlib.AbstractContextManager['MetricsWriter']):
  """Writes one row per event to `workdir/metrics.jsonl` and to trackers.

  Rows reach the operating system one by one, so a killed process loses none.
  A resumed run drops what an earlier one wrote past the step it resumes from
  (and a line torn by the kill), then writes those rows again: but for times,
  the file is the one an uninterrupted run would have written.

  In a bucket rows are written once a minute and before each checkpoint
  (`sync`), so what a kill takes are rows that a resumed run writes again.
  """

  def __init__(
    self,
    workdir: epath.PathLike,
    resume_step: int | None = None,
    write: bool = True,
    names: Sequence[str] = (trackers.TENSORBOARD,),
  ):
    """Opens the files.

    Args:
      workdir: folder of the run, made if missing.
      resume_step: the restored step; its own rows are kept. None starts a new
        log.
      write: False makes every method do nothing (all processes but one).
      names: of trackers: 'tensorboard', or those of `trackers.check`.
    """
    self._write = write
    if not write:
      return
    self._names, self._resumed = list(names), resume_step is not None
    self._show = trackers.TENSORBOARD in names
    self._trackers: trackers.Trackers | None = None
    workdir = self._workdir = epath.Path(workdir)
    first_step = 0 if resume_step is None else resume_step + 1
    path = workdir / METRICS_FILE
    # TensorBoard reads the files of a folder in the order of their names.
    name = f'events.out.tfevents.{time.time():.6f}.{socket.gethostname()}'
    with explained(path):
      make_folder(workdir)
      self._kept, self._dropped = _drop_rows(path, first_step)
      self._rows = append_to(path)
      if self._show:
        self._stream = append_to(workdir / name)
        self._events = record_writer.RecordWriter(self._stream)
    self._last_epoch = -1  # the step that TensorBoard has an epoch of
    self._event(file_version='brain.Event:2')
    # TensorBoard's purge_step: forget steps >= this one of earlier files.
    self._event(
      step=first_step,
      session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START),
    )

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Writes one row; keys such as 'train/loss', values Python or array
    scalars. TensorBoard gets the 'epoch' of a step once, and an accuracy
    beside each error."""
    if not self._write:
      return
    values = {key: np.asarray(value).item() for key, value in values.items()}
    with explained(self._workdir / METRICS_FILE):
      row = {'step': step, **values}
      self._rows.write((json.dumps(row) + '\n').encode())
      self._rows.flush()
    if self._trackers:
      self._trackers.add(row)
    for key in [key for key in values if key.endswith('_error')]:
      values[key.replace('_error', '_accuracy')] = 1 - values[key]
    known = {'epoch'} if step == self._last_epoch else set()
    self._last_epoch = step if 'epoch' in values else self._last_epoch
    self._summary(
      step,
      *(
        summary_pb2.Summary.Value(tag=key, simple_value=value)
        for key, value in values.items()
        if key not in known
      ),
    )

  def configuration(self, step: int, fields: Mapping[str, Any]) -> None:
    """Shows trackers what a run was set to, to compare runs by: once, before
    any row."""
    if self._write:
      self._trackers = trackers.Trackers(
        *(self._names, self._workdir, fields, self._kept),
        *(self._resumed, self._dropped),
      )
      plain = {
        name: value if isinstance(value, bool | int | float) else str(value)
        for name, value in fields.items()
      }
      found = hyperparameters.hparams_pb(plain, self._workdir.name)
      self._event(step=step, summary=found)

  def image(self, step: int, tag: str, image: np.ndarray) -> None:
    """Shows a picture, uint8 [H, W, 3] or [H, W], in TensorBoard; the newest
    is `workdir/<tag>.png`, too."""
    if not self._write:
      return
    png = io.BytesIO()
    Image.fromarray(image).save(png, 'PNG')
    file = self._workdir / f'{tag}.png'
    with explained(file):
      file.write_bytes(png.getvalue())
    picture = summary_pb2.Summary.Image(
      height=image.shape[0],
      width=image.shape[1],
      colorspace=1 if image.ndim == 2 else 3,  # TensorBoard's grey, RGB
      encoded_image_string=png.getvalue(),
    )
    self._summary(step, summary_pb2.Summary.Value(tag=tag, image=picture))

  def sync(self) -> None:
    """To be called before a checkpoint that is to resume after these rows."""
    if self._write:
      with explained(self._workdir / METRICS_FILE):
        sync(self._rows)
      if self._show:
        with explained(f'{self._workdir}/events.out.tfevents.*'):
          sync(self._stream)

  def close(self, failed: bool = False) -> None:
    """Writes all that is left; trackers are told whether the run failed."""
    if self._write:
      # They try again to write what could not be.
      with explained(self._workdir / METRICS_FILE):
        self._rows.close()
      if self._trackers:
        self._trackers.close(failed)
      if self._show:
        with explained(f'{self._workdir}/events.out.tfevents.*'):
          self._events.close()

  def __exit__(self, kind: type[BaseException] | None, *_) -> None:
    self.close(failed=kind is not None)

  def _summary(self, step: int, *values: summary_pb2.Summary.Value) -> None:
    self._event(step=step, summary=summary_pb2.Summary(value=values))

  def _event(self, **fields) -> None:
    if not self._show:
      return
    event = event_pb2.Event(wall_time=time.time(), **fields)
    with explained(f'{self._workdir}/events.out.tfevents.*'):
      self._events.write(event.SerializeToString())
      self._events.flush()


def _drop_rows(
  path: epath.Path, first_step: int
) -> tuple[list[dict[str, Any]], bool]:
  """Drops rows of `first_step` and later, and lines that are not whole; returns
  the others, and whether there were any."""

  def keep(line: str) -> bool:
    try:
      return line.endswith('\n') and json.loads(line)['step'] < first_step
    except (ValueError, TypeError, KeyError):
      return False

  if not path.exists():
    return [], False
  every = path.read_text().splitlines(keepends=True)
  lines = list(filter(keep, every))
  write_atomically(path, ''.join(lines))
  return list(map(json.loads, lines)), len(lines) < len(every)


def read_rows(workdir: epath.PathLike) -> list[dict[str, Any]]:
  """The rows of a run's metrics.jsonl; a line cut short is left out.

  Raises:
    UserError: there is none.
  """
  path = folder(workdir) / METRICS_FILE
  if not path.exists():
    if (path.parent / 'checkpoints').exists():  # such as an imported network
      raise UserError(f'the run in {workdir} has no {METRICS_FILE}: train it')
    raise missing_run(workdir)
  rows = []
  for line in path.read_text().splitlines():
    with contextlib.suppress(ValueError):
      rows.append(json.loads(line))
  return [row for row in rows if isinstance(row, dict) and 'epoch' in row]


class _Bar(tqdm.tqdm):
  monitor_interval = 0  # no thread of its own: processes may fork beside it


class Progress(_Bar):
  """Rate and time left, on stderr: a bar on a terminal, else plain lines.

  Plain lines come at most every ten seconds, the first and the last always.
  """

  def __init__(
    self,
    total: int,
    unit: str,
    description: str = '',
    initial: int = 0,
    show: bool = True,
  ):
    """Starts the clock.

    Args:
      total: number of units in the whole job.
      unit: their name, plural.
      description: shown first.
      initial: units done by an earlier run; they do not count in the rate.
      show: False makes every method do nothing (all processes but one).
    """
    terminal = sys.stderr.isatty()
    super().__init__(
      total=total,
      initial=initial,
      desc=description,
      unit=' ' + unit,
      disable=not show,
      file=sys.stderr if terminal else _Lines(),
      mininterval=0.2 if terminal else 10,
      miniters=1,  # look at the clock in each update
      dynamic_ncols=terminal,
      bar_format=('{desc}: ' if description else '')
      + ('{percentage:3.0f}%|{bar}| ' if terminal else '')
      + '{n_fmt}/{total_fmt}{unit}, {rate_noinv_fmt}, {elapsed} gone, '
      '{remaining} left{postfix}',
    )

  def update(self, n: int = 1, text: str = '') -> None:
    """Adds n units; `text` is shown at the end of the line."""
    self.set_postfix_str(text, refresh=False)
    super().update(n)


class Status(contextlib.AbstractContextManager['Status']):
  """One line on how a run goes, on stderr: drawn anew on a terminal, which it
  never overflows; else a line at most every ten seconds, and the last."""

  def __init__(self, show: bool = True):
    """False makes every method do nothing (all processes but one)."""
    self._show, self._terminal = show, sys.stderr.isatty()
    self._bar = _Bar(
      disable=not show,
      file=sys.stderr if self._terminal else _Lines(),
      mininterval=0.2 if self._terminal else 10,
      miniters=1,
      bar_format='{desc}',
    )

  def update(self, parts: Sequence[str]) -> None:
    """Shows what fits of `parts`, the first ones first."""
    self._bar.set_description_str(self._fit(parts), refresh=False)
    self._bar.update()

  def say(self, text: str, file: TextIO | None = None) -> None:
    """Prints a line, by default on stdout, that stays."""
    if self._show:
      with self._bar.external_write_mode(file=sys.stderr):
        print(text, file=file, flush=True)

  def close(self) -> None:
    self._bar.close()

  def __exit__(self, *_) -> None:
    self.close()

  def _fit(self, parts: Sequence[str]) -> str:
    room = math.inf
    if self._terminal:
      room = shutil.get_terminal_size().columns - 1
    text, *rest = parts
    for part in rest:
      if len(text) + 2 + len(part) > room:
        break
      text += f', {part}'
    return text


class _Lines(io.TextIOBase):
  """Gives tqdm's redrawn line to stderr as one line after another."""

  def write(self, text: str) -> int:
    if line := text.strip():
      print(line, file=sys.stderr, flush=True)
    return len(text)
