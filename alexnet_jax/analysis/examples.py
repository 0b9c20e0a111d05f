"""Photographs of the data set that a run was trained on, to look at (§6)."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from alexnet_jax.data import builders
from alexnet_jax.data.builders import Dataset
from alexnet_jax.runtime.fingerprints import fingerprint
from alexnet_jax.training import saved

BATCH = 32  # photographs looked at together


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
    UserError: there is none of its name, or it has other classes.
  """
  data = model.config.data
  dataset = builders.open_dataset(data.name, data_dir or data.dir)
  saved.check_classes(
    'the network', model.class_names, dataset.class_names, model.step > 0
  )
  return dataset


def describe(dataset: Dataset) -> str:
  """A short name for a data set: for its pictures and classes."""
  counts = dataset.fingerprint['examples']
  mean = np.asarray(dataset.statistics.mean_image)
  return fingerprint(list(dataset.class_names), dict(counts), mean)


def read_examples(
  dataset: Dataset, split: str, indices: Iterable[int]
) -> tuple[list[np.ndarray], list[int]]:
  """Photographs uint8 [256, 256, 3], and their labels.

  Raises:
    UserError: there is no such split, or a record is damaged.
  """
  source = dataset.source(split)
  records = [source[index] for index in indices]
  images = [record['image'] for record in records]
  return images, [int(record['label']) for record in records]


def read_batches(
  dataset: Dataset, split: str, indices: Sequence[int]
) -> Iterator[tuple[list[np.ndarray], list[int]]]:
  """`read_examples`, some at a time."""
  for start in range(0, len(indices), BATCH):
    yield read_examples(dataset, split, indices[start : start + BATCH])


def read_named_batches(
  dataset: Dataset, split: str
) -> Iterator[tuple[list[np.ndarray], list[str], list[int]]]:
  """All of a split: photographs, names SPLIT:INDEX and labels."""
  names = (f'{split}:{i}' for i in itertools.count())
  everything = range(dataset.num_examples(split))
  for images, labels in read_batches(dataset, split, everything):
    yield images, list(itertools.islice(names, len(images))), labels
