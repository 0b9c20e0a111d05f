"""The loop around the step (§5).

Its order is a contract: restore; while step < end: next batch, step, log if
due, evaluate if due, save if due. The last step is always evaluated and
saved, and every evaluation is followed by a save.
"""

import contextlib
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from alexnet_jax.data.builders import Dataset
from alexnet_jax.formats.names import Network
from alexnet_jax.runtime import distributed, files, signals
from alexnet_jax.runtime.checkpoint import Checkpointer
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.runtime.metrics import Metrics
from alexnet_jax.runtime.profile import Trace
from alexnet_jax.runtime.writers import REPORT
from alexnet_jax.training import notices, pretrained
from alexnet_jax.training.agreement import with_views
from alexnet_jax.training.bad_records import BadRecords
from alexnet_jax.training.course import Course, Position
from alexnet_jax.training.evaluation import Evaluator
from alexnet_jax.training.run import Pictures, Run, Start
from alexnet_jax.training.saved import (
  check_run,
  make_meta,
  read_statistics,
  restore,
)
from alexnet_jax.training.schedules import make_schedule
from alexnet_jax.training.settings import Settings, configure, flat
from alexnet_jax.training.state import Setup, open_setup


def train_and_evaluate(
  config: ConfigDict,
  workdir: epath.PathLike,
  profile: tuple[int, int] | None = None,
  pictures: Pictures | None = None,
  report: bool = False,
  command: str = 'the same',
  overrides: Mapping[str, Any] | None = None,
  trackers: Sequence[str] = ('tensorboard',),
) -> int:
  """Trains, or goes on from the last checkpoint in `workdir`.

  What a network sees of a picture is part of it: a run that goes on, or begins
  with `config.pretrained.source`, takes that from there.

  Args:
    config: as configs/default.py describes it.
    workdir: folder of the run: checkpoints, metrics.jsonl, TensorBoard.
    profile: the steps between which a `jax.profiler` trace is written there.
    pictures: what to draw at each evaluation, for TensorBoard.
    report: whether the caller will leave one, to be said.
    command: that goes on with the run, to be said.
    overrides: fields of `config` that the user gave one by one, such as
      {'augment.scale': 0.5}: one that is not what was taken is refused.
    trackers: of `runtime.trackers.check`, which get the rows of metrics.jsonl.

  Returns:
    0 at the end; `signals.STOPPED` when it was asked to leave before.

  Raises:
    UserError: anything that the user can mend.
    NotFiniteError: of these, a loss that is not finite.
  """
  settings, workdir = configure(config), files.folder(workdir)
  checkpointer = Checkpointer(workdir / 'checkpoints', settings.checkpoint.keep)
  own, network = check_run(workdir, checkpointer, settings), None
  # Without a checkpoint, statistics are what another run has left behind.
  used_to = None if own is None else read_statistics(workdir)
  source = workdir
  if own is None and settings.pretrained.source:
    source = settings.pretrained.source
    network = pretrained.read(source, settings.pretrained.checkpoint)
    own, used_to = network.config, network.statistics
  if own is not None:
    config = with_views(source, own, config, overrides or {})
    settings = configure(config)
  dataset, setup = open_setup(settings, used_to)
  with contextlib.ExitStack() as stack:
    # First, for it must outlive the save that the checkpointer waits for.
    stop = stack.enter_context(signals.StopRequest())
    course = Course.make(settings, dataset.num_examples('train'))
    # Refuses what it cannot do before hours of training.
    dataset.source('train')
    evaluators = _make_evaluators(settings, setup, dataset)
    if jax.process_index() == 0:
      stack.enter_context(_alone_in(workdir))
    stack.enter_context(checkpointer)
    start = _begin(
      config, settings, course, setup, dataset, checkpointer, network
    )
    del network  # its arrays
    course, step = course.resumed(start.position), start.position.step
    first = jax.process_index() == 0
    _check_profile(profile, step, course.end)
    if step >= course.end or start.schedule.finished:
      if first:
        print(notices.complete(workdir, step), flush=True)
        print(notices.longer(settings, start.schedule.finished), flush=True)
      return 0
    if first:
      print(setup.describe_mesh(), flush=True)
      text = notices.beginning(workdir, settings, dataset, setup, course)
      print(text, flush=True)
      if report:
        print(f'report:   {workdir / REPORT}, in the end', flush=True)
    run = Run(
      settings,
      course,
      start,
      dataset,
      setup,
      evaluators,
      checkpointer,
      workdir,
      pictures or {},
      trackers,
      stack,
    )
    trace = stack.enter_context(Trace(workdir, profile))
    batches = run.open_batches(stack)
    # Entered last: after an error nothing waits for the other processes.
    stack.enter_context(distributed.together())
    while not run.ended():
      trace.before(run.step)
      batch = next(batches)
      run.preflight(batch)
      run.train(batch)
      if run.log_due():
        run.log()
      if run.evaluation_due():
        run.evaluate()
        if run.log_due():  # the error has ended the run
          run.log()
      leave = stop.due(run.step)
      if run.evaluation_due() or run.save_due() or leave:
        run.save()
      if leave:
        break
  stopped = not run.ended()
  if first:
    split, count = run.evaluator.split, run.evaluator.num_examples
    print(notices.ending(checkpointer, split, count, stopped), flush=True)
    longer = notices.longer(settings, run.schedule.finished)
    print(f'to go on: {command}' if stopped else longer, flush=True)
  return signals.STOPPED if stopped else 0


def _begin(
  config: ConfigDict,
  settings: Settings,
  course: Course,
  setup: Setup,
  dataset: Dataset,
  checkpointer: Checkpointer,
  network: Network | None,
) -> Start:
  """The last checkpoint's state, or an initial one, with what `network` has."""
  schedule = make_schedule(settings.schedule, course.epochs)
  if 0 < course.epochs <= settings.schedule.warmup:
    logging.warning(
      'the run ends within its warm-up: config.schedule.warmup has %g epochs, '
      'and the run %g',
      *(settings.schedule.warmup, course.epochs),
    )
  bad_records = BadRecords(
    settings.data.max_bad_records, functools.partial(dataset.files, 'train')
  )
  plain = json.loads(config.to_json())
  names, examples = dataset.class_names, dataset.fingerprint['examples']
  decoder = dataset.decoder
  meta = make_meta(plain, names, schedule.position(), examples, decoder)
  restored = restore(
    checkpointer, 'last', setup, plain['model'], names, decoder
  )
  if restored is None:
    state = setup.init_state()
    if network:
      pretrained.tell_differences(network, settings.pretrained, plain['model'])
      choice = settings.pretrained
      state = pretrained.start(network, choice, setup, state, names)
    return Start(state, Position(), schedule, bad_records, meta)
  state, before = restored
  position = Position.of_json(int(state.step), before['position'])
  # Steps that are left may be of another size than those that are done.
  epochs = course.resumed(position).epochs
  schedule = make_schedule(settings.schedule, epochs)
  if before['config']['schedule']['kind'] == settings.schedule.kind:
    schedule.resume(before['schedule'])
  else:
    schedule.lowest = before['schedule'].get('lowest')
  bad_records.indices.update(before['bad_records'])
  plain['pretrained'] = before['config']['pretrained']  # what it began with
  _log_changes(before, meta)
  print(
    f'resuming from step {position.step}, epoch {float(position.epoch):.2f}, '
    f'{position.examples:,} examples seen',
    flush=True,
  )
  row = before['row']
  sums = None if row is None else Metrics.of_json(row)
  return Start(state, position, schedule, bad_records, meta, sums, resumed=True)


def _make_evaluators(
  settings: Settings, setup: Setup, dataset: Dataset
) -> tuple[Evaluator, Evaluator | None]:
  """Of `evals.split`, and of `evals.final_split` if there is one."""

  def make(split: str) -> Evaluator:
    size = settings.eval_batch_size
    return Evaluator(setup, dataset, split, settings.data, size)

  final = settings.evals.final_split
  return make(settings.evals.split), make(final) if final else None


@contextlib.contextmanager
def _alone_in(workdir: epath.Path) -> Iterator[None]:
  """Makes the folder of a run, and keeps every other run out of it."""

  def refuse() -> None:
    raise UserError(
      f'another run is going on in {workdir}: wait for it, stop it, or choose '
      'another --workdir'
    )

  with files.explained(workdir):
    files.make_folder(workdir)
  with files.locked(workdir / '.lock', refuse):
    yield


def _check_profile(
  profile: tuple[int, int] | None, step: int, end: int
) -> None:
  """Refuses a trace of steps that will not be taken."""
  if profile and step < end and not (profile[0] < end and step < profile[1]):
    raise UserError(
      f'--profile={profile[0]}:{profile[1]}: this run takes the steps from '
      f'{step} to {end}'
    )


def _log_changes(before: dict[str, Any], now: dict[str, Any]) -> None:
  """Logs what differs from the run that wrote the checkpoint."""
  for part in ('config', 'data', 'environment'):
    old, new = flat(before[part]), flat(now[part])
    for name in sorted(old.keys() | new.keys()):
      if old.get(name) != new.get(name):
        logging.warning(
          'resuming with another %s: %s = %r, before %r',
          part,
          name,
          new.get(name),
          old.get(name),
        )
