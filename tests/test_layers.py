"""Each layer against its formula in NumPy float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from conftest import max_norm_error
from jax._src.pallas.mosaic.interpret import utils as interpreter
from jax.experimental.pallas import tpu as pltpu

from alexnet_jax.kernels import pooling, windows
from alexnet_jax.kernels import relu_norm_pool as fused
from alexnet_jax.kernels import response_norm as normalization
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
  assert windows.output_size(size, window, stride, pad) == positions


def test_a_window_that_does_not_fit_is_refused():
  with pytest.raises(UserError, match='window of 11 does not fit 9 pixels'):
    windows.output_size(9, 11, 4)


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
  got = layers.conv(jnp.asarray(x), jnp.asarray(w), stride, pad) + b
  assert max_norm_error(got, oracle.conv(x, w, b, stride, pad)) <= 1e-5


def gradients(function, *args):
  """Of the sum of its values, each with a weight of its own."""
  shape = jax.eval_shape(function, *args)
  weight = jnp.asarray(normal(9, shape.shape), shape.dtype)
  return jax.grad(
    lambda *args: (function(*args) * weight).sum(), tuple(range(len(args)))
  )(*args)


@pytest.mark.parametrize('platform', ['cpu', 'tpu', 'default'])
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
  ],
)
def test_conv_and_its_gradients(
  lowered_for, platform, batch, size, channels, out, kernel, stride, pad
):
  """Each lowering against the plain sum in float64."""
  x = normal(0, (batch, size, size, channels), 50)
  w = normal(1, (kernel, kernel, channels, out), 0.01)
  b = normal(2, (out,))

  def plain(x, w, b):
    high = windows.edges(size, kernel, stride, pad)
    dims = ('NHWC', 'HWIO', 'NHWC')
    y = jax.lax.conv_general_dilated(
      x, w, (stride, stride), [high, high], dimension_numbers=dims
    )
    return y + b

  def ours(x, w, b):
    return layers.conv(x, w, stride, pad) + b

  with jax.enable_x64(True):
    wide = [jnp.asarray(a, jnp.float64) for a in (x, w, b)]
    want = [plain(*wide), *gradients(plain, *wide)]
  lowered_for(platform)
  args = [jnp.asarray(a) for a in (x, w, b)]
  got = [ours(*args), *gradients(ours, *args)]
  for a, b in zip(got, want, strict=True):
    assert max_norm_error(a, b) <= 1e-5


@pytest.mark.parametrize('platform', ['default', 'tpu'])
@pytest.mark.parametrize('alpha_over', ['sum', 'mean'])
@pytest.mark.parametrize('channels', [3, 12, 48])
def test_lrn(lowered_for, platform, alpha_over, channels):
  lowered_for(platform)
  x = normal(0, (2, 5, 5, channels), 100)
  want = oracle.lrn(x, alpha_over=alpha_over)
  got = normalization.lrn(jnp.asarray(x), alpha_over=alpha_over)
  assert max_norm_error(got, want) <= 1e-5
  # The other convention is another network, not a rounding error.
  other = 'mean' if alpha_over == 'sum' else 'sum'
  assert max_norm_error(oracle.lrn(x, alpha_over=other), want) > 1e-2


def test_lrn_with_another_power_and_size():
  x = normal(0, (2, 3, 3, 7), 10)
  choice = {'size': 3, 'k': 1.0, 'alpha': 1e-2, 'beta': 0.5}
  got = normalization.lrn(jnp.asarray(x), **choice)
  assert max_norm_error(got, oracle.lrn(x, **choice)) <= 1e-5


@pytest.mark.parametrize('platform', ['default', 'tpu'])
@pytest.mark.parametrize(
  'choice',
  [
    {},
    {'alpha': 0.1, 'alpha_over': 'mean'},
    {'size': 4, 'k': 1.0, 'beta': 0.5},
  ],
)
def test_lrn_gradient(lowered_for, platform, choice):
  """Against JAX's own of the formula, channel by channel, in float64."""
  lowered_for(platform)
  x = normal(0, (2, 3, 3, 12), 30)
  size, over = choice.get('size', 5), choice.get('alpha_over', 'sum')
  alpha = choice.get('alpha', 1e-4) / (size if over == 'mean' else 1)

  def formula(x):
    out = []
    for i in range(12):
      low, high = max(0, i - size // 2), min(12, i + (size - 1) // 2 + 1)
      total = (x[..., low:high] ** 2).sum(-1)
      scale = choice.get('k', 2.0) + alpha * total
      out.append(x[..., i] / scale ** choice.get('beta', 0.75))
    return jnp.stack(out, -1)

  with jax.enable_x64(True):
    (want,) = gradients(formula, jnp.asarray(x, jnp.float64))
  (got,) = gradients(lambda x: normalization.lrn(x, **choice), jnp.asarray(x))
  assert max_norm_error(got, want) <= 1e-5


def test_lrn_refuses_another_convention():
  with pytest.raises(UserError, match="'sum' or 'mean', not 'avg'"):
    normalization.lrn(jnp.ones((1, 1, 1, 8)), alpha_over='avg')


@pytest.mark.parametrize('platform', ['default', 'tpu'])
@pytest.mark.parametrize('size', [55, 27, 13, 8, 6])
def test_max_pool(lowered_for, platform, size):
  lowered_for(platform)
  x = normal(0, (2, size, size + 1, 4))
  got = pooling.max_pool(jnp.asarray(x))
  np.testing.assert_array_equal(got, oracle.max_pool(x).astype(np.float32))


@pytest.mark.parametrize('platform', ['default', 'tpu'])
@pytest.mark.parametrize(
  ('size', 'window', 'stride'),
  [(7, 3, 2), (8, 3, 2), (8, 2, 2), (9, 3, 1), (14, 12, 2)],
)
def test_max_pool_gradient_goes_to_the_first_of_the_largest(
  lowered_for, platform, size, window, stride
):
  lowered_for(platform)
  # Whole numbers: many places share a maximum, and sums are exact.
  rng = np.random.default_rng(0)
  x = rng.integers(0, 4, (2, size, size + 1, 3)).astype(np.float32)
  pool = functools.partial(pooling.max_pool, window=window, stride=stride)
  shape = pool(jnp.asarray(x)).shape
  weight = rng.integers(1, 100, shape).astype(np.float32)
  got = jax.jit(jax.grad(lambda x: (pool(x) * weight).sum()))(x)
  want = np.zeros_like(x)
  for b, i, j, c in np.ndindex(shape):
    top, left = i * stride, j * stride
    seen = x[b, top : top + window, left : left + window, c]
    row, column = np.unravel_index(seen.argmax(), seen.shape)
    want[b, top + row, left + column, c] += weight[b, i, j, c]
  np.testing.assert_array_equal(got, want)


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


@pytest.fixture
def garbage(monkeypatch):
  """What a kernel reads beyond its arrays is infinite here; NaN, as the
  interpreter has it, is not above zero, and ReLU would hide it."""
  value = interpreter.get_uninitialized_value

  def infinite(dtype, kind):
    real = jnp.issubdtype(dtype, jnp.floating)
    return np.inf if real else value(dtype, kind)

  monkeypatch.setattr(interpreter, 'get_uninitialized_value', infinite)


@pytest.mark.usefixtures('garbage')
@pytest.mark.parametrize('platform', ['default', 'tpu'])
@pytest.mark.parametrize(
  ('batch', 'height', 'width', 'choice'),
  [(128, 5, 7, {}), (256, 7, 3, {'size': 4, 'alpha': 0.1, 'beta': 0.6})],
)
def test_relu_lrn_pool_as_one(
  lowered_for, platform, batch, height, width, choice
):
  """Value and gradient against the three layers, one after the other."""
  x = jnp.asarray(normal(0, (batch, height, width, 16), 30))
  pool = {'window': 3, 'stride': 2}
  assert fused.fits(x, **pool)

  bias = jnp.asarray(normal(1, (16,), 30))

  def one(x, bias):
    return fused.relu_lrn_pool(x, bias, choice, pool)

  def three(x, bias):
    normed = normalization.lrn(jax.nn.relu(x + bias), **choice)
    return pooling.max_pool(normed, **pool)

  lowered_for('default')
  want = [three(x, bias), *gradients(three, x, bias)]
  lowered_for(platform)
  with pltpu.force_tpu_interpret_mode():
    got = [one(x, bias), *gradients(one, x, bias)]
  for a, b in zip(got, want, strict=True):
    assert max_norm_error(a, b) <= 1e-5


def test_where_the_kernels_of_tpus_fit():
  def fits(*shape, window=3, stride=2):
    x = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    return fused.fits(x, window, stride)

  assert fits(1024, 55, 55, 48) and fits(128, 27, 27, 128)
  assert not fits(64, 55, 55, 48)  # lanes would be empty
  assert not fits(128, 56, 55, 48)  # a window hangs over
  assert not fits(128, 55, 55, 12)
  assert not fits(128, 55, 55, 48, window=2)
