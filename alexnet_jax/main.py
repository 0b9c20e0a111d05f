r"""Trains AlexNet, or evaluates what was trained.

  alexnet train --config=configs/default.py

trains, or goes on where an earlier run in --workdir stopped. Any field of the
configuration can be set on the command line: --config.batch_size=64. On
ImageNet, with the errors of the best checkpoint over ten views afterwards:

  alexnet train --config=configs/imagenet2012.py
  alexnet eval --workdir=runs/imagenet2012 \
    --checkpoint=best --split=validation --views=10

SIGTERM or Ctrl-C saves and leaves (exit status 75: run again to go on), a
second Ctrl-C leaves at once.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from alexnet_jax.runtime import errors, options

# Only flags up here: the data workers import this module, too, and must not
# start a JAX backend.
_CONFIG = config_flags.DEFINE_config_file(
  'config',
  None,
  'What to train, such as configs/default.py. eval: the run has its own, and '
  '--config.data.name and the like say what is to differ.',
  lock_config=True,
)
_WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  'Where checkpoints, metrics and pictures go, a folder or gs://BUCKET/FOLDER. '
  'Default: runs/<config name>, behind it its argument, if that is a word, and '
  "the name of the data set where it is not the configuration's own; of eval "
  'without --config, runs/default. '
  'eval: several, with commas: the errors of the mean of their networks '
  '(§6.1).',
)
_MODE = flags.DEFINE_enum(
  'mode', 'train', ['train', 'eval'], 'eval: what `alexnet eval` does.'
)
_CHECKPOINT = options.checkpoint('eval: ')
_SPLIT = options.split('validation', 'eval: what to evaluate on.')
_VIEWS = options.views('eval: views of an image to average.')
_PER_CLASS = flags.DEFINE_bool(
  'per_class',
  False,
  'eval: errors and confusions by class, too, as a table here and in '
  '<workdir>/per_class_<split>.csv and .json.',
)
_PROFILE = flags.DEFINE_string(
  'profile',
  None,
  'START:STOP writes a jax.profiler trace of these steps to '
  '<workdir>/profile, for TensorBoard or Perfetto.',
)
_DISTRIBUTED = flags.DEFINE_enum(
  'distributed',
  'auto',
  ['auto', 'off', 'manual'],
  'Several processes as one run: as Slurm, Cloud TPU, Kubernetes or Open MPI '
  'say; never; or as --coordinator, --processes and --process say.',
)
_COORDINATOR = flags.DEFINE_string(
  'coordinator', None, 'With --distributed=manual: HOST:PORT of process 0.'
)
_PROCESSES = flags.DEFINE_integer(
  'processes', None, 'With --distributed=manual: how many.', lower_bound=1
)
_PROCESS = flags.DEFINE_integer(
  'process',
  None,
  'With --distributed=manual: which one this is, from 0 on.',
  lower_bound=0,
)
_REPORT = flags.DEFINE_bool(
  'report', True, 'Leave a page on what was learned in <workdir>/report.html.'
)
_TRACKERS = flags.DEFINE_list(
  'trackers',
  ['tensorboard'],
  'What also gets the rows of metrics.jsonl, with commas: tensorboard, wandb, '
  'trackio, mlflow (docs/running.md).',
)
# What other programs call fields of the configuration.
_SYNONYMS = {
  **dict.fromkeys(('lr', 'learning_rate', 'rate'), 'schedule.learning_rate'),
  **dict.fromkeys(('epochs', 'num_epochs', 'steps', 'max_steps'), 'length'),
  **dict.fromkeys(('bs', 'batch'), 'batch_size'),
  **dict.fromkeys(('wd', 'decay'), 'optimizer.weight_decay'),
  **dict.fromkeys(('data', 'dataset', 'name'), 'data.name'),
  **dict.fromkeys(('gpus', 'devices'), 'mesh.data'),
  'num_workers': 'data.workers',
}
_PATIENCE = 200  # seconds; other processes of the run wait for this one


def main(argv: Sequence[str]) -> int:
  del argv
  if _CONFIG.value is None:
    raise errors.UserError(
      'say what to run, such as --config=configs/default.py'
    )
  if _MODE.value == 'eval':
    of_training = ('profile', 'trackers', 'report')
    errors.refuse_flags(of_training, 'this is for training')
  else:
    of_eval = ('checkpoint', 'split', 'views', 'per_class')
    errors.refuse_flags(of_eval, 'this is for --mode=eval')
  from alexnet_jax.runtime import distributed

  distributed.initialize(
    _DISTRIBUTED.value, _COORDINATOR.value, _PROCESSES.value, _PROCESS.value
  )
  with distributed.together():
    status = _run()
  if status == 0 and _REPORT.value and _MODE.value == 'train':
    _report(_workdir())
  return status


def _workdir() -> str:
  """Of another data set than the configuration's own, a folder of its own."""
  if _WORKDIR.value:
    return _WORKDIR.value
  workdir = f'runs/{_config_file().stem}'
  _, _, argument = _config_name().partition(':')
  if re.fullmatch(r'[\w.-]+', argument):  # such as a batch, not a folder
    workdir += f'-{argument}'
  if 'config.data.name' in flags.FLAGS:
    name = flags.FLAGS['config.data.name']
    workdir += f'-{name.value}' if name.value != name.default else ''
  return workdir


def _config_file() -> Path:
  """Without the argument that ml_collections takes after a colon."""
  return Path(_config_name().partition(':')[0])


def _config_name() -> str:
  return config_flags.get_config_filename(flags.FLAGS['config'])


def _report(workdir: str) -> None:
  """Leaves report.html in the workdir, unless it is there and up to date.

  A process of its own draws it, on CPUs: whatever becomes of it, the run has
  ended well, and other processes of the run need not take part.
  """
  import jax
  from etils import epath

  from alexnet_jax.runtime import writers

  folder = epath.Path(workdir)  # perhaps of a bucket
  page, rows = folder / writers.REPORT, folder / writers.METRICS_FILE
  if jax.process_index() or not rows.exists():
    return
  if page.exists() and page.stat().mtime > rows.stat().mtime:
    return
  print(f'drawing {page}', flush=True)
  command = [sys.executable, '-m', 'alexnet_jax.report', workdir]
  try:
    subprocess.run(
      [*command, '--photographs=1000', '--gallery=256'],
      env=os.environ | {'JAX_PLATFORMS': 'cpu'},
      check=True,
      timeout=_PATIENCE,
    )
  except (OSError, subprocess.SubprocessError, KeyboardInterrupt) as error:
    stopped = isinstance(error, KeyboardInterrupt)
    reason = 'stopped' if stopped else type(error).__name__
    print(
      f'no report was drawn ({reason}); all else is well. To try again: '
      f'python -m alexnet_jax.report {workdir}',
      file=sys.stderr,
    )


def _run() -> int:
  from alexnet_jax.runtime import backend, signals
  from alexnet_jax.training import as_trained

  config = _CONFIG.value
  file = _config_file()
  if not file.exists():
    raise errors.UserError(f'--config={file}: there is no such file')
  workdir = _workdir()
  several = _MODE.value == 'eval' and not Path(workdir).exists()
  workdirs = workdir.split(',') if several else [workdir]
  overrides = config_flags.get_override_values(flags.FLAGS['config'])
  if _MODE.value == 'eval':
    config = as_trained.get_config(workdirs[0])
    here = ('mesh.', 'deterministic')
    own = {name: x for name, x in overrides.items() if name.startswith(here)}
    config.update_from_flattened_dict({'mesh.data': -1, **own})
  backend.configure(
    max(config.mesh.data, 1) * config.mesh.towers,
    config.deterministic,
    cache=f'{workdirs[0]}/compiled',
  )
  backend.refuse_fallback(watched=True)

  from alexnet_jax.analysis import pictures
  from alexnet_jax.runtime import trackers
  from alexnet_jax.training import evaluation, loop

  trackers.check(_TRACKERS.value)

  if _MODE.value == 'eval':
    signals.leave_on_sigterm()
    evaluation.evaluate_checkpoint(
      workdirs if workdirs[1:] else workdir,
      checkpoint=_CHECKPOINT.value,
      split=_SPLIT.value,
      views=int(_VIEWS.value),
      overrides=overrides,
      classes=_PER_CLASS.value,
    )
    return 0
  return loop.train_and_evaluate(
    config,
    workdir,
    profile=_profile(),
    pictures={'conv1': pictures.conv1_kernels},
    report=_REPORT.value,
    command=shlex.join(['python', '-m', 'alexnet_jax.main', *sys.argv[1:]]),
    overrides=overrides,
    trackers=_TRACKERS.value,
  )


def _profile() -> tuple[int, int] | None:
  if _PROFILE.value is None:
    return None
  start, _, stop = _PROFILE.value.partition(':')
  if start.isdecimal() and stop.isdecimal() and int(start) < int(stop):
    return int(start), int(stop)
  raise errors.UserError(
    f'--profile={_PROFILE.value}: write START:STOP, such as 10:20'
  )


def _with_run(argv: list[str]) -> list[str]:
  """An evaluation without --config, with the one that its run had."""

  def given(name: str) -> str | None:
    for word, following in zip(argv, [*argv[1:], ''], strict=True):
      flag, equals, value = word.partition('=')
      if flag in (f'-{name}', f'--{name}'):
        return value if equals else following
    return None

  own = ('config', 'help', 'helpfull')
  if given('mode') != 'eval' or any(given(name) is not None for name in own):
    return argv
  workdir = given('workdir') or 'runs/default'
  first = workdir if Path(workdir).exists() else workdir.partition(',')[0]
  file = Path(__file__).parent / 'training' / 'as_trained.py'
  program, *rest = argv
  return [program, f'--config={file}:{first}', f'--workdir={workdir}', *rest]


if __name__ == '__main__':
  sys.argv = _with_run(sys.argv)
  errors.run(main, synonyms=_SYNONYMS)
