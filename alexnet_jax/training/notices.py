"""What a run says of itself when it begins and when it ends."""

import math

import jax
from etils import epath

from alexnet_jax.data.builders import Dataset
from alexnet_jax.runtime.checkpoint import Checkpointer
from alexnet_jax.runtime.metrics import format_error
from alexnet_jax.training.course import Course
from alexnet_jax.training.optimizer import trained
from alexnet_jax.training.settings import Settings
from alexnet_jax.training.state import Setup


def beginning(
  workdir: epath.Path,
  settings: Settings,
  dataset: Dataset,
  setup: Setup,
  course: Course,
) -> str:
  """Which network is trained on what, how long, and where it is kept."""
  there = dataset.fingerprint['examples']
  pictures = ', '.join(f'{count:,} {split}' for split, count in there.items())
  leaves = jax.tree.leaves(trained(setup.abstract_state().params))
  parameters = sum(math.prod(leaf.shape) for leaf in leaves)
  table = settings.model
  towers = f'{table.towers} tower{"s" if table.towers > 1 else ""}'
  steps = dataset.num_examples('train') / settings.batch_size
  return '\n'.join(
    (
      f'workdir:  {workdir}',
      f'data:     {dataset.name}, {dataset.num_classes:,} classes; images: '
      f'{pictures}',
      f'network:  {table.name}, {towers}, {parameters:,} parameters',
      f'training: {course.epochs:.4g} epochs of {round(steps, 1):g} steps, '
      f'{settings.batch_size} images a step',
    )
  )


def complete(workdir: epath.Path, step: int) -> str:
  """Of a run that has nothing to do."""
  return f'{workdir} is complete: {step} steps. Nothing was trained'


def longer(settings: Settings, by_schedule: bool) -> str:
  """What to do for more steps than a run has had."""
  change = f'a longer --config.length (it is {settings.length!r})'
  if by_schedule:
    change = 'another --config.schedule (it has ended)'
  return f'to train on: {change}\nto begin anew: another --workdir'


def ending(
  checkpointer: Checkpointer, split: str, count: int, stopped: bool
) -> str:
  """What was saved; to be said once the last save is whole.

  Args:
    checkpointer: of the run.
    split: that 'best' is measured on.
    count: its images.
    stopped: before the end, as somebody asked.
  """
  *_, last = checkpointer.steps()
  text = f'{"stopped" if stopped else "done"}: step {last} is saved'
  if best := checkpointer.best():
    step, error = best
    text += (
      f'; the best is step {step}, {split} error {format_error(error, count)}'
    )
  return text
