r"""Measures how fast the program is, and what it compiles to.

  alexnet benchmark step --config=configs/imagenet2012.py
  alexnet benchmark comms --config=configs/imagenet2012.py

step: images per second of the training step on views that are given, its
parts, GFLOP/s and the share of the rate of this machine's matrix products;
beside it the augmentation. With --peer, PyTorch's step of the same network in
turn, once the outputs of both agree; PyTorch may live in another Python:
--peer_python=PATH.

layers: each layer by itself, as it is lowered here and as its formula with
JAX's own gradients, in turn.

eval: images per second of an evaluation, one view of each or ten.

input: images per second from a prepared data set to views on the device, and
per core; with --pictures=FOLDER, PyTorch's loader on the photographs as they
were, in turn.

startup, memory, end_to_end: seconds from the command to the first step, with
and without what was compiled before; the most memory of this machine that a run
has had; images per second of a run and its share of waiting for data. The real
program, on its data set and on config.mesh.

tpu: the training step compiled by libtpu for --topology, with no TPU here:
FLOPs and bytes an image as XLA counts them, memory, what chips send, and the
roofline. With --report=docs/scaling.md, all steps of that page that the rows of
--json lack, each added when it is done, and then the page. `make tpu-report`
has an environment for it.

gpu: the step as `step` measures it on a GPU, and the time of each layer there;
with --compile_only, with no GPU here, the step compiled for H100s: each kernel
with what it moves, memory, what GPUs send, and the roofline. `make gpu-report`
has an environment for it.

comms: what the compiled training and evaluation steps send between devices,
layer by layer, beside the least that the shapes demand.

Only input, startup, memory and end_to_end need a data set. On CPUs there are as
many virtual devices as the meshes ask for.
"""

import functools
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from alexnet_jax.runtime import errors, options

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'What to measure, such as configs/imagenet2012.py.'
)
_MESH = flags.DEFINE_multi_string(
  'mesh',
  None,
  'DATA,TOWER: devices that spread the batch, the towers; default: those of '
  'config.mesh, and 1 of data for -1. step, eval, gpu and tpu take several: '
  '--mesh=1,1 --mesh=1,2.',
)
_CLASSES = options.classes()
_BATCH = flags.DEFINE_integer(
  'batch', None, 'Images per step; default: config.batch_size.', lower_bound=1
)
_REPEATS = flags.DEFINE_integer(
  'repeats', 5, 'Samples of each contender.', lower_bound=1
)
_PEER = flags.DEFINE_bool('peer', False, 'Measure PyTorch, too, in turn.')
_PEER_COMPILE = flags.DEFINE_bool(
  'peer_compile', False, 'The same with torch.compile, which needs a compiler.'
)
_PEER_PYTHON = flags.DEFINE_string(
  'peer_python', None, 'A Python that has torch; default: this one.'
)
_PICTURES = flags.DEFINE_string(
  'pictures', None, 'Folder of <class>/*.jpg for the loader of PyTorch.'
)
_TOPOLOGY = flags.DEFINE_string(
  'topology', 'v5e:2x4', 'Of TPUs: v4, v5e, v5p or v6e, and its shape.'
)
_COMPILE_ONLY = flags.DEFINE_bool(
  'compile_only', False, 'gpu: compile for H100s, which need not be here.'
)
_REPORT = flags.DEFINE_string(
  'report', None, 'tpu: write the page of what TPUs would do to this file.'
)
_LEADS = flags.DEFINE_string(
  'leads', None, 'tpu: a table of what was tried, for that page.'
)
_JSON = flags.DEFINE_string('json', None, 'Also write the rows to this file.')
_CSV = flags.DEFINE_string(
  'csv', None, 'Also add the rows to this table, made if missing.'
)
flags.mark_flag_as_required('config')


# The flags that each command reads.
_STEP = ('mesh', 'classes', 'repeats', 'peer', 'peer_compile', 'peer_python')
_ROWS = ('batch', 'json', 'csv')
_READ: dict[str, tuple[str, ...]] = {
  'step': (*_STEP, *_ROWS),
  'layers': ('classes', 'repeats', *_ROWS),
  'eval': ('mesh', 'classes', 'repeats', *_ROWS),
  'input': ('mesh', 'repeats', 'pictures', 'peer_python', *_ROWS),
  'tpu': ('mesh', 'classes', 'topology', 'report', 'leads', *_ROWS),
  'gpu': (*_STEP, 'compile_only', *_ROWS),
  'comms': ('mesh', 'classes', 'batch'),
} | dict.fromkeys(('startup', 'memory', 'end_to_end'), ('repeats', *_ROWS))


def main(argv: Sequence[str]) -> None:
  commands = {
    'step': _step,
    'layers': _layers,
    'eval': _eval,
    'input': _input,
    'tpu': _tpu,
    'gpu': _gpu,
    'comms': _comms,
  } | {
    kind: functools.partial(_program, kind)
    for kind in ('startup', 'memory', 'end_to_end')
  }
  if len(argv) < 2 or argv[1] not in commands:
    raise errors.UserError(f'say what to measure: {", ".join(commands)}')
  errors.refuse_flags(
    {flag for flags in _READ.values() for flag in flags} - _read(argv[1]),
    f'{argv[1]}, as it is asked for, does not read it',
  )
  alone = ['layers', 'tpu'] + ['gpu'] * _COMPILE_ONLY.value
  settings, meshes = _configured(argv[1], virtual=argv[1] not in alone)
  rows, text = commands[argv[1]](settings, meshes)
  from alexnet_jax.benchmarks import results

  print(text)
  if rows and _JSON.value:
    results.write_json(_JSON.value, rows)
  if rows and _CSV.value:
    results.append_csv(_CSV.value, rows)


def _read(command: str) -> set[str]:
  """Of the flags that a command reads, those that it reads beside others."""
  read = set(_READ[command])
  if _COMPILE_ONLY.value:
    read -= {'repeats', 'peer', 'peer_compile', 'peer_python'}
  if _REPORT.value:
    read -= {'mesh', 'topology', 'batch', 'csv'}
  else:
    read -= {'leads'}
  if not (_PEER.value or _PEER_COMPILE.value or _PICTURES.value):
    read -= {'peer_python'}
  return read


def _configured(command: str, virtual: bool):
  """The settings, on the first mesh, and all meshes; the backend has devices
  for each, if they are to be `virtual`."""
  from alexnet_jax.runtime import backend
  from alexnet_jax.training.settings import configure

  config = _CONFIG.value
  if _BATCH.value:
    config.batch_size = _BATCH.value
  meshes = []
  for text in _MESH.value or ():
    sizes = text.split(',')
    if len(sizes) != 2 or not all(size.isdecimal() for size in sizes):
      raise errors.UserError(f'--mesh={text}: write it as 1,2')
    meshes.append((int(sizes[0]), int(sizes[1])))
  if len(meshes) > 1 and command in ('comms', 'input'):
    raise errors.UserError(f'{command} is of one --mesh at a time')
  meshes = meshes or [(max(config.mesh.data, 1), config.mesh.towers)]
  config.mesh.data, config.mesh.towers = meshes[0]
  settings = configure(config)
  most = max(data * towers for data, towers in meshes)
  backend.configure(most if virtual else 1, settings.deterministic)
  return settings, meshes


# Each command takes the settings and the meshes, and gives rows of results and
# what to print.


def _step(settings, meshes):
  from alexnet_jax.benchmarks import results, step_speed

  peers = [False] * _PEER.value + [True] * _PEER_COMPILE.value
  rows = step_speed.measure_steps(
    *(settings, meshes, _CLASSES.value, _REPEATS.value),
    *(peers, _PEER_PYTHON.value),
  )
  return rows, results.format_rows(rows)


def _gpu(settings, meshes):
  from alexnet_jax.analysis import communication
  from alexnet_jax.benchmarks import gpu

  if not _COMPILE_ONLY.value:
    found = gpu.time_layers(settings, _CLASSES.value)
    rows, text = _step(settings, meshes)
    return rows, f'{text}\n\n{gpu.format_layers(found)}'
  rows = [
    gpu.compile_step(communication.on_mesh(settings, *mesh), _CLASSES.value)
    for mesh in meshes
  ]
  kernels = (gpu.format_kernels(row) for row in rows)
  return rows, '\n\n'.join((gpu.format_steps(rows), *kernels))


def _layers(settings, _):
  from alexnet_jax.benchmarks import layer_speed, results

  rows = layer_speed.measure_layers(settings, _CLASSES.value, _REPEATS.value)
  return rows, results.format_rows(rows)


def _eval(settings, meshes):
  from alexnet_jax.benchmarks import evaluation_speed, results

  rows = evaluation_speed.measure_evaluations(
    settings, meshes, _CLASSES.value, _REPEATS.value
  )
  return rows, results.format_rows(rows)


def _input(settings, _):
  from alexnet_jax.benchmarks import input_speed, results

  rows = input_speed.measure_input(
    settings, _REPEATS.value, _PICTURES.value, _PEER_PYTHON.value
  )
  return rows, results.format_rows(rows)


def _program(kind, settings, _):
  from alexnet_jax.benchmarks import results, run_cost

  flag = flags.FLAGS['config']
  arguments = [f'--config={config_flags.get_config_filename(flag)}']
  for field, value in config_flags.get_override_values(flag).items():
    arguments.append(f'--config.{field}={value}')
  if _BATCH.value:
    arguments.append(f'--config.batch_size={_BATCH.value}')
  rows = run_cost.measure_runs(kind, settings, arguments, _REPEATS.value)
  return rows, results.format_rows(rows)


def _comms(settings, _):
  from alexnet_jax.analysis import communication
  from alexnet_jax.models import towers

  setup = communication.abstract_setup(settings, _CLASSES.value)
  spread = setup.mesh.shape[towers.TOWER]
  needs = communication.needed_bytes(settings, _CLASSES.value, spread)
  parts = [
    towers.describe_mesh(setup.mesh, settings.model.towers, setup.towers.owt)
  ]
  size = settings.eval_batch_size
  for name, images, sent in (
    ('training', setup.batch_size, communication.training_transfers(setup)),
    (
      'evaluation, 1 view',
      size,
      communication.evaluation_transfers(setup, size),
    ),
  ):
    text = communication.format_transfers(setup, sent, needs, images)
    parts += ['', f'{name}:', text]
  return [], '\n'.join(parts)


def _tpu(settings, meshes):
  from alexnet_jax.analysis import communication
  from alexnet_jax.benchmarks import tpu

  if _REPORT.value:
    return [], _tpu_report(settings)
  rows = [
    tpu.compile_step(
      communication.on_mesh(settings, *mesh), _TOPOLOGY.value, _CLASSES.value
    )
    for mesh in meshes
  ]
  parts = [tpu.format_rooflines(rows)]
  for row in rows:
    parts += ['', f'MB an image by layer, mesh {row["mesh"]}:']
    parts.append(tpu.format_layer_bytes(row))
  return rows, '\n'.join(parts)


def _tpu_report(settings) -> str:
  """Compiles what is missing, then writes page and plot."""
  from etils import epath

  from alexnet_jax.benchmarks import results, scaling_page, tpu
  from alexnet_jax.drawing import canvas, charts
  from alexnet_jax.runtime import files

  if not _JSON.value:
    raise errors.UserError('--report needs --json=FILE, where its rows are')
  page, table = epath.Path(_REPORT.value), epath.Path(_JSON.value)
  rows = results.read_json(table) if table.exists() else []
  for point in scaling_page.missing_points(rows):
    print(f'compiling {point}', flush=True)
    own = point.apply(settings)
    rows.append(tpu.compile_step(own, point.topology, _CLASSES.value))
    results.write_json(_JSON.value, rows)
  leads = results.read_csv(_LEADS.value) if _LEADS.value else []
  with files.explained(page):
    text = scaling_page.format_page(page.read_text(), rows, leads)
    files.write_atomically(page, text)
  series = scaling_page.plotted_series(rows)
  canvas.save(
    charts.throughput(series, scaling_page.NOTE),
    page.parent / scaling_page.PICTURE,
  )
  return f'{page} written'


if __name__ == '__main__':
  errors.run(main, words=1)
