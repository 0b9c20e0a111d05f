"""How many windows there are along an axis, and where they lie."""

from alexnet_jax.runtime.errors import UserError


def output_size(size: int, window: int, stride: int, pad: int = 0) -> int:
  """Positions of a window along an axis, rounded up.

  The authors' program lets the last window hang over the far edge, which is
  how an 11-pixel filter at stride 4 makes 55 positions of 224 pixels.

  Args:
    size: pixels along the axis.
    window: pixels a window covers.
    stride: pixels between windows.
    pad: zeros put on each side first.

  Raises:
    UserError: the padded axis is shorter than one window.
  """
  room = size + 2 * pad - window
  if room < 0:
    raise UserError(
      f'a window of {window} does not fit {size} pixels padded by {pad}'
    )
  return 1 + -(-room // stride)


def full_size(size: int, window: int, stride: int, pad: int = 0) -> int:
  """Positions of a window along an axis, rounded down: only whole windows.

  Raises:
    UserError: as `output_size`.
  """
  output_size(size, window, stride, pad)  # refuses what is too small
  return 1 + (size + 2 * pad - window) // stride


def edges(size: int, window: int, stride: int, pad: int = 0) -> tuple[int, int]:
  """Padding before and after an axis that makes `output_size` exact."""
  last = (output_size(size, window, stride, pad) - 1) * stride + window
  return pad, last - size - pad
