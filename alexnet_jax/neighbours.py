r"""Finds the training photographs that look most alike to the network.

  python -m alexnet_jax.neighbours IMAGE... --workdir=runs/mine
  python -m alexnet_jax.neighbours --split=test --count=5

The right of figure 4 (§6): those whose features in fc7 are at the least
Euclidean distance. IMAGE is a file, a folder or a glob; without any, some of
--split are taken. Distances are printed, the photographs drawn in --output.
Computing the features of all training photographs takes a while: where
`features` has written them, give that file as --features.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags

from alexnet_jax.runtime import errors

_WORKDIR = flags.DEFINE_string(
  'workdir', 'runs/default', 'Folder of the run whose network is used.'
)
_CHECKPOINT = flags.DEFINE_string(
  'checkpoint', 'best', 'best, last or the number of a step.'
)
_SPLIT = flags.DEFINE_enum(
  'split',
  'test',
  ['train', 'validation', 'test'],
  'Without IMAGE: where photographs come from.',
)
_COUNT = flags.DEFINE_integer(
  'count', 5, 'Without IMAGE: how many.', lower_bound=1
)
_TOP = flags.DEFINE_integer('top', 6, 'Neighbours of each.', lower_bound=1)
_LAYER = flags.DEFINE_string('layer', 'fc7', 'Whose output is compared.')
_FEATURES = flags.DEFINE_string(
  'features', None, 'A file that `features` wrote, with this layer and network.'
)
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'Folder of data sets. Default: as the run had it.'
)
_OUTPUT = flags.DEFINE_string(
  'output', 'neighbours.png', 'The picture; its ending says the kind.'
)


def main(argv: Sequence[str]) -> None:
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
    images, captions = list(library.preprocess(files, model.side)), files
  else:
    some = examples.spread_indices(dataset, _SPLIT.value, _COUNT.value)
    images, labels = examples.read_examples(dataset, _SPLIT.value, some)
    captions = [model.readable_names[label] for label in labels]

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

  def called(place: int) -> str:
    name, label = known[place]
    return model.readable_names[label] if label >= 0 else name

  for caption, some, far in zip(captions, places, distances, strict=True):
    print(caption)
    for place, distance in zip(some, far, strict=True):
      print(f'  {distance:9.3f}  {called(place)}  ({known[place][0]})')
  fig = panels.neighbours(
    images,
    [[_open(dataset, known[place][0]) for place in row] for row in places],
    [caption.rpartition('/')[2] for caption in captions],
    [[called(place).rpartition('/')[2] for place in row] for row in places],
  )
  canvas.save(fig, _OUTPUT.value)


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
  """What a row of features was made of: SPLIT:INDEX, or a file."""
  from alexnet_jax import library
  from alexnet_jax.data import sources

  split, _, index = name.partition(':')
  if split in sources.SPLITS and index.isdecimal():
    return dataset.source(split)[int(index)]['image']
  return library.preprocess(name, dataset.image_size)[0]


if __name__ == '__main__':
  errors.run(main, words=errors.ANY)
