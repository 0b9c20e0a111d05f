"""Each lowering of a convolution against its formula in NumPy float64."""

import jax
import jax.numpy as jnp
import oracle
import pytest
from conftest import max_norm_error
from draws import normal, values_and_gradients

from alexnet_jax.kernels import geometry
from alexnet_jax.kernels.convolution import convolutions, plain_convolution


def convolution(x, kernel, stride, edges):
  return convolutions(x, (kernel,), stride, edges)[0]


def padded(compute, x, w, b, stride, pad):
  """A convolution and its bias, with `pad` zeros on each side."""
  edges = [
    geometry.edges(extent, len(w), stride, pad) for extent in x.shape[1:3]
  ]
  return compute(x, w, stride, tuple(edges)) + b


@pytest.mark.parametrize(
  ('size', 'channels', 'kernel', 'stride', 'pad'),
  [
    (224, 3, 11, 4, 0),
    (67, 3, 11, 4, 0),  # fits exactly: nothing hangs over
    (66, 3, 11, 4, 0),  # hangs over by one pixel
    (27, 8, 5, 1, 2),
    (13, 8, 3, 1, 1),
    (20, 4, 3, 2, 1),
  ],
)
def test_conv(size, channels, kernel, stride, pad):
  x = normal(0, (2, size, size, channels), 50)
  w = normal(1, (kernel, kernel, channels, 6), 0.01)
  b = normal(2, (6,))
  args = jnp.asarray(x), jnp.asarray(w), b, stride, pad
  got = padded(convolution, *args)
  assert max_norm_error(got, oracle.conv(x, w, b, stride, pad)) <= 1e-5


@pytest.mark.parametrize(
  ('batch', 'size', 'channels', 'out', 'kernel', 'stride', 'pad'),
  [
    (4, 47, 3, 6, 11, 4, 0),  # conv1's: folded, a 3x3 convolution
    (3, 13, 8, 12, 3, 1, 1),  # conv3 to conv5's: an odd side
    (8, 12, 8, 5, 3, 1, 0),
    (6, 27, 8, 128, 5, 1, 2),  # conv2's
    (6, 16, 8, 12, 5, 1, 2),  # with few outputs: CIFAR-10's
    (6, 16, 3, 12, 5, 1, 2),  # and few inputs
    (1, 9, 4, 3, 7, 1, 1),
    (3, 6, 4, 3, 3, 1, 9),  # windows that see edges alone
  ],
)
def test_conv_and_its_gradients(
  lowered_for, batch, size, channels, out, kernel, stride, pad
):
  """Each lowering against the plain sum in float64."""
  x = normal(0, (batch, size, size, channels), 50)
  w = normal(1, (kernel, kernel, channels, out), 0.01)
  b = normal(2, (out,))

  def plain(x, w, b):
    return padded(plain_convolution, x, w, b, stride, pad)

  def ours(x, w, b):
    return padded(convolution, x, w, b, stride, pad)

  with jax.enable_x64(True):
    wide = [jnp.asarray(a, jnp.float64) for a in (x, w, b)]
    want = values_and_gradients(plain, *wide)
  args = [jnp.asarray(a) for a in (x, w, b)]
  for platform in ('cpu', 'gpu', 'tpu', 'default'):
    lowered_for(platform)
    got = values_and_gradients(ours, *args)
    for a, b in zip(got, want, strict=True):
      assert max_norm_error(a, b) <= 1e-5, platform


@pytest.mark.parametrize(
  ('batch', 'size', 'kernel', 'stride'),
  [
    (1, 224, 11, 4),  # conv1's: 55 columns, two at a time
    (3, 48, 11, 4),  # 11 columns; the last window hangs over
    (2, 43, 11, 4),  # 9, of a size that fits exactly
    (1, 40, 11, 4),  # 9, and nearly 10
    (3, 44, 11, 4),  # 10
    (1, 11, 11, 4),  # one
    (2, 20, 3, 2),
    (2, 13, 3, 1),
  ],
)
def test_the_towers_read_one_image(lowered_for, batch, size, kernel, stride):
  """Each tower's sums and its kernel's gradient, as if it were alone."""
  x = jnp.asarray(normal(0, (batch, size, size, 3), 50))
  edges = (geometry.edges(size, kernel, stride),) * 2

  def together(x, *kernels):
    return jnp.concatenate(convolutions(x, kernels, stride, edges), -1)

  def apart(x, *kernels):
    return jnp.concatenate(
      [plain_convolution(x, kernel, stride, edges) for kernel in kernels], -1
    )

  # Only a GPU's way has towers in one product.
  for towers, platforms in {
    1: ('gpu',),
    2: ('gpu', 'cpu', 'tpu', 'default'),
    3: ('gpu',),
  }.items():
    kernels = [
      jnp.asarray(normal(1 + tower, (kernel, kernel, 3, 5), 0.01))
      for tower in range(towers)
    ]
    want = values_and_gradients(apart, x, *kernels)
    for platform in platforms:
      lowered_for(platform)
      got = values_and_gradients(together, x, *kernels)
      for a, b in zip(got, want, strict=True):
        assert max_norm_error(a, b) <= 1e-5, (towers, platform)
