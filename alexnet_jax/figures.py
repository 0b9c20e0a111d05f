r"""Draws the network and what it has learned.

  python -m alexnet_jax.figures architecture --config=configs/imagenet2012.py
  python -m alexnet_jax.figures kernels WORKDIR
  python -m alexnet_jax.figures curves WORKDIR...
  python -m alexnet_jax.figures predictions|confusion WORKDIR --split=test
  python -m alexnet_jax.figures activations|occlusion WORKDIR [IMAGE...]

architecture: figure 2, the towers with shapes, neurons, parameters and what
they send each other; a WORKDIR in place of --config will do. kernels: figure 3,
what conv1 has learned, a tower above the other. curves: loss, errors and rate,
of one run or several. predictions: figure 4, left. confusion: which class is
taken for which, over a split. activations: the strongest maps of each layer for
one photograph. occlusion: where hiding a patch takes the most of the
probability away.

Photographs are named, or taken from --split of the run's data set. The picture
goes to --output; its ending says the kind: .png, .jpg, .svg or .pdf.
"""

import inspect
from collections.abc import Callable, Sequence

from absl import flags
from ml_collections import config_flags

from alexnet_jax.runtime import errors

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'architecture: what to draw, such as configs/default.py.'
)
_CLASSES = flags.DEFINE_integer(
  'classes', 1000, 'architecture: outputs of fc8.', lower_bound=1
)
_OUTPUT = flags.DEFINE_string(
  'output', None, 'The file to write. Default: WORKDIR/<what>.png.'
)
_CHECKPOINT = flags.DEFINE_string(
  'checkpoint', 'best', 'best, last or the number of a step.'
)
_SPLIT = flags.DEFINE_enum(
  'split',
  'validation',
  ['train', 'validation', 'test'],
  'Where photographs come from that are not named.',
)
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'Folder of data sets. Default: as the run had it.'
)
_COUNT = flags.DEFINE_integer(
  'count', None, 'How many photographs of the split.', lower_bound=1
)


def main(argv: Sequence[str]) -> None:
  commands: dict[str, Callable] = {
    'architecture': _architecture,
    'kernels': _kernels,
    'curves': _curves,
    'predictions': _predictions,
    'confusion': _confusion,
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
  return panels.kernels(mosaic, model.table.towers)


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
  images, labels = _photographs(model)
  names = model.readable_names
  return panels.predictions(
    images,
    model.predict(images),
    names,
    [names[label] for label in labels],
    labels,
  )


def _confusion(workdir: str):
  import numpy as np

  from alexnet_jax.analysis import examples, measures
  from alexnet_jax.drawing import charts
  from alexnet_jax.runtime.writers import Progress

  model = _load(workdir)
  dataset = examples.open_data(model, _DATA_DIR.value)
  total = dataset.num_examples(_SPLIT.value)
  labels, predicted = [], []
  with Progress(total, 'images', _SPLIT.value) as progress:
    for images, those in examples.read_batches(
      dataset, _SPLIT.value, range(total)
    ):
      labels += those
      predicted += model.predict(images).argmax(1).tolist()
      progress.update(len(images))
  counts = measures.count_confusions(
    np.array(labels), np.array(predicted), len(model.class_names)
  )
  return charts.confusion(counts, model.readable_names)


def _activations(workdir: str, *files: str):
  import numpy as np

  from alexnet_jax.drawing import panels

  model = _load(workdir)
  images, _ = _photographs(model, files, 1)
  view = model.preprocess(images[:1])[0]
  maps = {
    name: np.asarray(values[0])
    for name, values in model.activations(view).items()
    if name.startswith('conv')
  }
  return panels.activations(_seen(model, images[0]), maps, model.table.towers)


def _occlusion(workdir: str, *files: str):
  import jax
  import numpy as np

  from alexnet_jax.analysis import measures
  from alexnet_jax.drawing import panels

  model = _load(workdir)
  images, labels = _photographs(model, files, 4)
  views = np.asarray(model.preprocess(images)[0])
  whole = model.predict(images)
  classes = labels if labels else whole.argmax(1).tolist()
  drops, captions = [], []

  def softmax(x):
    return np.asarray(jax.nn.softmax(model(x)))

  for view, probabilities, label in zip(views, whole, classes, strict=True):
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
    captions.append(f'{model.readable_names[label]} {probabilities[label]:.0%}')
  return panels.occlusion(
    [_seen(model, image) for image in images], drops, captions
  )


def _load(workdir: str):
  from alexnet_jax import library

  return library.load(workdir, _CHECKPOINT.value)


def _photographs(model, files: Sequence[str] = (), count: int | None = None):
  """Those named, or some of the split with their labels."""
  from alexnet_jax import library
  from alexnet_jax.analysis import examples
  from alexnet_jax.data import sources

  if files:
    return list(library.preprocess(sources.named(files), model.side)), []
  dataset = examples.open_data(model, _DATA_DIR.value)
  count = _COUNT.value or count or 8
  some = examples.spread_indices(dataset, _SPLIT.value, count)
  return examples.read_examples(dataset, _SPLIT.value, some)


def _seen(model, image):
  """The central view of a photograph, in colours for people."""
  size = model.augment.crop_size
  low = (len(image) - size) // 2
  return image[low : low + size, low : low + size]


if __name__ == '__main__':
  errors.run(main, words=errors.ANY)
