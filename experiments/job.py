"""One run, as a process of its own: trains, evaluates, leaves result.json."""

import dataclasses
import datetime
import json
from pathlib import Path
from typing import Any

from absl import flags
from etils import epath

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
      backend.configure(mesh.data, mesh.towers, config.deterministic)
      return self._run(config)

  def _run(self, config) -> str:
    import jax

    from alexnet_jax.learning import evaluate, train
    from alexnet_jax.runtime import backend

    status = 'finished'
    try:
      if train.train_and_evaluate(config, self.workdir):
        return 'stopped'
    except train.NotFiniteError as error:
      print(error, flush=True)
      status = 'not finite'
    split = config.evals.final_split or config.evals.split
    before = self._result().get('views', {})
    views = {
      str(number): before.get(str(number))
      or evaluate.evaluate_checkpoint(
        config, self.workdir, 'last', split, number
      )
      for number in self.views
      if number > 1 and status == 'finished'
    }
    result = {
      'status': status,
      'split': split,
      'examples': self._examples(config, split),
      'views': before | views,
      'environment': backend.describe(),
      'date': datetime.date.today().isoformat(),
    }
    if jax.process_index() == 0:
      file = epath.Path(self.workdir) / rows.RESULT_FILE
      write_atomically(file, json.dumps(result, indent=2))
    return status

  def _examples(self, config, split: str) -> int:
    from alexnet_jax.data import builders

    dataset = builders.open_dataset(config.data.name, config.data.dir)
    return dataset.num_examples(split)

  def _result(self) -> dict[str, Any]:
    file = self.workdir / rows.RESULT_FILE
    return json.loads(file.read_text()) if file.exists() else {}

  def checkpoint(self) -> Any:
    """What submitit queues again when Slurm takes the job's time away."""
    from submitit.helpers import DelayedSubmission

    return DelayedSubmission(self)
