"""AlexNet's layers in NumPy float64, from the formulas of the paper."""

import numpy as np


def windows(x: np.ndarray, size: int, stride: int, fill: float) -> np.ndarray:
  """Every window of [B, H, W, C], as [B, H', W', size, size, C].

  The last window may hang over the right and bottom edge, where it sees
  `fill`: 1 + ceil((n - size) / stride) positions.
  """
  height, width = (1 + int(np.ceil((n - size) / stride)) for n in x.shape[1:3])
  grown = np.full(
    (
      x.shape[0],
      (height - 1) * stride + size,
      (width - 1) * stride + size,
      x.shape[3],
    ),
    fill,
  )
  grown[:, : x.shape[1], : x.shape[2]] = x
  out = np.empty((x.shape[0], height, width, size, size, x.shape[3]))
  for i in range(height):
    for j in range(width):
      top, left = i * stride, j * stride
      out[:, i, j] = grown[:, top : top + size, left : left + size]
  return out


def conv(x, kernel, bias, stride, pad):
  """[B, H, W, in] with [k, k, in, out]: a sum over each window."""
  x = np.pad(x.astype(np.float64), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  patches = windows(x, kernel.shape[0], stride, 0.0)
  return np.tensordot(patches, kernel.astype(np.float64), 3) + bias


def lrn(x, size=5, k=2.0, alpha=1e-4, beta=0.75, alpha_over='sum'):
  """§3.3, channel by channel."""
  out = np.empty(x.shape, np.float64)
  if alpha_over == 'mean':
    alpha = alpha / size
  channels = x.shape[-1]
  for i in range(channels):
    low, high = max(0, i - size // 2), min(channels - 1, i + size // 2)
    total = (x[..., low : high + 1].astype(np.float64) ** 2).sum(-1)
    out[..., i] = x[..., i] / (k + alpha * total) ** beta
  return out


def max_pool(x, size=3, stride=2):
  """§3.4; windows round up."""
  return windows(x, size, stride, -np.inf).max((3, 4))


def forward(params, images, act=lambda x: np.maximum(x, 0), kept=0.5):
  """Figure 2, one tower after the other: every activation by name.

  Args:
    params: {'conv1': {'kernel': [2, ...], 'bias': [2, ...]}, ...}.
    images: [B, 224, 224, 3].
    kept: share of fc6's and fc7's units that training kept.
  """

  def weights(name, tower):
    kernel, bias = params[name]['kernel'], params[name]['bias']
    return kernel[tower].astype(np.float64), bias[tower].astype(np.float64)

  out = {}
  towers = range(len(params['conv1']['kernel']))

  def record(name, xs):
    out[name] = xs
    return xs

  def both(xs):
    return [np.concatenate(xs, axis=-1)] * len(xs)

  def convs(name, xs, stride=1, pad=0):
    return record(
      name,
      [act(conv(xs[t], *weights(name, t), stride, pad)) for t in towers],
    )

  xs = convs('conv1', [images] * len(towers), stride=4)
  xs = record('lrn1', [lrn(x) for x in xs])
  xs = record('pool1', [max_pool(x) for x in xs])
  xs = convs('conv2', xs, pad=2)
  xs = record('lrn2', [lrn(x) for x in xs])
  xs = record('pool2', [max_pool(x) for x in xs])
  xs = convs('conv3', both(xs), pad=1)
  xs = convs('conv4', xs, pad=1)
  xs = convs('conv5', xs, pad=1)
  xs = record('pool5', [max_pool(x) for x in xs])
  xs = [x.reshape(len(x), -1) for x in xs]
  for name in ('fc6', 'fc7'):
    joined = both(xs)
    products = []
    for t in towers:
      kernel, bias = weights(name, t)
      # §4.2: trained with half of them dropped, so half of each at test time.
      products.append(kept * act(joined[t] @ kernel + bias))
    xs = record(name, products)
  kernel = params['fc8']['kernel'].astype(np.float64)
  out['fc8'] = sum(xs[t] @ kernel[t] for t in towers) + params['fc8']['bias']
  return out


# The layers of the CIFAR-10 nets (cuda-convnet).


def avg_pool(x, size=3, stride=2):
  """Windows round up; the mean of the pixels inside the image."""
  return np.nanmean(windows(x, size, stride, np.nan), (3, 4))


def map_norm(x, size, k, alpha, beta):
  """x / (k + alpha / size^2 * the sum of squares around) ** beta, by place."""
  x = x.astype(np.float64)
  out = np.empty(x.shape)
  half = size // 2
  for i in range(x.shape[1]):
    for j in range(x.shape[2]):
      around = x[:, max(0, i - half) : i + half + 1]
      around = around[:, :, max(0, j - half) : j + half + 1]
      total = (around**2).sum((1, 2))
      out[:, i, j] = x[:, i, j] / (k + alpha / size**2 * total) ** beta
  return out


def local(x, kernel, bias, pad):
  """[B, H, W, in] with [H', W', k, k, in, out]: each place its own kernel."""
  x = np.pad(x.astype(np.float64), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  rows, columns, size = kernel.shape[:3]
  out = np.empty((len(x), rows, columns, kernel.shape[-1]))
  for i in range(rows):
    for j in range(columns):
      patch = x[:, i : i + size, j : j + size]
      out[:, i, j] = np.tensordot(patch, kernel[i, j], 3) + bias[i, j]
  return out
