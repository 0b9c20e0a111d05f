r"""Finds the training photographs that look most alike to the network.

  alexnet neighbours IMAGE... --workdir=runs/mine
  alexnet neighbours --split=test --count=5

The right of figure 4 (§6): those whose features in fc7 are at the least
Euclidean distance. IMAGE is a file, a folder or a glob; without any, some of
--split are taken. Distances are printed, the photographs drawn in --output; =
and blue mark those of the same class.
Computing the features of all training photographs takes a while: where
`features` has written them, give that file as --features.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags

from alexnet_jax.runtime import errors, options

_WORKDIR = options.workdir()
_CHECKPOINT = options.checkpoint()
_SPLIT = options.split('test', 'Without IMAGE: where photographs come from.')
_COUNT = flags.DEFINE_integer(
  'count', 5, 'Without IMAGE: how many.', lower_bound=1
)
_TOP = flags.DEFINE_integer('top', 6, 'Neighbours of each.', lower_bound=1)
_LAYER = options.layer('The layer whose output is compared, conv1 to fc8.')
_FEATURES = flags.DEFINE_string(
  'features', None, 'A file that `features` wrote, with this layer and network.'
)
_DATA_DIR = options.data_dir()
_OUTPUT = flags.DEFINE_string(
  'output', 'neighbours.png', 'The picture; its ending says the kind.'
)
_MARKS = {True: '=', False: ' ', None: ' '}  # the same class, another, unknown


def main(argv: Sequence[str]) -> None:
  if argv[1:]:
    errors.refuse_flags(['split', 'count'], 'photographs are named')
  from alexnet_jax import library
  from alexnet_jax.analysis import examples, measures
  from alexnet_jax.data import feature_files, sources
  from alexnet_jax.drawing import canvas, panels

  canvas.check_kind(_OUTPUT.value)
  files = sources.named(argv[1:])
  model = library.load(_WORKDIR.value, _CHECKPOINT.value)
  dataset = examples.open_data(model, _DATA_DIR.value)
  if _FEATURES.value:
    about = model.about(_LAYER.value)
    about['data set'] = examples.describe(dataset)
    feature_files.check(_FEATURES.value, about)
  if files:
    images = list(library.preprocess(files, model.side))
    heads = list(map(errors.printable, files))
    captions = [file.rpartition('/')[2] for file in heads]
    labels: list[int] = []
  else:
    some = examples.spread_indices(dataset, _SPLIT.value, _COUNT.value)
    images, labels, names = examples.read_examples(dataset, _SPLIT.value, some)
    captions = [
      f'{model.short_names[label]}\n{name}'
      for label, name in zip(labels, names, strict=True)
    ]
    heads = [caption.replace('\n', '  ') for caption in captions]

  known: list[tuple[str, int]] = []  # names and labels, by place

  def gallery() -> Iterator[Any]:
    path = _FEATURES.value
    parts = feature_files.read(path) if path else _compute(model, dataset)
    for part in parts:
      known.extend(zip(part.names, part.labels, strict=True))
      yield part.features

  distances, places = measures.find_nearest(
    model.features(images, _LAYER.value), gallery(), _TOP.value
  )
  found: list[list[panels.Neighbour]] = []
  for i, (head, row) in enumerate(zip(heads, places, strict=True)):
    print(head)
    found.append([])
    for place, distance in zip(row, distances[i], strict=True):
      name, label = known[place]
      *_, file = _split_name(name)
      same = label == labels[i] if labels and label >= 0 else None
      said = model.readable_names[label] if label >= 0 else ''
      print(f'{_MARKS[same]} {distance:9.3f}  {said}  {file}')
      square = _open(dataset, name)
      found[-1].append(panels.Neighbour(square, said, file, distance, same))
  fig = panels.neighbours(images, captions, found)
  title = f'{_LAYER.value} of {_WORKDIR.value}, {model.stage}'
  if not files:
    among = {_split_name(name)[0] or 'named files' for name, _ in known}
    title += f'; first photographs of {_SPLIT.value}, then of '
    title += ' and '.join(sorted(among))
  canvas.save(canvas.titled(fig, title), _OUTPUT.value)


def _compute(model: Any, dataset: Any) -> Iterator[Any]:
  from alexnet_jax.analysis import examples
  from alexnet_jax.data import feature_files
  from alexnet_jax.runtime.writers import Progress

  total = dataset.num_examples('train')
  with Progress(total, 'images', 'train') as progress:
    for images, names, labels in examples.read_named_batches(dataset, 'train'):
      found = model.features(images, _LAYER.value)
      yield feature_files.Part(found, names, labels)
      progress.update(len(names))


def _open(dataset: Any, name: str) -> Any:
  """What a row of features was made of."""
  from alexnet_jax import library

  split, index, file = _split_name(name)
  if split:
    return dataset.source(split)[int(index)]['image']
  return library.preprocess(file, dataset.image_size)[0]


def _split_name(name: str) -> tuple[str, str, str]:
  """(split, index, file) of SPLIT:INDEX:FILE; ('', '', file) of a file."""
  from alexnet_jax.data import sources

  split, index, file = [*name.split(':', 2), '', ''][:3]
  known = split in sources.SPLITS and index.isdecimal()
  return (split, index, file) if known else ('', '', name)


if __name__ == '__main__':
  errors.run(main, words=errors.ANY)
