"""One run, as a process of its own: trains, evaluates, leaves result.json."""

import dataclasses
import datetime
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from etils import epath

from alexnet_jax.runtime.errors import UserError, of_memory
from alexnet_jax.runtime.files import write_atomically
from alexnet_jax.runtime.fingerprints import fingerprint
from experiments import plan, rows


@dataclasses.dataclass(frozen=True)
class Job:
  """What `submitit` runs. Called again, it goes on from the workdir.

  Attributes:
    run: to be done.
    workdir: of it.
    data_dir: where data sets live.
    readings: the split and the number of views of each evaluation wanted.
    gpus: CUDA_VISIBLE_DEVICES of the sweep, which submitit's local executor
      sets to none; None: it is not set.
  """

  run: plan.Run
  workdir: Path
  data_dir: str
  readings: tuple[tuple[str, int], ...]
  gpus: str | None = None

  def __call__(self) -> str:
    """Returns 'finished', 'not finite' or 'stopped'."""
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()  # Grain reads absl's flags
    import jax

    from alexnet_jax.runtime import backend, distributed

    local = os.environ.get('SUBMITIT_EXECUTOR') == 'local'
    if local:
      os.environ.pop('CUDA_VISIBLE_DEVICES', None)
      if self.gpus is not None:
        os.environ['CUDA_VISIBLE_DEVICES'] = self.gpus
    config = self.run.resolve(self.data_dir)
    # In a job of Slurm runs beside each other are not processes of one.
    distributed.initialize('off' if local else 'auto')
    mesh = config.mesh
    with distributed.together():
      backend.configure(max(mesh.data, 1) * mesh.towers, config.deterministic)
      backend.refuse_fallback(self.run.form in plan.ON_GPUS)
      # What XLA says stays the last line of the log, which the sweep shows.
      jax.config.update('jax_traceback_filtering', 'off')
      with of_memory():
        return self._run(config)

  def _run(self, config) -> str:
    import jax

    from alexnet_jax import library
    from alexnet_jax.analysis import pictures
    from alexnet_jax.data import builders, preparation
    from alexnet_jax.runtime import backend
    from alexnet_jax.training import health, loop, run

    if config.data.name == 'shapes':
      preparation.ensure_shapes(config.data.dir)
    dataset = builders.open_dataset(config.data.name, config.data.dir)
    data = fingerprint(
      dataset.statistics.mean_image,
      *(dataset.fingerprint[part] for part in ('listing', 'examples')),
    )
    status, members = 'finished', self._members(data)
    self._refuse_other_data(data)
    try:
      if not members and loop.train_and_evaluate(config, self.workdir):
        return 'stopped'
    except run.NotFiniteError as error:
      print(error, flush=True)
      status = 'not finite'
    before = self._result()
    readings = before.get('readings', {})
    colour: dict[str, Any] = {'colour': [], 'colour_se': []}
    if status == 'finished':
      models = [
        library.load(path, 'last') for path in members or [self.workdir]
      ]
      if not members:
        mean, spread = pictures.conv1_colour(models[0].params)
        colour = {'colour': mean.tolist(), 'colour_se': spread.tolist()}
      for split, views in self.readings:
        name = rows.reading_name(split, views)
        if name not in readings:
          readings[name] = evaluate(models, dataset.source(split), views)
    result = {
      'status': status,
      'data': data,
      'readings': readings,
      'chance': (1 - health.AT_CHANCE) * math.log(dataset.num_classes),
      **colour,
      # Of the training: more views, later, are not another run.
      'environment': before.get('environment') or backend.describe(),
      'date': before.get('date') or datetime.date.today().isoformat(),
    }
    if jax.process_index() == 0:
      file = epath.Path(self.workdir) / rows.RESULT_FILE
      write_atomically(file, json.dumps(result, indent=2))
    return status

  def _refuse_other_data(self, data: str) -> None:
    """Of a name that was prepared anew since the training began."""
    import jax

    file = self.workdir / 'data.txt'
    before = self._result().get('data') or (
      file.read_text() if file.exists() else data
    )
    if before != data:
      raise UserError(
        f'{self.workdir} was trained on other data of the name '
        f'{self.run.resolve().data.name}: give another --root'
      )
    if jax.process_index() == 0:
      write_atomically(epath.Path(file), data)

  def _members(self, data: str) -> list[Path]:
    """Workdirs of the networks that are averaged; none: it trains its own."""
    root = self.workdir.parent
    workdirs = [plan.workdir(root, run) for run in self.run.members]
    for workdir in workdirs:
      file = workdir / rows.RESULT_FILE
      if not file.exists():
        raise UserError(f'{workdir} is not finished: run its variant first')
      result = json.loads(file.read_text())
      if result['status'] != 'finished':
        raise UserError(f'{workdir} diverged: it has no network to average')
      if result['data'] != data:
        raise UserError(f'{workdir} was trained on other data')
    return workdirs

  def _result(self) -> dict[str, Any]:
    file = self.workdir / rows.RESULT_FILE
    return json.loads(file.read_text()) if file.exists() else {}

  def checkpoint(self) -> Any:
    """What submitit queues again when Slurm takes the job's time away."""
    from submitit.helpers import DelayedSubmission

    return DelayedSubmission(self)


class _Images(Sequence):
  """The images of a split, read as they are asked for; labels are kept."""

  def __init__(self, source: Sequence[dict[str, Any]]):
    self._source = source
    self.labels = np.full(len(source), -1)

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, part):
    numbers = range(len(self))[part]
    records = [self._source[number] for number in numbers]
    self.labels[part] = [record['label'] for record in records]
    return [record['image'] for record in records]


def evaluate(
  models: Sequence[Any], source: Sequence[dict[str, Any]], views: int
) -> dict[str, Any]:
  """Errors of networks, their softmax averaged, and of which pictures.

  Args:
    models: of `library.load`.
    source: of `Dataset.source`.
    views: over which the softmax is averaged, too (§4.1).

  Returns:
    'examples'; 'loss'; 'top1_error' and 'top5_error', fractions of 1; 'right',
    for each picture in the order of the source whether the likeliest class is
    its own, as hexadecimal digits of `np.packbits`.
  """
  images = _Images(source)
  p = np.mean([model.predict(images, views) for model in models], axis=0)
  own = np.take_along_axis(p, images.labels[:, None], axis=1)
  # As `Metrics.of` has it: of equals the first comes first; NaN is an error.
  first = np.arange(p.shape[1]) < images.labels[:, None]
  rank = ((p > own) | ((p == own) & first)).sum(axis=1)
  rank[np.isnan(p).any(axis=1)] = p.shape[1]
  return {
    'examples': len(images),
    'loss': float(-np.log(np.maximum(own, 1e-38)).mean()),
    'top1_error': float((rank >= 1).mean()),
    'top5_error': float((rank >= 5).mean()),
    'right': np.packbits(rank < 1).tobytes().hex(),
  }
