"""Measures of what a network has learned (§6): nearest neighbours, confusion,
and what a patch is worth."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from alexnet_jax.runtime.errors import UserError


def find_nearest(
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


class Verdicts(NamedTuple):
  """What a network says of photographs, an array [N] each.

  Attributes:
    labels: their classes.
    predicted: the most probable ones.
    right: the logarithm of the probability of `labels`.
    sure: the probability of `predicted`.
    rank: how many classes come before `labels`; 0: it is right.
  """

  labels: np.ndarray
  predicted: np.ndarray
  right: np.ndarray
  sure: np.ndarray
  rank: np.ndarray

  def summary(self) -> dict[str, float]:
    """'top1_error', 'top5_error', 'loss', as an evaluation has them."""
    errors = {f'top{k}_error': float((self.rank >= k).mean()) for k in (1, 5)}
    return {**errors, 'loss': float(-self.right.mean())}

  def hardest(self, label: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The places of those of a class with the least probability of it among
    the wrong ones, and of those with the least of whatever was predicted."""
    (here,) = np.nonzero(self.labels == label)
    wrong = here[self.rank[here] > 0]
    return tuple(  # type: ignore[return-value]
      some[np.argsort(by[some], kind='stable')[:count]]
      for some, by in ((wrong, self.right), (here, self.sure))
    )


def judge(logs: np.ndarray, labels: np.ndarray) -> Verdicts:
  """Of equal probabilities the first class counts, as in an evaluation.

  Args:
    logs: float [N, C], logarithms of the probabilities, which may be too small
      for numbers.
    labels: int [N].
  """
  right = np.take_along_axis(logs, labels[:, None], 1)
  before = np.arange(logs.shape[1]) < labels[:, None]
  ahead = (logs > right) | (logs == right) & before
  sure, predicted = np.exp(logs.max(1)), logs.argmax(1)
  return Verdicts(labels, predicted, right[:, 0], sure, ahead.sum(1))


def count_confusions(
  labels: np.ndarray, predicted: np.ndarray, classes: int
) -> np.ndarray:
  """int64 [C, C]: how often label i (row) was taken for j (column)."""
  pairs = np.asarray(labels) * classes + np.asarray(predicted)
  counts = np.bincount(pairs, minlength=classes * classes)
  return counts.reshape(classes, classes)


def measure_occlusion(
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
