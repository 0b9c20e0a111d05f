r"""Draws the network and what it has learned.

  alexnet figures architecture --config=configs/imagenet2012.py
  alexnet figures kernels WORKDIR
  alexnet figures curves WORKDIR...
  alexnet figures predictions|confusion|losses WORKDIR
  alexnet figures activations WORKDIR [IMAGE]
  alexnet figures occlusion WORKDIR [IMAGE...]

architecture: figure 2, the towers with shapes, neurons, parameters and what
they send each other; a WORKDIR in place of --config will do. kernels: figure 3,
what conv1 has learned, a tower above the other. curves: loss, errors and rate,
of one run or several. predictions: figure 4, left. confusion: which class is
taken for which, over a split. losses: the photographs of a split that the
network is most wrong about, and least sure of, class by class. activations: the
strongest maps of each layer for one photograph. occlusion: where hiding a patch
takes the most of the probability away.

Photographs are named, or taken from --split of the run's data set. The picture
goes to --output; its ending says the kind: .png, .jpg, .svg or .pdf.
"""

import inspect
from collections.abc import Callable, Sequence

from absl import flags
from ml_collections import config_flags

from alexnet_jax.runtime import errors, options

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'architecture: what to draw, such as configs/default.py.'
)
_CLASSES = options.classes('architecture: outputs of fc8.')
_OUTPUT = flags.DEFINE_string(
  'output', None, 'The file to write. Default: WORKDIR/<what>.png.'
)
_CHECKPOINT = options.checkpoint()
_SPLIT = options.split(
  'validation', 'Where photographs come from that are not named.'
)
_DATA_DIR = options.data_dir()
_COUNT = flags.DEFINE_integer(
  'count',
  None,
  'How many photographs of the split; of losses, how many classes.',
  lower_bound=1,
)


def main(argv: Sequence[str]) -> None:
  commands: dict[str, Callable] = {
    'architecture': _architecture,
    'kernels': _kernels,
    'curves': _curves,
    'predictions': _predictions,
    'confusion': _confusion,
    'losses': _losses,
    'activations': _activations,
    'occlusion': _occlusion,
  }
  what, *words = argv[1:] or ['']
  if what not in commands:
    raise errors.UserError(f'say what to draw: {", ".join(commands)}')
  from alexnet_jax.drawing import canvas

  if not words and what != 'architecture':
    raise errors.UserError(f'say of which run: figures {what} WORKDIR')
  try:
    inspect.signature(commands[what]).bind(*words)
  except TypeError:
    raise errors.UserError(
      f'figures {what} does not take {len(words)} words: see --help'
    ) from None
  pictures = {'split', 'data_dir', 'count'} if not words[1:] else set()
  used = {
    'architecture': {'config', 'classes'} if not words else {'checkpoint'},
    'kernels': {'checkpoint'},
    'curves': set(),
    'confusion': {'checkpoint', 'split', 'data_dir'},
    'activations': {'checkpoint', *(pictures - {'count'})},
  }.get(what, {'checkpoint', *pictures})
  every = {'config', 'classes', 'checkpoint', 'split', 'data_dir', 'count'}
  errors.refuse_flags(sorted(every - used), f'{what} has no use for it')
  output = _OUTPUT.value or '/'.join([*words[:1], f'{what}.png'])
  canvas.check_kind(output)
  canvas.save(commands[what](*words), output)


def _architecture(workdir: str = ''):
  from alexnet_jax.analysis import communication
  from alexnet_jax.drawing import figure2
  from alexnet_jax.models.describe import describe
  from alexnet_jax.training.settings import configure

  config, classes = _CONFIG.value, _CLASSES.value
  if workdir:
    model = _load(workdir)
    config, classes = model.config, len(model.class_names)
  if config is None:
    raise errors.UserError('say of what: a WORKDIR, or --config=FILE')
  settings = configure(config)
  table, size = settings.model, settings.augment.crop_size
  layers = describe(table, classes, size)
  # A tower on each device, whatever `config.mesh` says.
  needs = communication.needed_bytes(settings, classes, spread=table.towers)
  return figure2.draw_network(layers, needs, size)


def _kernels(workdir: str):
  from alexnet_jax.analysis import pictures
  from alexnet_jax.drawing import panels

  model = _load(workdir)
  mosaic = pictures.conv1_kernels(model.params)
  return _titled(panels.kernels(mosaic, model.table.towers), workdir, model)


def _curves(*workdirs: str):
  from alexnet_jax.drawing import canvas, charts
  from alexnet_jax.runtime import writers

  rows = map(writers.read_rows, workdirs)
  return charts.curves(
    dict(zip(canvas.short_names(workdirs), rows, strict=True))
  )


def _predictions(workdir: str):
  from alexnet_jax.drawing import panels

  model = _load(workdir)
  images, labels, files = _photographs(model)
  names = model.short_names
  fig = panels.predictions(
    images,
    model.predict(images),
    names,
    [
      f'{names[label]}\n{file}'
      for label, file in zip(labels, files, strict=True)
    ],
    labels,
  )
  return _titled(fig, workdir, model, _SPLIT.value)


def _confusion(workdir: str):
  from alexnet_jax.analysis import examples, measures
  from alexnet_jax.drawing import charts

  model = _load(workdir)
  dataset = examples.open_data(model, _DATA_DIR.value)
  everything = range(dataset.num_examples(_SPLIT.value))
  found = examples.judge(model, dataset, _SPLIT.value, everything)
  names = model.short_names
  counts = measures.count_confusions(found.labels, found.predicted, len(names))
  fig = charts.confusion(counts, names)
  return _titled(fig, workdir, model, _SPLIT.value)


def _losses(workdir: str):
  from alexnet_jax.analysis import examples
  from alexnet_jax.drawing import panels

  model, each = _load(workdir), 4
  dataset = examples.open_data(model, _DATA_DIR.value)
  everything = range(dataset.num_examples(_SPLIT.value))
  found = examples.judge(model, dataset, _SPLIT.value, everything)
  worst = examples.hardest(
    dataset, _SPLIT.value, found, everything, _COUNT.value or 10, each
  )
  return _titled(panels.losses(worst, each), workdir, model, _SPLIT.value)


def _activations(workdir: str, file: str = ''):
  import numpy as np

  from alexnet_jax.drawing import panels

  model = _load(workdir)
  images, _, (name, *more) = _photographs(model, [file] if file else [], 1)
  if more:
    raise errors.UserError(f'activations: {file} is {1 + len(more)} images')
  view = model.preprocess(images[:1])[0]
  kernels = {row.name for row in model.table.convs}
  maps = {
    name: np.asarray(values[0])
    for name, values in model.activations(view).items()
    if values.ndim == 4 and name in kernels
  }
  view = _seen(model, images[0])
  fig = panels.activations(view, maps, model.table.towers)
  return _titled(fig, workdir, model, name)


def _occlusion(workdir: str, *files: str):
  import jax
  import numpy as np

  from alexnet_jax.analysis import measures
  from alexnet_jax.drawing import panels

  model = _load(workdir)
  images, labels, named = _photographs(model, files, 4)
  views = np.asarray(model.preprocess(images)[0])
  whole = model.predict(images)
  classes = labels if labels else whole.argmax(1).tolist()
  drops, captions = [], []

  def softmax(x):
    return np.asarray(jax.nn.softmax(model(x)))

  for view, probabilities, label, file in zip(
    views, whole, classes, named, strict=True
  ):
    drops.append(
      measures.measure_occlusion(
        softmax,
        view,
        label,
        # Of a view of 224, patches of 48 every 16 pixels.
        patch=max(2, 3 * len(view) // 14),
        stride=max(1, len(view) // 14),
      )
    )
    captions.append(
      f'{model.short_names[label]}: {probabilities[label]:.0%}\n{file}'
    )
  seen = [_seen(model, image) for image in images]
  fig = panels.occlusion(seen, drops, captions)
  return _titled(fig, workdir, model, '' if files else _SPLIT.value)


def _load(workdir: str):
  from alexnet_jax import library

  return library.load(workdir, _CHECKPOINT.value)


def _photographs(model, files: Sequence[str] = (), count: int | None = None):
  """`Examples`: those named, without labels, or some of the split."""
  from alexnet_jax import library
  from alexnet_jax.analysis import examples
  from alexnet_jax.data import sources

  if files:
    named = sources.named(files)
    squares = list(library.preprocess(named, model.side))
    return examples.Examples(squares, [], list(map(errors.printable, named)))
  dataset = examples.open_data(model, _DATA_DIR.value)
  count = _COUNT.value or count or 8
  some = examples.spread_indices(dataset, _SPLIT.value, count)
  return examples.read_examples(dataset, _SPLIT.value, some)


def _titled(fig, workdir: str, model, what: str = ''):
  """The figure with the run above it, and a split or a file of it."""
  from alexnet_jax.drawing import canvas

  (name,) = canvas.short_names([workdir])
  what = f' · {model.config.data.name}, {what}' if what else ''
  return canvas.titled(fig, f'{name}, {model.stage}{what}')


def _seen(model, image):
  """The central view of a photograph, in colours for people."""
  size = model.augment.crop_size
  low = (len(image) - size) // 2
  return image[low : low + size, low : low + size]


if __name__ == '__main__':
  errors.run(main, words=errors.ANY)
