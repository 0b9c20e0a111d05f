"""Looking inside (§6): nearest neighbours, confusion, what a patch is worth,
how colourful kernels are."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from alexnet_jax.data import builders
from alexnet_jax.data.builders import Dataset
from alexnet_jax.runtime.errors import UserError

BATCH = 32  # photographs looked at together


def open_data(
  config: ml_collections.ConfigDict, data_dir: str | None = None
) -> Dataset:
  """The data set a run was trained on, in its folder or in another.

  Raises:
    UserError: it is not there.
  """
  return builders.open_dataset(config.data.name, data_dir or config.data.dir)


def spread(dataset: Dataset, split: str, count: int) -> list[int]:
  """`count` examples at even distances: of all classes, as they are stored."""
  total = dataset.num_examples(split)
  count = min(count, total)
  return [(2 * i + 1) * total // (2 * count) for i in range(count)]


def read(
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


def in_batches(
  dataset: Dataset, split: str, indices: Sequence[int], size: int = BATCH
) -> Iterator[tuple[list[np.ndarray], list[int]]]:
  """`read`, some at a time."""
  for start in range(0, len(indices), size):
    yield read(dataset, split, indices[start : start + size])


def named_batches(
  dataset: Dataset, split: str
) -> Iterator[tuple[list[np.ndarray], list[str], list[int]]]:
  """All of a split: photographs, names SPLIT:INDEX and labels."""
  names = (f'{split}:{i}' for i in itertools.count())
  everything = range(dataset.num_examples(split))
  for images, labels in in_batches(dataset, split, everything):
    yield images, list(itertools.islice(names, len(images))), labels


def nearest(
  queries: np.ndarray, gallery: Iterable[np.ndarray], count: int
) -> tuple[np.ndarray, np.ndarray]:
  """The vectors at the least Euclidean distance of each query (§6).

  Args:
    queries: [Q, D].
    gallery: vectors [n, D], some at a time.
    count: how many to find.

  Returns:
    Distances float64 [Q, count], ascending, and the places int64 [Q, count]
    in the gallery; of equals the first.

  Raises:
    UserError: the gallery has fewer, or vectors of another length.
  """
  queries = queries.astype(np.float64)
  distances = np.empty((len(queries), 0))
  places = np.empty((len(queries), 0), np.int64)
  seen = 0
  for part in gallery:
    if part.shape[1:] != queries.shape[1:]:
      raise UserError(
        f'features of length {part.shape[1]} are not of this network and '
        f'layer: those here have {queries.shape[1]}'
      )
    part = part.astype(np.float64)
    # One row after another: differences, for small distances of large vectors.
    new = np.stack([np.sqrt(((part - q) ** 2).sum(1)) for q in queries])
    distances = np.concatenate([distances, new], 1)
    here = np.broadcast_to(np.arange(seen, seen + len(part)), new.shape)
    places = np.concatenate([places, here], 1)
    seen += len(part)
    order = np.argsort(distances, 1, kind='stable')[:, :count]
    distances = np.take_along_axis(distances, order, 1)
    places = np.take_along_axis(places, order, 1)
  if seen < count:
    raise UserError(f'{seen} photographs to look among, {count} wanted')
  return distances, places


def confusion(
  labels: np.ndarray, predicted: np.ndarray, classes: int
) -> np.ndarray:
  """int64 [C, C]: how often label i (row) was taken for j (column)."""
  pairs = np.asarray(labels) * classes + np.asarray(predicted)
  counts = np.bincount(pairs, minlength=classes * classes)
  return counts.reshape(classes, classes)


def occlusion(
  probabilities: Callable[[np.ndarray], np.ndarray],
  view: np.ndarray,
  label: int,
  patch: int = 48,
  stride: int = 16,
) -> np.ndarray:
  """How much of a class's probability hiding a patch takes away.

  (Zeiler and Fergus, *Visualizing and Understanding Convolutional Networks*,
  2014, §4.2.)

  Args:
    probabilities: of views [n, S, S, 3], [n, C].
    view: float32 [S, S, 3], the mean subtracted: a patch becomes 0, the mean.
    label: the class.
    patch: side of what is hidden, pixels.
    stride: between two places of it, centred from edge to edge.

  Returns:
    [P, P], with P = ceil(S / stride): probability of the whole view less that
    of the view whose patch around this place is hidden.
  """
  size = len(view)
  places = range(stride // 2, size, stride)
  hidden = []
  for y in places:
    for x in places:
      copy = view.copy()
      top, left = max(0, y - patch // 2), max(0, x - patch // 2)
      copy[top : y + patch // 2, left : x + patch // 2] = 0
      hidden.append(copy)
  values = probabilities(np.stack([view, *hidden]))[:, label]
  return (values[0] - values[1:]).reshape(len(places), len(places))


def colour(kernels: np.ndarray) -> np.ndarray:
  """The share of each kernel's energy that is outside the grey axis.

  In figure 3 the kernels of one tower are "largely color-agnostic", those of
  the other "largely color-specific". Energy is the sum of squares; that of a
  pixel along grey is its share along (1, 1, 1). A grey kernel has 0, one of
  one channel 2/3, as random weights have, one that compares two channels 1.

  Args:
    kernels: [T, h, w, 3, F].

  Returns:
    float64 [T, F]; 0 for a kernel that is 0.
  """
  kernels = kernels.astype(np.float64)
  whole = np.square(kernels).sum((1, 2, 3))
  grey = 3 * np.square(kernels.mean(3)).sum((1, 2))
  return (whole - grey) / np.where(whole, whole, 1)


def flat(tree: Mapping[str, Any], name: str = '') -> dict[str, Any]:
  """{'a': {'b': 1}} as {'a.b': 1}."""
  fields: dict[str, Any] = {}
  for key, value in tree.items():
    inner = isinstance(value, Mapping)
    fields |= flat(value, f'{name}{key}.') if inner else {name + key: value}
  return fields
