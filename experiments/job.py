"""One run, as a process of its own: trains, evaluates, leaves result.json."""

import dataclasses
import datetime
import json
import math
from pathlib import Path
from typing import Any

from absl import flags
from etils import epath

from alexnet_jax.runtime.errors import UserError
from alexnet_jax.runtime.files import write_atomically
from experiments import plan, rows


@dataclasses.dataclass(frozen=True)
class Job:
  """What `submitit` runs. Called again, it goes on from the workdir.

  Attributes:
    run: to be done.
    workdir: of it.
    data_dir: where data sets live.
    views: every number of views that an evaluation is wanted for.
  """

  run: plan.Run
  workdir: Path
  data_dir: str
  views: tuple[int, ...]

  def __call__(self) -> str:
    """Returns 'finished', 'not finite' or 'stopped'."""
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()  # Grain reads absl's flags
    from alexnet_jax.runtime import backend, distributed

    config = self.run.resolve(self.data_dir)
    distributed.initialize('auto', None, None, None)
    mesh = config.mesh
    with distributed.together():
      backend.configure(max(mesh.data, 1) * mesh.towers, config.deterministic)
      return self._run(config)

  def _run(self, config) -> str:
    import jax

    from alexnet_jax.analysis import pictures
    from alexnet_jax.data import builders
    from alexnet_jax.runtime import backend
    from alexnet_jax.training import evaluation, health, loop, run

    status = 'finished'
    colour: dict[str, Any] = {'colour': [], 'colour_se': []}
    members = self._members()
    try:
      if not members and loop.train_and_evaluate(config, self.workdir):
        return 'stopped'
    except run.NotFiniteError as error:
      print(error, flush=True)
      status = 'not finite'
    if status == 'finished' and not members:
      state = evaluation.open_checkpoint(config, self.workdir, 'last')[2]
      mean, spread = pictures.conv1_colour(state.params)
      colour = {'colour': mean.tolist(), 'colour_se': spread.tolist()}
    split = config.evals.final_split or config.evals.split
    before = self._result()
    seen = before.get('views', {})
    views = {
      str(number): seen.get(str(number))
      or evaluation.evaluate_checkpoint(
        config, members or self.workdir, 'last', split, number
      )
      for number in self.views
      if (number > 1 or members) and status == 'finished'
    }
    dataset = builders.open_dataset(config.data.name, config.data.dir)
    result = {
      'status': status,
      'split': split,
      'examples': dataset.num_examples(split),
      'views': seen | views,
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

  def _members(self) -> list[Path]:
    """Workdirs of the networks that are averaged; none: it trains its own."""
    root = self.workdir.parent
    workdirs = [plan.workdir(root, run) for run in self.run.members]
    for workdir in workdirs:
      file = workdir / rows.RESULT_FILE
      if not file.exists():
        raise UserError(f'{workdir} is not finished: run its variant first')
      if json.loads(file.read_text())['status'] != 'finished':
        raise UserError(f'{workdir} diverged: it has no network to average')
    return workdirs

  def _result(self) -> dict[str, Any]:
    file = self.workdir / rows.RESULT_FILE
    return json.loads(file.read_text()) if file.exists() else {}

  def checkpoint(self) -> Any:
    """What submitit queues again when Slurm takes the job's time away."""
    from submitit.helpers import DelayedSubmission

    return DelayedSubmission(self)
