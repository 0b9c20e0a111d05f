r"""Writes what a layer makes of photographs: fc7's 4096 numbers, or others.

  alexnet features --split=train --output=train.array_record
  alexnet features IMAGE... --layer=fc6 --output=mine.npy

IMAGE is a file, a folder or a glob; without any, --split of the run's data set
is taken. A row is the central view of one photograph. An ArrayRecord has
`tf.train.Example`s with features, name and label; beside an .npy file, [N, D]
float32, a .tsv file has a label and a name on each line. OUTPUT.json says of
what layer, step, network, preprocessing and data set the features are.
`neighbours` reads either, and refuses those of another one.
"""

from collections.abc import Iterator, Sequence

from absl import flags

from alexnet_jax.runtime import errors, options

_WORKDIR = options.workdir()
_CHECKPOINT = options.checkpoint()
_LAYER = options.layer("A layer's name, conv1 to fc8; maps are flattened.")
_SPLIT = options.split(
  'train', "Without IMAGE: what to take of the run's data set."
)
_DATA_DIR = options.data_dir()
_OUTPUT = flags.DEFINE_string(
  'output', None, 'File to write: *.array_record or *.npy.', required=True
)


def main(argv: Sequence[str]) -> int:
  if argv[1:]:
    errors.refuse_flags(['split', 'data_dir'], 'photographs are named')
  from alexnet_jax import library
  from alexnet_jax.analysis import examples
  from alexnet_jax.data import feature_files, sources
  from alexnet_jax.runtime.writers import Progress

  feature_files.check_kind(_OUTPUT.value)
  files = sources.named(argv[1:])
  model = library.load(_WORKDIR.value, _CHECKPOINT.value)
  problems: list[str] = []
  if files:
    total, data_set = len(files), None
    batches = _read_files(files, model.side, problems)
  else:
    dataset = examples.open_data(model, _DATA_DIR.value)
    batches = examples.read_named_batches(dataset, _SPLIT.value)
    total = dataset.num_examples(_SPLIT.value)
    data_set = examples.describe(dataset)

  def parts() -> Iterator[feature_files.Part]:
    for images, names, labels in batches:
      found = model.features(images, _LAYER.value)
      yield feature_files.Part(found, names, labels)
      progress.update(len(names))
    if len(problems) == total:
      raise errors.UserError('not one of these is an image: ' + problems[0])

  with Progress(total, 'images') as progress:
    about = {**model.about(_LAYER.value), 'data set': data_set}
    rows = feature_files.write(_OUTPUT.value, parts(), about)
  print(f'{_OUTPUT.value}: {rows:,} rows of {_LAYER.value}', flush=True)
  for problem in problems:
    errors.refuse(problem)
  return 2 if problems else 0


def _read_files(
  files: Sequence[str], side: int, problems: list[str]
) -> Iterator[tuple]:
  from alexnet_jax import library
  from alexnet_jax.data import given

  for start in range(0, len(files), library.BATCH):
    some = files[start : start + library.BATCH]
    if good := given.read_good(some, side, problems):
      names, images = zip(*good, strict=True)
      yield list(images), names, [-1] * len(names)


if __name__ == '__main__':
  errors.run(main, words=errors.ANY)
