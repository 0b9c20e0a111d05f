"""What the first layer has learned (figure 3): its kernels, their colour."""

import numpy as np
from flax import nnx
from jax.experimental import multihost_utils


def conv1_kernels(params: nnx.State) -> np.ndarray:
  """The kernels of conv1, tower above tower as in figure 3.

  Each is scaled to its own range, so that faint ones show, too.

  Args:
    params: of the network; with several processes all call this.

  Returns:
    uint8 [H, W, 3], kernels enlarged three times; the 48 of a tower in three
    rows of 16, fewer in a mosaic of about that form.
  """
  kernels = _conv1(params)
  towers, size, _, channels, features = kernels.shape
  rows = max(round((3 / 16 * features) ** 0.5), -(-features // 16))
  columns = -(-features // rows)
  kernels = kernels.transpose(0, 4, 1, 2, 3)
  low = kernels.min((2, 3, 4), keepdims=True)
  span = kernels.max((2, 3, 4), keepdims=True) - low
  tiles = np.full(
    (towers, rows * columns, size + 1, size + 1, channels), 255, np.uint8
  )
  scaled = 255 * (kernels - low) / np.maximum(span, 1e-12)
  tiles[:, :features, :size, :size] = scaled.round()
  tiles = tiles.reshape(towers * rows, columns, size + 1, size + 1, channels)
  grid = tiles.transpose(0, 2, 1, 3, 4).reshape(
    towers * rows * (size + 1), columns * (size + 1), channels
  )
  return grid.repeat(3, 0).repeat(3, 1)


def conv1_colour(params: nnx.State) -> tuple[np.ndarray, np.ndarray]:
  """How much of conv1's kernels is colour, by tower.

  Args:
    params: of the network; with several processes all call this.

  Returns:
    [towers], the mean of `measure_colour` over a tower's kernels, and the
    standard error of that mean.
  """
  shares = measure_colour(_conv1(params))
  deviation = shares.std(1, ddof=1) if shares.shape[1] > 1 else shares * 0
  return shares.mean(1), deviation / np.sqrt(shares.shape[1])


def measure_colour(kernels: np.ndarray) -> np.ndarray:
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


def _conv1(params: nnx.State) -> np.ndarray:
  """The kernels [T, 11, 11, 3, F] of conv1 from where they are."""
  return multihost_utils.process_allgather(
    params['conv1']['kernel'][...], tiled=True
  )
