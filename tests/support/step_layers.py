"""The layers of `step_oracle` in NumPy float64, derivatives by hand.

Each is a function of arrays that returns its values, and its pull: what takes
the gradient by the values to the gradients by each of these arrays.
"""

import numpy as np
from oracle import windows


def overlap(parts: np.ndarray, shape: tuple, stride: int) -> np.ndarray:
  """What `windows` takes apart, added up where windows overlap."""
  _, height, width, size, _, _ = parts.shape
  rows, columns = ((n - 1) * stride + size for n in (height, width))
  grown = np.zeros((shape[0], rows, columns, shape[3]))
  for i in range(height):
    for j in range(width):
      top, left = i * stride, j * stride
      grown[:, top : top + size, left : left + size] += parts[:, i, j]
  return grown[:, : shape[1], : shape[2]]


def conv(x, kernel, bias, *, stride, pad):
  padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  patches = windows(padded, kernel.shape[0], stride, 0.0)

  def pull(g):
    by_patches = np.tensordot(g, kernel, ((3,), (3,)))
    by_padded = overlap(by_patches, padded.shape, stride)
    return (
      by_padded[:, pad : pad + x.shape[1], pad : pad + x.shape[2]],
      np.tensordot(patches, g, ((0, 1, 2), (0, 1, 2))),
      g.sum((0, 1, 2)),
    )

  return np.tensordot(patches, kernel, 3) + bias, pull


def dense(x, kernel, bias):
  return x @ kernel + bias, lambda g: (g @ kernel.T, x.T @ g, g.sum(0))


def relu(x):
  return np.maximum(x, 0), lambda g: (g * (x > 0),)


def max_pool(x, *, window, stride):
  """The gradient goes to the first of the largest."""
  seen = windows(x, window, stride, -np.inf)
  flat = seen.reshape(*seen.shape[:3], -1, x.shape[3])
  where = flat.argmax(3)[:, :, :, None]

  def pull(g):
    parts = np.zeros(flat.shape)
    np.put_along_axis(parts, where, g[:, :, :, None], 3)
    return (overlap(parts.reshape(seen.shape), x.shape, stride),)

  return np.take_along_axis(flat, where, 3)[:, :, :, 0], pull


def _normalize(x, around, k, alpha, beta):
  """x / d ** beta, d = k + alpha * (sum of the squares around); a place is
  around those that are around it."""
  d = k + alpha * around(x**2)

  def pull(g):
    inner = around(g * x * d ** (-beta - 1))
    return (g * d**-beta - 2 * alpha * beta * x * inner,)

  return x * d**-beta, pull


def lrn(x, *, size, k, alpha, beta, alpha_over):
  """§3.3, over the maps that `x` has."""
  number = np.arange(x.shape[-1])
  near = (abs(number[:, None] - number) <= size // 2).astype(np.float64)
  alpha = {'sum': alpha, 'mean': alpha / size}[alpha_over]
  return _normalize(x, lambda a: a @ near, k, alpha, beta)


def map_norm(x, *, size, k, alpha, beta):
  """Over size x size places of one map."""

  def around(a):
    for axis in (1, 2):
      place = np.arange(a.shape[axis])
      near = (abs(place[:, None] - place) <= size // 2).astype(np.float64)
      a = np.moveaxis(np.tensordot(a, near, ((axis,), (0,))), -1, axis)
    return a

  return _normalize(x, around, k, alpha / size**2, beta)


def times(x, *, factor):
  """Dropout: by a mask in training, by the share that is kept at test time."""
  return x * factor, lambda g: (g * factor,)


def flatten(x):
  return x.reshape(len(x), -1), lambda g: (g.reshape(x.shape),)


def concat(*xs):
  ends = np.cumsum([x.shape[-1] for x in xs])[:-1]
  return np.concatenate(xs, -1), lambda g: np.split(g, ends, -1)


def part(x, *, start, width):
  def pull(g):
    whole = np.zeros(x.shape)
    whole[..., start : start + width] = g
    return (whole,)

  return x[..., start : start + width], pull


def total(*xs):
  return sum(xs), lambda g: [g] * len(xs)


def cross_entropy(logits, *, labels):
  """Of each example, in nats."""
  shifted = logits - logits.max(1, keepdims=True)
  logs = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
  right = np.eye(logits.shape[1])[labels]
  by_logits = np.exp(logs) - right
  return -(logs * right).sum(1), lambda g: (g[:, None] * by_logits,)


def rows_of(bias, *, rows):
  return np.tile(bias, (rows, 1)), lambda g: (g.sum(0),)
