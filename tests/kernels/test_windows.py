"""How many windows there are, and where."""

import pytest

from alexnet_jax.kernels import geometry
from alexnet_jax.runtime.errors import UserError


@pytest.mark.parametrize(
  ('size', 'window', 'stride', 'pad', 'positions'),
  [
    (224, 11, 4, 0, 55),  # conv1, the paper's unexplained 55
    (55, 3, 2, 0, 27),  # pool1
    (27, 5, 1, 2, 27),  # conv2
    (27, 3, 2, 0, 13),  # pool2
    (13, 3, 1, 1, 13),  # conv3 to conv5
    (13, 3, 2, 0, 6),  # pool5
    (128, 11, 4, 0, 31),  # 1 + ceil(117 / 4)
    (32, 3, 2, 0, 16),  # the CIFAR-10 nets' pools round up
    (3, 3, 2, 0, 1),
  ],
)
def test_output_size(size, window, stride, pad, positions):
  assert geometry.output_size(size, window, stride, pad) == positions


def test_a_window_that_does_not_fit_is_refused():
  with pytest.raises(UserError, match='window of 11 does not fit 9 pixels'):
    geometry.output_size(9, 11, 4)
