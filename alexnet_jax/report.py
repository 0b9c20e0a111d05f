r"""Writes what a run has learned as one HTML page, or compares several.

  alexnet report WORKDIR...

Errors beside those of 2012, curves, kernels, predictions, confusion,
neighbours, health and the configuration. Pictures are those of the first run.
The page holds all it shows: it needs no network, and can be sent to somebody.
"""

from collections.abc import Sequence

from absl import flags

from alexnet_jax.runtime import errors, options

_CHECKPOINT = options.checkpoint()
_OUTPUT = flags.DEFINE_string(
  'output', None, 'The file to write. Default: report.html in WORKDIR.'
)
_DATA_DIR = options.data_dir()
_PHOTOGRAPHS = flags.DEFINE_integer(
  'photographs', 5000, 'Photographs to predict, at most.', lower_bound=1
)
_GALLERY = flags.DEFINE_integer(
  'gallery',
  1000,
  'Training photographs to look for neighbours among, at most.',
  lower_bound=1,
)


def main(argv: Sequence[str]) -> None:
  workdirs = argv[1:]
  if not workdirs:
    raise errors.UserError('say of which runs: report WORKDIR...')
  from etils import epath

  from alexnet_jax.drawing import canvas, run_report
  from alexnet_jax.runtime import writers
  from alexnet_jax.runtime.files import explained, write_atomically

  path = epath.Path(_OUTPUT.value or f'{workdirs[0]}/{writers.REPORT}')
  if path.is_dir():
    raise errors.UserError(f'{path} is a folder: choose another --output')
  names = canvas.short_names(workdirs)
  runs = list(map(_run, workdirs, names))
  text = run_report.make_report(runs, _PHOTOGRAPHS.value, _GALLERY.value)
  with explained(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text)
  print(f'{path} written', flush=True)


def _run(workdir: str, name: str):
  from alexnet_jax import library
  from alexnet_jax.analysis import examples
  from alexnet_jax.drawing import run_report
  from alexnet_jax.runtime import writers
  from alexnet_jax.runtime.checkpoint import Checkpointer
  from alexnet_jax.training import saved

  rows = writers.read_rows(workdir)
  model = library.load(workdir, _CHECKPOINT.value)
  with Checkpointer(f'{workdir}/checkpoints') as checkpointer:
    meta = saved.read_meta(checkpointer, model.step)
  assert meta is not None

  def open_data():
    return examples.open_data(model, _DATA_DIR.value)

  return run_report.Run(name, rows, meta, model, open_data)


if __name__ == '__main__':
  errors.run(main, words=errors.ANY)
