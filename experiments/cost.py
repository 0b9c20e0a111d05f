"""What a sweep would cost: measured steps of its networks, times how many."""

import json
from collections.abc import Sequence
from pathlib import Path

from alexnet_jax.benchmarks import run_cost
from alexnet_jax.data import builders
from alexnet_jax.runtime.cadence import Duration
from alexnet_jax.runtime.errors import UserError
from experiments import plan

# What a step's time does not depend on.
_FREE = ('seed', 'schedule', 'optimizer', 'length', 'model.init_', 'evals')
_FORWARD = 1 / 3  # of a step's time: an image of an evaluation


def dry_run(runs: Sequence[plan.Run], data_dir: str, root: Path) -> None:
  """Prints every run, its workdir, what it sets and the hours it may take."""
  total, unknown, shown = 0.0, 0, set()
  rates: dict[str, float | None] = {}  # by network
  for run in runs:
    workdir = plan.workdir(root, run)
    network = json.dumps(
      {
        name: value
        for name, value in plan.flat(run.resolve()).items()
        if not name.startswith(_FREE)
      }
    )
    if network not in rates:
      rates[network] = _images_per_second(run, data_dir)
    if workdir in shown:
      text = 'one run with another above'
    elif (rate := rates[network]) is None:
      text, unknown = 'not measured', unknown + 1
    else:
      hours = _images(run, data_dir) / rate / 3600
      text, total = f'about {duration(hours)}', total + hours
    shown.add(workdir)
    print(f'{run.experiment}: {run}: {text}, {workdir}')
    for field, value in run.overrides.items():
      print(f'    {field}={value!r}')
  print(
    f'{len(runs)} runs in {len(shown)} workdirs, about {duration(total)} of '
    'this machine, without starts and checkpoints'
    + (f'; {unknown} not measured' if unknown else ''),
    flush=True,
  )


def duration(hours: float) -> str:
  """'4 minutes', '1.5 hours'."""
  if hours >= 1:
    return f'{hours:.1f} hours'
  minutes = max(1, round(60 * hours))
  return f'{minutes} minute{"s" * (minutes > 1)}'


def _images_per_second(run: plan.Run, data_dir: str) -> float | None:
  """Of training, in a process of its own; None: it ended, and says why."""
  fields = {
    name: value
    for name, value in run.overrides.items()
    if name not in ('length', 'log_every', 'evals.every', 'checkpoint.every')
  }
  flags = (f'--config.{name}={value}' for name, value in fields.items())
  config = f'--config={plan.FOLDER.parent / "configs" / run.config}.py'
  arguments = [config, *flags, f'--config.data.dir={data_dir}']
  try:
    return run_cost.images_per_second(arguments)
  except UserError as error:
    print(f'{run.experiment}: {run}: {error}')
    return None


def _images(run: plan.Run, data_dir: str) -> float:
  """That a run sees, those of evaluations for what they cost."""
  settings = run.settings(data_dir)
  dataset = builders.open_dataset(settings.data.name, data_dir)
  images = dataset.num_examples('train')
  length, every = (
    Duration.parse(text, settings.batch_size, images)
    for text in (settings.length, settings.evals.every)
  )
  split, views = run.reading
  tested = max(len(run.members), 1) * views * dataset.num_examples(split)
  if run.members:  # trained by runs of their own
    return _FORWARD * tested
  evaluations = float(length.length / every.length) if every.length else 1
  tested += int(evaluations * dataset.num_examples(settings.evals.split))
  return length.steps * settings.batch_size + _FORWARD * tested
