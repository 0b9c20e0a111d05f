"""What a run leaves in its workdir for later: checkpoints with their meta data,
and the statistics of the photographs that its network is used to."""

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
from flax import nnx

from alexnet_jax.data.stats import Statistics
from alexnet_jax.runtime import backend, files
from alexnet_jax.runtime.checkpoint import Checkpointer
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.runtime.metrics import Metrics
from alexnet_jax.training.agreement import check_classes
from alexnet_jax.training.course import Position
from alexnet_jax.training.schedules import make_schedule
from alexnet_jax.training.settings import Settings, flat
from alexnet_jax.training.state import Setup, start_state

STATISTICS = 'statistics.npz'  # in the folder of a run
FORMAT_VERSION = 3  # of the meta data of a checkpoint
AVERAGE = '-ema'  # behind a checkpoint's name: the average of its parameters


def choose(
  checkpointer: Checkpointer, checkpoint: int | str
) -> tuple[str, str, dict[str, Any] | None]:
  """A checkpoint, which of its parameters are meant, and its meta data.

  Args:
    checkpointer: of the run.
    checkpoint: 'last', 'best' or the number of a step, or with '-ema' behind it
      the average of its parameters.

  Returns:
    'last', 'best' or the number; 'params' or 'average', as `TrainState` names
    them; and what `read_meta` does.

  Raises:
    UserError: as `read_meta`, or the run keeps no average.
  """
  which = str(checkpoint).removesuffix(AVERAGE)
  meta = read_meta(checkpointer, which)
  if which == str(checkpoint):
    return which, 'params', meta
  if meta and not meta['config']['optimizer'].get('ema'):
    raise UserError(
      f'checkpoint {checkpoint}: the run keeps no average of its parameters '
      f'(config.optimizer.ema): ask for {which}'
    )
  return which, 'average', meta


def restore(
  checkpointer: Checkpointer,
  which: int | str,
  setup: Setup,
  model: Mapping[str, Any],
  class_names: Sequence[str],
  decoder: str | None = None,
  part: str = '',
) -> tuple[Any, dict[str, Any]] | None:
  """The state and the meta data of a checkpoint, on the setup's mesh.

  Args:
    checkpointer: of the run.
    which: 'last', 'best' or the number of a step.
    setup: of the network.
    model: its `config.model`, which must be the checkpoint's.
    class_names: of the data set, which must be the checkpoint's.
    decoder: of the data set's JPEG records, which must be the checkpoint's if
      it has seen any; None: it has none.
    part: 'params' or 'average': only that and 'step' are read, to a dict.

  Returns:
    None: 'last' was asked for and there is none yet.

  Raises:
    UserError: it is missing or damaged, or it is another network or one of
      other classes, or of pixels that another decoder made.
  """
  meta = read_meta(checkpointer, which)
  if meta is None:
    return None
  before, now = flat(meta['config']['model']), flat(model)
  for field in sorted(before.keys() | now.keys()):
    if before.get(field) != now.get(field):
      raise UserError(
        f'this is another network: config.model.{field} is '
        f'{now.get(field)!r} here and {before.get(field)!r} in the '
        'checkpoint. Give the same, or choose another --workdir'
      )
  theirs = meta['data'].get('decoder', 'pillow')
  if decoder and theirs not in (decoder, None):
    raise UserError(
      f'config.data.decoder is {decoder!r} here and {theirs!r} in the '
      f'checkpoint: give --config.data.decoder={theirs}'
    )
  check_classes(
    'the checkpoint',
    meta['class_names'],
    class_names,
    trained=meta['position']['examples'] > 0,
  )
  state = setup.abstract_state()
  if not part:
    return checkpointer.restore(which, state)
  wanted = {part: state.params, 'step': state.step}
  return checkpointer.restore(which, wanted, partial=True)


def check_run(
  workdir: epath.Path, checkpointer: Checkpointer, settings: Settings
) -> dict[str, Any] | None:
  """Refuses to go on with a run that was begun otherwise.

  Returns:
    The configuration that the last checkpoint has; None: there is none yet.

  Raises:
    UserError: with another data set, rule, source, or split of the best error.
  """
  meta = read_meta(checkpointer, 'last')
  if meta is None:
    return None
  began, source = meta['config']['pretrained']['source'], settings.pretrained
  if source.source not in ('', began):
    raise UserError(
      f'config.pretrained.source is {source.source}, and the run in {workdir} '
      f'began with {began or "initial weights"}: choose another --workdir'
    )
  if not meta['position']['examples']:
    return meta['config']  # was imported: it has seen none of our data sets
  before, name = meta['config']['data']['name'], settings.data.name
  if before != name:
    raise UserError(
      f'the run in {workdir} is on the data set {before}, and '
      f'config.data.name is {name}: choose another --workdir, or to begin with '
      f'its network --config.pretrained.source={workdir}'
    )
  for field, of_state in (('kind', str), ('ema', bool)):
    then = meta['config']['optimizer'].get(field, 0)
    now = getattr(settings.optimizer, field)
    if of_state(then) != of_state(now):
      raise UserError(
        f'config.optimizer.{field} is {now!r}, and the run in {workdir} keeps '
        f'the state of {then!r}: choose another --workdir'
      )
  then, now = meta['config']['evals']['split'], settings.evals.split
  if then != now:
    raise UserError(
      f'config.evals.split is {now}, and the best checkpoint of the run in '
      f'{workdir} is the best on {then}: choose another --workdir'
    )
  return meta['config']


def read_meta(
  checkpointer: Checkpointer, which: int | str
) -> dict[str, Any] | None:
  """The meta data of a checkpoint; None: there is no 'last' yet.

  Raises:
    UserError: it is missing or damaged, another version or no run wrote it.
  """
  meta = checkpointer.read_meta(which)
  if meta is None:
    return None
  version = meta.get('format_version', 1)
  if version != FORMAT_VERSION:
    raise UserError(
      f'checkpoint {which!r} is of format {version}, and this program reads '
      f'format {FORMAT_VERSION}: use the version of alexnet_jax that wrote it, '
      'or choose another --workdir and train anew'
    )
  if not _is_ours(meta):
    raise UserError(
      f'meta.json of checkpoint {which!r} is not what a run writes: remove '
      'the checkpoint, or choose another --workdir'
    )
  return meta


def make_meta(
  config: Mapping[str, Any],
  class_names: Sequence[str],
  schedule: Any,
  examples: Mapping[str, int] | None = None,
  decoder: str | None = None,
) -> dict[str, Any]:
  """What a checkpoint says of itself.

  Args:
    config: the whole configuration, as JSON has it.
    class_names: by the number of the output.
    schedule: `position()` of the schedule.
    examples: how many each split of the data set has.
    decoder: of its JPEG records; None: it has none.
  """
  return {
    'format_version': FORMAT_VERSION,
    'config': config,
    'class_names': list(class_names),
    'data': {'examples': dict(examples or {}), 'decoder': decoder},
    'position': Position().as_json(),
    'schedule': schedule,
    'bad_records': [],
    'row': None,  # sums of the steps since the last one of metrics.jsonl
    'environment': backend.describe(),
  }


def write_run(
  workdir: epath.PathLike,
  config: Mapping[str, Any],
  settings: Settings,
  params: nnx.State,
  class_names: Sequence[str],
  statistics: Statistics,
) -> None:
  """Writes a run of no steps that begins with given parameters.

  Args:
    workdir: of the new run.
    config: the whole configuration, as JSON has it.
    settings: the same, checked.
    params: of its network.
    class_names: by the number of the output.
    statistics: of the images that the network is used to.

  Raises:
    UserError: there is a run in `workdir`, or it cannot be written.
  """
  workdir = files.folder(workdir)
  folder = workdir / 'checkpoints'
  if folder.exists():
    raise UserError(f'{workdir} has a run in it: choose another --workdir')
  state = start_state(settings.optimizer, params)
  position = make_schedule(settings.schedule).position()
  with files.explained(workdir):
    files.make_folder(workdir)
    statistics.save(workdir / STATISTICS)
  with Checkpointer(folder) as checkpointer:
    checkpointer.save(0, state, make_meta(config, class_names, position))


def read_statistics(workdir: epath.PathLike) -> Statistics | None:
  """Of the images that the run in `workdir` began with, which its network is
  used to; None: it has not begun.

  Raises:
    UserError: the file is damaged.
  """
  path = files.folder(workdir) / STATISTICS
  if not path.exists():
    return None
  try:
    return Statistics.load(path)
  except Exception as error:  # damaged bytes may be anything
    raise UserError(
      f'{path} cannot be read: {error}. Put an intact copy back, or remove it: '
      "the data set's own are used then"
    ) from error


def _is_ours(meta: dict[str, Any]) -> bool:
  """Whether meta data have the form that a run gives them."""
  numbers = (int, float, type(None))
  try:
    Position.of_json(0, meta['position'])
    if meta['row'] is not None:
      Metrics.of_json(meta['row'])
    return (
      isinstance(meta['config']['model'], dict)
      and isinstance(meta['config']['augment'], dict)
      and isinstance(meta['config']['schedule']['kind'], str)
      and isinstance(meta['config']['data']['name'], str)
      and isinstance(meta['config']['optimizer']['kind'], str)
      and isinstance(meta['environment'], dict)
      and isinstance(meta['data'], dict)
      and all(isinstance(x, numbers) for x in meta['schedule'].values())
      and all(isinstance(i, int) for i in meta['bad_records'])
      and all(isinstance(name, str) for name in meta['class_names'])
    )
  except (KeyError, TypeError, AttributeError, ArithmeticError, ValueError):
    return False
