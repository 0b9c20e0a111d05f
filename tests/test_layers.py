"""Each layer against its formula in NumPy float64."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from conftest import max_norm_error
from jax.test_util import check_grads

from alexnet_jax.models import layers
from alexnet_jax.runtime.errors import UserError


def normal(seed, shape, scale=1.0):
  draw = scale * np.random.default_rng(seed).normal(size=shape)
  return draw.astype(np.float32)


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
  assert layers.output_size(size, window, stride, pad) == positions


def test_a_window_that_does_not_fit_is_refused():
  with pytest.raises(UserError, match='window of 11 does not fit 9 pixels'):
    layers.output_size(9, 11, 4)


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
  got = layers.conv(jnp.asarray(x), jnp.asarray(w), jnp.asarray(b), stride, pad)
  assert max_norm_error(got, oracle.conv(x, w, b, stride, pad)) <= 1e-5


def test_both_lowerings_of_a_strided_conv_have_the_same_gradients():
  x = jnp.asarray(normal(0, (2, 47, 47, 3), 50))
  w = jnp.asarray(normal(1, (11, 11, 3, 6), 0.01))
  weight = jnp.asarray(normal(2, (2, 10, 10, 6)))

  def plain(x, w):
    y = jax.lax.conv_general_dilated(
      x, w, (4, 4), [(0, 0)] * 2, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    return (y * weight).sum()

  def blocks(conv):
    def loss(x, w):
      return (
        conv(*layers._space_to_depth(x, w, 4, [(0, 0)] * 2)) * weight
      ).sum()

    return loss

  want = jax.grad(plain, (0, 1))(x, w)
  for conv in (layers._conv_by_patches, layers._dense_conv):
    got = jax.grad(blocks(conv), (0, 1))(x, w)
    for a, b in zip(got, want, strict=True):
      assert max_norm_error(a, b) <= 1e-5


@pytest.mark.parametrize('alpha_over', ['sum', 'mean'])
@pytest.mark.parametrize('channels', [3, 12, 48])
def test_lrn(alpha_over, channels):
  x = normal(0, (2, 5, 5, channels), 100)
  want = oracle.lrn(x, alpha_over=alpha_over)
  got = layers.lrn(jnp.asarray(x), alpha_over=alpha_over)
  assert max_norm_error(got, want) <= 1e-5
  # The other convention is another network, not a rounding error.
  other = 'mean' if alpha_over == 'sum' else 'sum'
  assert max_norm_error(oracle.lrn(x, alpha_over=other), want) > 1e-2


def test_lrn_with_another_power_and_size():
  x = normal(0, (2, 3, 3, 7), 10)
  choice = {'size': 3, 'k': 1.0, 'alpha': 1e-2, 'beta': 0.5}
  got = layers.lrn(jnp.asarray(x), **choice)
  assert max_norm_error(got, oracle.lrn(x, **choice)) <= 1e-5


def test_lrn_gradient():
  x = jnp.asarray(normal(0, (2, 3, 3, 8)))
  check_grads(
    lambda x: layers.lrn(x, alpha=0.1), (x,), 1, ['rev'], atol=1e-2, rtol=1e-2
  )


def test_lrn_refuses_another_convention():
  with pytest.raises(UserError, match="'sum' or 'mean', not 'avg'"):
    layers.lrn(jnp.ones((1, 1, 1, 8)), alpha_over='avg')


@pytest.mark.parametrize('size', [55, 27, 13, 8, 6])
def test_max_pool(size):
  x = normal(0, (2, size, size + 1, 4))
  got = layers.max_pool(jnp.asarray(x))
  np.testing.assert_array_equal(got, oracle.max_pool(x).astype(np.float32))


def test_max_pool_gradient_goes_to_the_largest():
  x = normal(0, (1, 7, 7, 2))
  weight = normal(1, (1, 3, 3, 2))
  got = jax.grad(lambda x: (layers.max_pool(x) * weight).sum())(jnp.asarray(x))
  want = np.zeros_like(x)
  for i in range(3):
    for j in range(3):
      for c in range(2):
        window = x[0, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3, c]
        row, column = np.unravel_index(window.argmax(), (3, 3))
        want[0, 2 * i + row, 2 * j + column, c] += weight[0, i, j, c]
  assert max_norm_error(got, want) <= 1e-6


def test_dropout_of_the_paper_halves_at_test_time():
  keys = jax.random.split(jax.random.key(0), 4)
  x = jnp.ones((4, 5000))
  got = np.asarray(layers.dropout(x, 0.25, keys))
  assert set(np.unique(got)) == {0, 1}
  # 20,000 draws: five standard deviations of the share kept are 0.0153.
  assert abs(got.mean() - 0.75) < 0.0153
  # One mask per example.
  assert (got[0] != got[1]).any()
  np.testing.assert_array_equal(layers.dropout(x, 0.25, None), 0.75)


def test_inverted_dropout_has_the_same_masks():
  keys = jax.random.split(jax.random.key(0), 4)
  x = jnp.ones((4, 500))
  got = layers.dropout(x, 0.25, keys, 'inverted')
  want = np.asarray(layers.dropout(x, 0.25, keys)) / 0.75
  np.testing.assert_allclose(got, want, rtol=1e-6)
  np.testing.assert_array_equal(layers.dropout(x, 0.25, None, 'inverted'), 1)
  with pytest.raises(UserError, match="'paper' or 'inverted', not 'both'"):
    layers.dropout(x, 0.25, keys, 'both')
