"""Three layers as one function, against the three."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import max_norm_error
from draws import normal, values_and_gradients
from jax._src.pallas.mosaic.interpret import utils as interpreter
from jax.experimental.pallas import tpu as pltpu

from alexnet_jax.kernels.pallas import fits
from alexnet_jax.kernels.pooling import max_pooling
from alexnet_jax.kernels.relu_norm_pool import (
  plain_relu_norm_pool,
  relu_norm_pool,
)
from alexnet_jax.kernels.response_norm import response_norm


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
@pytest.mark.parametrize(
  ('batch', 'height', 'width', 'choice'),
  [(128, 5, 7, {}), (256, 7, 3, {'size': 4, 'alpha': 0.1, 'beta': 0.6})],
)
def test_relu_norm_pool_as_one(lowered_for, batch, height, width, choice):
  """Value and gradient against the three layers, one after the other."""
  x = jnp.asarray(normal(0, (batch, height, width, 16), 30))
  pool = {'window': 3, 'stride': 2}
  assert fits(x, **pool)

  bias = jnp.asarray(normal(1, (16,), 30))

  def one(x, bias):
    return relu_norm_pool([x], [bias], choice, pool)[0]

  def three(x, bias):
    normed = response_norm(jax.nn.relu(x + bias), **choice)
    return max_pooling(normed, **pool)

  lowered_for('default')
  want = values_and_gradients(three, x, bias)
  formula = functools.partial(plain_relu_norm_pool, norm=choice, pool=pool)
  plain = values_and_gradients(formula, x, bias)
  for platform in ('default', 'tpu'):
    lowered_for(platform)
    with pltpu.force_tpu_interpret_mode():
      got = values_and_gradients(one, x, bias)
    for a, b, c in zip(got, want, plain, strict=True):
      assert max_norm_error(a, b) <= 1e-5, platform
      assert max_norm_error(a, c) <= 1e-5, platform


@pytest.mark.parametrize(
  ('towers', 'batch', 'height', 'width', 'norm', 'pool'),
  [
    (2, 1, 55, 55, {}, {}),  # after conv1
    (1, 3, 27, 27, {}, {}),  # after conv2
    (2, 3, 13, 13, {'alpha': 0.1}, {}),
    (1, 1, 8, 9, {'size': 4, 'alpha': 0.1, 'beta': 0.6}, {}),  # hangs over
    (2, 2, 7, 8, {'alpha_over': 'mean', 'k': 1.0}, {'window': 2}),
    (1, 2, 9, 8, {}, {'stride': 1}),
    (1, 1, 14, 15, {}, {'window': 12}),  # numbers of places of two bytes
    (3, 2, 7, 7, {}, {'window': 2, 'stride': 3}),
  ],
)
def test_maps_of_any_size(
  lowered_for, towers, batch, height, width, norm, pool
):
  """Each tower's values and gradients against the formula."""
  pool = {'window': 3, 'stride': 2, **pool}
  channels = 8
  xs, biases = (
    [jnp.asarray(normal(9 * tower + i, shape, 30)) for tower in range(towers)]
    for i, shape in enumerate([(batch, height, width, channels), (channels,)])
  )

  def one(*args):
    xs, biases = args[:towers], args[towers:]
    return jnp.concatenate(relu_norm_pool(xs, biases, norm, pool), -1)

  def formula(*args):
    pairs = zip(args[:towers], args[towers:], strict=True)
    return jnp.concatenate(
      [plain_relu_norm_pool(x, bias, norm, pool) for x, bias in pairs], -1
    )

  args = *xs, *biases
  want = values_and_gradients(formula, *args)
  for platform in ('default', 'gpu', 'tpu'):
    lowered_for(platform)
    got = values_and_gradients(one, *args)
    for a, b in zip(got, want, strict=True):
      assert max_norm_error(a, b) <= 1e-5, platform


@pytest.mark.parametrize('towers', [1, 2])
def test_in_bfloat16_a_gpu_rounds_what_lies_between_sums(lowered_for, towers):
  """The gradient beside that of the other platforms, which round its end.

  Both find the maxima of the same rounded maps, so they differ by roundings
  alone, each by at most 2 ** -9 of a number: on a GPU of two maps on the way
  and of the end, elsewhere of three sums where four windows overlap and of the
  end.
  """
  pool = {'window': 3, 'stride': 2}
  xs, biases = (
    tuple(
      jnp.asarray(normal(9 * tower + i, shape, 30), jnp.bfloat16)
      for tower in range(towers)
    )
    for i, shape in enumerate([(2, 27, 27, 16), (16,)])
  )
  gs = tuple(
    jnp.asarray(normal(5 + tower, (2, 13, 13, 16)), jnp.bfloat16)
    for tower in range(towers)
  )
  found = []
  for platform in ('default', 'gpu'):
    lowered_for(platform)
    ys, pull = jax.vjp(
      lambda xs, biases: relu_norm_pool(xs, biases, {}, pool), xs, biases
    )
    found.append((ys, pull(gs)))
  for a, b in zip(*map(jax.tree.leaves, found), strict=True):
    assert a.dtype == jnp.bfloat16
    assert max_norm_error(a, b) <= 7 * 2**-9


def test_where_the_kernels_of_tpus_fit():
  def fit(*shape, window=3, stride=2):
    x = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    return fits(x, window, stride)

  assert fit(1024, 55, 55, 48) and fit(128, 27, 27, 128)
  assert not fit(64, 55, 55, 48)  # lanes would be empty
  assert not fit(128, 56, 55, 48)  # a window hangs over
  assert not fit(128, 55, 55, 12)
  assert not fit(128, 55, 55, 48, window=2)
