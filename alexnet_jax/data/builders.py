"""Data sets of square photographs, 256x256 by default: written once by
`prepare`, read by index.

A data set is a TFDS data set, `<data_dir>/<name>/<version>/`: ArrayRecord
shards and TFDS's own description, with the statistics of the training split
beside them. Neither writing nor reading needs TensorFlow, and TFDS alone can
read it too (`tfds.builder_from_directory`).
"""

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import itertools
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from etils import epath
from tensorflow_datasets.core import dataset_builder

from alexnet_jax.data import listing, photographs, records, sources, workers
from alexnet_jax.data.stats import Statistics, Sums
from alexnet_jax.runtime.errors import UserError, printable
from alexnet_jax.runtime.files import explained, folder, in_bucket
from alexnet_jax.runtime.writers import Progress

_STATISTICS = 'statistics.npz'
# The names of the pictures' files, a record each. They are not in the records
# of the pictures: what reads these for training has no use for them, and a
# damaged record must be called something, too.
_FILES = 'files_{}.array_record'
DESCRIPTION = 'dataset_info.json'  # TFDS's
FORMAT_VERSION = 3  # in the fingerprint of a data set
SHARD = 1024  # examples per file: 200 MB of raw pixels
# Photographs hardly compress (17 % with zstd) and are read 3 times slower then.
_OPTIONS = 'group_size:1,uncompressed'


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A prepared data set on disk."""

  name: str
  path: epath.Path
  class_names: tuple[str, ...]
  statistics: Statistics
  fingerprint: dict[str, Any]  # how it was made, with what, how many
  decoder: str | None  # of its JPEG records; None: they are raw

  @property
  def num_classes(self) -> int:
    return len(self.class_names)

  @property
  def image_size(self) -> int:
    """Side of the stored images, pixels."""
    return self.statistics.mean_image.shape[0]

  def num_examples(self, split: str) -> int:
    return self.fingerprint['examples'].get(split, 0)

  def source(self, split: str) -> Sequence[dict[str, Any]]:
    """Random access to {'image': uint8 [side, side, 3], 'label': int}.

    The arrays are read-only. The source can be pickled, for worker processes.

    Raises:
      UserError: no such split, or a file is missing or cut short; on reading,
        a record is damaged: which, and in which file.
    """
    if not self.num_examples(split):
      there = ', '.join(self.fingerprint['examples'])
      raise UserError(f'{self.name} has no split {split!r}: it has {there}')
    builder = tfds.builder_from_directory(self.path)
    shards = tuple(
      (file.filename, file.take)
      for file in builder.info.splits[split].file_instructions
    )
    for file, count in shards:
      records.check_shard(file, count)
    source = builder.as_data_source(
      split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
    )
    return records.Records(
      split,
      source,
      shards,
      str(self._files(split)),
      self.num_classes,
      self.image_size,
      self.decoder,
    )

  def files(self, split: str, indices: Sequence[int]) -> list[str]:
    """Which files some pictures were made of: paths below the folder that
    `prepare` was given, or what its source calls them, as one line each.

    Raises:
      UserError: the names are missing or damaged.
    """
    path = self._files(split)
    try:
      return records.read_files(str(path), indices)
    except (RuntimeError, IndexError) as error:  # ArrayRecord's
      raise records.damaged(path, error) from error

  def _files(self, split: str) -> epath.Path:
    return self.path / _FILES.format(split)


def open_dataset(
  name: str, data_dir: epath.PathLike, decoder: str = 'pillow'
) -> Dataset:
  """Opens a data set that `prepare` wrote.

  Args:
    name: of the data set.
    data_dir: where it is.
    decoder: of its records, if they are JPEG: one of `photographs.DECODERS`.

  Raises:
    UserError: there is none; the message has the command that makes it. Or
      its description is damaged, or another version wrote it, or the decoder
      is not installed.
  """
  if decoder != 'pillow' and not importlib.util.find_spec(decoder):
    raise UserError(
      f'config.data.decoder={decoder!r} is not installed: pip install '
      f"{decoder}, or take 'pillow'"
    )
  path = dataset_path(name, data_dir)
  if not is_there(path):
    arguments = {
      'shapes': '--source=shapes',
      'imagenet2012': '--source=imagenet2012 --input=FOLDER_OF_THE_TWO_TARS',
    }.get(name, f'--source=folder --input=FOLDER --name={name}')
    raise UserError(
      f'no data set {name} in {data_dir}: make it with python -m '
      f'alexnet_jax.prepare {arguments} --data_dir={data_dir}'
    )
  try:
    info = tfds.builder_from_directory(path).info
    version = info.metadata.get('format_version', 1)
    if version == FORMAT_VERSION:
      request = info.metadata['request']
      return Dataset(
        name=name,
        path=path,
        class_names=tuple(info.metadata['class_names']),
        statistics=Statistics.load(path / _STATISTICS),
        fingerprint=dict(info.metadata),
        decoder=decoder if request['encoding'] == 'jpeg' else None,
      )
  except Exception as error:  # damaged bytes may be anything
    raise records.damaged(path, error) from error
  raise UserError(
    f'{path} is of format {version}, and this program reads format '
    f'{FORMAT_VERSION}: prepare it anew with --overwrite'
  )


def dataset_path(name: str, data_dir: epath.PathLike) -> epath.Path:
  """Where a data set is, or would be."""
  return folder(data_dir) / name / str(Photographs.VERSION)


def is_there(path: epath.Path) -> bool:
  """Whether a data set is whole: in a bucket, its description came last."""
  return (path / DESCRIPTION if in_bucket(path) else path).exists()


class Photographs(dataset_builder.FileReaderBuilder):
  """The TFDS builder: a pool of processes makes the records, this process
  writes them in order, TFDS describes them.

  (`tfds.core.GeneratorBasedBuilder` makes and serializes every record in one
  process, and without TensorFlow holds them all in memory.)
  """

  VERSION = tfds.core.Version('1.0.0')

  def __init__(
    self,
    name: str,
    data_dir: epath.PathLike,
    found: sources.Source,
    request: dict[str, Any],
    skip_bad: bool = False,
    workers: int | None = None,
  ):
    self.name = name  # before TFDS makes paths of it
    self._found = found
    self._request = request
    self._skip_bad = skip_bad
    self._workers = workers or len(os.sched_getaffinity(0))
    self._skipped: list[str] = []
    self._sums = Sums()
    super().__init__(data_dir=data_dir)

  def _info(self) -> tfds.core.DatasetInfo:
    side, names = self._request['size'], self._found.class_names
    image = {
      'raw': tfds.features.Tensor(
        shape=(side, side, 3), dtype=np.uint8, encoding='bytes'
      ),
      'jpeg': tfds.features.Image(
        shape=(side, side, 3), encoding_format='jpeg'
      ),
    }[self._request['encoding']]
    return tfds.core.DatasetInfo(
      builder=self,
      description=f'{side}x{side} photographs for alexnet_jax',
      features=tfds.features.FeaturesDict(
        {'image': image, 'label': _label(names)}
      ),
      disable_shuffling=True,  # the order of reading is Grain's
      metadata=tfds.core.MetadataDict(
        format_version=FORMAT_VERSION,
        request=self._request,
        filter=photographs.FILTER,
        decoder=photographs.decoder(),
        versions={
          package: importlib.metadata.version(package)
          for package in ('alexnet_jax', 'tensorflow-datasets', 'array_record')
        },
        class_names=list(names),
        listing=self._found.listing,  # to see later changes
        examples={},
        skipped=[],
        unused=[str(unused) for unused in self._found.unused],
      ),
    )

  def _download_and_prepare(self, dl_manager, download_config=None) -> None:
    """Writes records, splits and statistics into TFDS's temporary folder."""
    examples = self._found.examples
    total = sum(map(len, examples.values()))
    with (
      Progress(total, 'images', self.name) as self._progress,
      workers.pool(self._workers) as submit,
    ):
      splits = [self._write(split, submit) for split in examples]
    self.info.set_splits(tfds.core.SplitDict(splits))
    self.info.metadata['skipped'] = self._skipped
    self.info.metadata['examples'] = {s.name: s.num_examples for s in splits}
    self._sums.statistics().save(self.data_path / _STATISTICS)

  def _write(self, split: str, submit: workers.Submit) -> tfds.core.SplitInfo:
    task = workers.Task(
      self.info.features,
      side=self._request['size'],
      jpeg=self._request['encoding'] == 'jpeg',
      measure=split == next(iter(self._found.examples)),  # training, if any
    )
    examples = self._found.examples[split]
    results = workers.in_order(submit, task, examples, 3 * self._workers)
    template = self._get_filename_template(split)
    files = template.sharded_filepaths(math.ceil(len(examples) / SHARD))
    lengths: list[int] = []
    labels: set[int] = set()
    with _writer(
      self.data_path / _FILES.format(split), 'group_size:256'
    ) as names:
      for file in files:
        lengths.append(0)
        with _writer(file, _OPTIONS) as writer:
          for result in itertools.islice(results, SHARD // workers.CHUNK):
            self._note(result)
            for record, name in zip(result.records, result.files, strict=True):
              writer.write(record)
              names.write(name)
            lengths[-1] += len(result.records)
            labels.update(result.labels)
    if not sum(lengths):
      raise UserError(f'{self.name}: not one {split} photograph is whole')
    for label in sorted({example.label for example in examples} - labels):
      listing.warn(
        f'{self.name}: no {split} photograph of '
        f'{self._found.class_names[label]} is whole: the class is empty'
      )
    return tfds.core.SplitInfo(
      name=split,
      shard_lengths=lengths,
      num_bytes=sum(file.stat().length for file in files),
      filename_template=template,
    )

  def _note(self, result: workers.Result) -> None:
    if result.problems and not self._skip_bad:
      raise UserError(
        f'{printable(result.problems[0])}. Mend or remove it, or leave out all '
        'such files with --skip_bad'
      )
    self._skipped += result.problems
    self._sums += result.sums
    skipped = f'{len(self._skipped)} skipped' if self._skipped else ''
    self._progress.update(len(result.records) + len(result.problems), skipped)

  def _log_download_bytes(self) -> None:
    """TFDS would speak of a download."""

  _log_download_done = _log_download_bytes


@contextlib.contextmanager
def _writer(
  file: epath.Path, options: str
) -> Iterator[array_record_module.ArrayRecordWriter]:
  writer = array_record_module.ArrayRecordWriter(str(file), options)
  yield writer
  with explained(file, RuntimeError):  # ArrayRecord's for any
    writer.close()


def _label(names: Sequence[str]) -> tfds.features.ClassLabel:
  """TFDS's feature of a class, with the names unless TFDS would change them:
  it strips the lines of the file that it keeps them in."""
  if any(name != name.strip() or not name for name in names):
    return tfds.features.ClassLabel(num_classes=len(names))
  return tfds.features.ClassLabel(names=names)
