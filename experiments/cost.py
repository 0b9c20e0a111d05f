"""What a sweep would cost: measured steps of its networks, times how many."""

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from experiments import plan

_STEPS = 4
# What a step's time does not depend on.
_FREE = ('seed', 'schedule', 'optimizer', 'length', 'model.init_', 'evals')


def dry_run(runs: Sequence[plan.Run], data_dir: str, root: Path) -> None:
  """Prints every run, its workdir, what it sets and the hours it may take."""
  total, unknown, shown = 0.0, 0, set()
  measured: dict[str, dict | None] = {}
  for run in runs:
    workdir = plan.workdir(root, run)
    network = _network(run)
    if network not in measured:
      measured[network] = measure(run, data_dir)
    if workdir in shown:
      text = 'one run with another above'
    elif (seconds := measured[network]) is None:
      text, unknown = 'hours unknown', unknown + 1
    else:
      hours = _hours(run, seconds)
      text, total = f'at most {hours:.2f} h', total + hours
    shown.add(workdir)
    print(f'{run.experiment}: {run}: {text}, {workdir}')
    for field, value in run.overrides.items():
      print(f'    {field}={value!r}')
  print(
    f'{len(runs)} runs in {len(shown)} workdirs, at most {total:.1f} hours of '
    'this machine' + (f'; {unknown} without their data set' if unknown else ''),
    flush=True,
  )


def measure(run: plan.Run, data_dir: str) -> dict[str, float] | None:
  """Seconds of a training step and of an evaluation, measured in a process.

  Returns:
    None: the data set is not there. Else 'step', 'evaluation' (of a batch),
    and 'train', 'curve', 'end': examples of the three splits.
  """
  request = json.dumps([dataclasses.asdict(run), data_dir])
  done = subprocess.run(
    [sys.executable, '-m', 'experiments.cost'],
    input=request,
    stdout=subprocess.PIPE,
    text=True,
    check=False,
  )
  if done.returncode:
    return None
  return json.loads(done.stdout.splitlines()[-1])


def _network(run: plan.Run) -> str:
  fields = plan.flat(run.resolve())
  return json.dumps(
    {k: v for k, v in fields.items() if not k.startswith(_FREE)}
  )


def _hours(run: plan.Run, seconds: dict[str, float]) -> float:
  from alexnet_jax.runtime.cadence import Duration

  settings = run.settings()
  images = int(seconds['train'])
  steps, every = (
    Duration.parse(text, settings.batch_size, images)
    for text in (settings.length, settings.evals.every)
  )
  batch = settings.eval_batch_size
  evaluations = steps.length / every.length if every.length else 1
  passes = (
    float(evaluations) * seconds['curve'] + run.views * seconds['end']
  ) / batch
  if run.members:  # trained by runs of their own
    passes = len(run.members) * run.views * seconds['end'] / batch
    return passes * seconds['evaluation'] / 3600
  spent = steps.steps * seconds['step'] + passes * seconds['evaluation']
  return spent / 3600


def _main() -> None:
  """The child process: reads a run, prints the seconds."""
  fields, data_dir = json.load(sys.stdin)
  run = plan.Run(**fields)
  from alexnet_jax.runtime import backend

  settings = run.settings(data_dir)
  mesh = settings.mesh
  backend.configure(max(mesh.data, 1) * mesh.towers, settings.deterministic)
  import jax
  import numpy as np

  from alexnet_jax.runtime import sharding
  from alexnet_jax.runtime.errors import UserError, refuse
  from alexnet_jax.runtime.metrics import Metrics
  from alexnet_jax.training import evaluation as evaluate
  from alexnet_jax.training import schedules, state, step

  try:
    dataset, setup = state.open_setup(settings)
  except UserError as error:
    sys.exit(refuse(str(error)))

  def batch(size: int) -> dict[str, jax.Array]:
    place = setup.batch_sharding
    rows = sharding.local_rows(place, size)
    side = dataset.image_size
    arrays = {
      'image': np.full((len(rows), side, side, 3), 100, np.uint8),
      'label': np.zeros(len(rows), np.int32),
      'mask': np.ones(len(rows), bool),
    }
    return sharding.put_batch(place, rows, size, arrays)

  def timed(call) -> float:
    jax.block_until_ready(call())  # compiles
    start = time.perf_counter()
    for _ in range(_STEPS):
      jax.block_until_ready(call())
    return (time.perf_counter() - start) / _STEPS

  train_step = step.TrainStep(setup)
  eval_step = evaluate.make_eval_step(setup, 1)
  tests = batch(settings.eval_batch_size)
  examples = batch(settings.batch_size)
  train = {k: v for k, v in examples.items() if k != 'mask'}
  plan_ = settings.schedule
  rates = schedules.learning_rates(plan_, 0, plan_.learning_rate)
  held = [setup.init_state()]

  def one() -> Metrics:
    held[0], sums = train_step(held[0], train, rates)
    return sums

  split = settings.evals.split
  end = settings.evals.final_split or split
  print(
    json.dumps(
      {
        'step': timed(one),
        'evaluation': timed(lambda: eval_step((held[0].params,), tests)),
        'train': dataset.num_examples('train'),
        'curve': dataset.num_examples(split),
        'end': dataset.num_examples(end),
      }
    )
  )


if __name__ == '__main__':
  _main()
