"""Photographs of the data set that a run was trained on, to look at (§6)."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.analysis import measures
from alexnet_jax.data import builders, imagenet
from alexnet_jax.data.builders import Dataset
from alexnet_jax.runtime.fingerprints import fingerprint
from alexnet_jax.runtime.writers import Progress
from alexnet_jax.training import agreement
from alexnet_jax.training.state import with_statistics

BATCH = 32  # photographs looked at together


class Examples(NamedTuple):
  """Some photographs.

  Attributes:
    images: uint8 [side, side, 3] each.
    labels: their classes.
    files: which files they were made of.
  """

  images: list[np.ndarray]
  labels: list[int]
  files: list[str]


def spread_indices(dataset: Dataset, split: str, count: int) -> list[int]:
  """`count` examples at even distances: of all classes, as they are stored."""
  total = dataset.num_examples(split)
  count = min(count, total)
  return [(2 * i + 1) * total // (2 * count) for i in range(count)]


def open_data(model: Any, data_dir: str | None) -> Dataset:
  """The data set that a network was trained on.

  Args:
    model: `library.Model`.
    data_dir: folder of data sets; None: as the run had it.

  Raises:
    UserError: there is none of its name, or it has other classes, pictures of
      another size, or JPEG records whose decoder is not installed.
  """
  data = model.config.data
  decoder = data.get('decoder', 'pillow')
  dataset = builders.open_dataset(data.name, data_dir or data.dir, decoder)
  agreement.check_classes(
    'the network', model.class_names, dataset.class_names, model.step > 0
  )
  with_statistics(dataset, model.statistics)  # refuses, or warns
  return dataset


def describe(dataset: Dataset) -> str:
  """A short name for a data set: for its pictures and classes."""
  counts = dataset.fingerprint['examples']
  mean = np.asarray(dataset.statistics.mean_image)
  return fingerprint(list(dataset.class_names), dict(counts), mean)


def read_examples(
  dataset: Dataset, split: str, indices: Sequence[int]
) -> Examples:
  """The examples at some places of a split.

  Raises:
    UserError: there is no such split, or a record is damaged.
  """
  batches = read_batches(dataset, split, indices, max(1, len(indices)))
  return next(batches, Examples([], [], []))


def read_batches(
  dataset: Dataset, split: str, indices: Sequence[int], size: int = BATCH
) -> Iterator[Examples]:
  """`read_examples`, some at a time."""
  source = dataset.source(split)
  for start in range(0, len(indices), size):
    some = indices[start : start + size]
    records = [source[index] for index in some]
    images = [record['image'] for record in records]
    labels = [int(record['label']) for record in records]
    yield Examples(images, labels, dataset.files(split, some))


def read_named_batches(
  dataset: Dataset, split: str
) -> Iterator[tuple[list[np.ndarray], list[str], list[int]]]:
  """All of a split: photographs, names SPLIT:INDEX:FILE and labels."""
  start = 0
  everything = range(dataset.num_examples(split))
  for images, labels, files in read_batches(dataset, split, everything):
    names = [f'{split}:{i}:{file}' for i, file in enumerate(files, start)]
    yield images, names, labels
    start += len(images)


def in_one_program(
  run: Callable[[list[np.ndarray]], np.ndarray], images: Sequence[np.ndarray]
) -> np.ndarray:
  """What `run` gives for at most `BATCH` images: it is always given as many,
  so that it compiles once."""
  filled = [images[i % len(images)] for i in range(BATCH)]
  return run(filled)[: len(images)]


def judge(
  model: Any, dataset: Dataset, split: str, indices: Sequence[int]
) -> measures.Verdicts:
  """What a network, of `alexnet_jax.load`, says of some examples of a split:
  one central view each."""
  parts = []
  with Progress(len(indices), 'images', split) as progress:
    for images, labels, _ in read_batches(dataset, split, indices):
      logs = in_one_program(model.log_probabilities, images)
      parts.append(measures.judge(logs, np.array(labels)))
      progress.update(len(labels))
  return measures.Verdicts(*map(np.concatenate, zip(*parts, strict=True)))


class Case(NamedTuple):
  """A photograph, and what a network says of it."""

  image: np.ndarray  # uint8 [side, side, 3]
  file: str
  said: str  # the most probable class
  share: float  # its probability


@dataclasses.dataclass(frozen=True)
class Hard:
  """A class, and the photographs of it that a network finds hard."""

  name: str
  count: int  # photographs of it
  wrong: int  # of these
  most_wrong: list[Case]
  least_sure: list[Case]


def hardest(
  dataset: Dataset,
  split: str,
  found: measures.Verdicts,
  places: Sequence[int],
  most: int,
  each: int,
) -> list[Hard]:
  """The classes with the largest errors, the worst first.

  Args:
    dataset: of the photographs.
    split: of them.
    found: of `judge`.
    places: of them in the split.
    most: classes, at most.
    each: photographs of either kind, at most.
  """
  names = imagenet.shortened(imagenet.readable(dataset.class_names))
  counts = np.bincount(found.labels, minlength=dataset.num_classes)
  wrong = np.bincount(
    found.labels[found.rank > 0], minlength=dataset.num_classes
  )
  errors = wrong / np.maximum(counts, 1)
  worst = [k for k in np.argsort(-errors, kind='stable') if counts[k]][:most]

  def cases(some: np.ndarray) -> list[Case]:
    images, _, files = read_examples(dataset, split, [places[i] for i in some])
    said = [names[k] for k in found.predicted[some]]
    shares = map(float, found.sure[some])
    return list(map(Case, images, files, said, shares))

  return [
    Hard(
      names[k],
      int(counts[k]),
      int(wrong[k]),
      *map(cases, found.hardest(k, each)),
    )
    for k in worst
  ]
