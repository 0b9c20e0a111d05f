"""Run #145's forward pass in NumPy float64, one line a layer.

Written from what its authors' program did (docs/as-it-ran.md), with nothing of
the package.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def forward(params, images: np.ndarray) -> np.ndarray:
  """Logits [B, classes], at test time.

  Args:
    params: {'conv1': {'kernel': [2, ...], 'bias': [2, ...]}, ...}.
    images: [B, size, size, 3], the mean subtracted.
  """
  kernels = {n: np.float64(layer['kernel']) for n, layer in params.items()}
  biases = {n: np.float64(layer['bias']) for n, layer in params.items()}

  def conv(name, t, x, stride=1, pad=0):
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    views = _windows(x, kernels[name].shape[1], stride, 0.0)  # [B,H,W,in,k,k]
    kernel = kernels[name][t].transpose(2, 0, 1, 3)  # [in, k, k, out]
    return np.tensordot(views, kernel, 3) + biases[name][t]

  def half(name, t, x):
    """With half of the units dropped, hence half of each (2.11)."""
    return 0.5 * relu(x @ kernels[name][t] + biases[name][t])

  maps = []
  for t in (0, 1):
    x = conv('conv1', t, np.float64(images), stride=4)  # 2.1: 55x55, linear
    x = relu(pool(across_maps(x)))  # 2.3: the ReLU comes last
    x = relu(conv('conv2', t, x, pad=2))
    maps.append(pool(within_map(across_maps(x))))  # 2.4
  both = np.concatenate(maps, -1)
  maps = []
  for t in (0, 1):
    x = relu(conv('conv3', t, both, pad=1))
    x = relu(conv('conv4', t, x, pad=1))
    x = pool(relu(conv('conv5', t, x, pad=1)))
    maps.append(x.reshape(len(x), -1))
  for name in ('fc6', 'fc7'):
    both = np.concatenate(maps, -1)
    maps = [half(name, t, both) for t in (0, 1)]
  # 2.12: whichever device reads both halves.
  whole = kernels['fc8'].reshape(-1, kernels['fc8'].shape[-1])
  return np.concatenate(maps, -1) @ whole + biases['fc8']


def relu(x):
  return np.maximum(x, 0)


def across_maps(x):
  """k=2, n=5, beta=0.75; 1e-4 divided by 5 for each of the squares (2.5)."""
  squares = np.pad(x**2, ((0, 0), (0, 0), (0, 0), (2, 2)))
  return x / (2 + 1e-4 / 5 * sliding_window_view(squares, 5, 3).sum(-1)) ** 0.75


def within_map(x):
  """5x5 pixels of one map; 1e-3 divided by 25, k=1 (2.4)."""
  squares = np.pad(x**2, ((0, 0), (2, 2), (2, 2), (0, 0)))
  total = sliding_window_view(squares, (5, 5), (1, 2)).sum((-1, -2))
  return x / (1 + 1e-3 / 25 * total) ** 0.75


def pool(x):
  """The largest of 3x3, every second pixel; rounded up (2.1)."""
  return _windows(x, 3, 2, -np.inf).max((-1, -2))


def _windows(x, size, stride, beyond):
  """[B, H, W, C] as [B, 1 + ceil((H - size) / stride), ., C, size, size]."""
  grow = [-(n - size) % stride for n in x.shape[1:3]]
  edges = ((0, 0), (0, grow[0]), (0, grow[1]), (0, 0))
  x = np.pad(x, edges, constant_values=beyond)
  return sliding_window_view(x, (size, size), (1, 2))[:, ::stride, ::stride]
