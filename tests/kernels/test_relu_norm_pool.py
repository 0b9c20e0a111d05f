"""Three layers as one function, against the three."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import max_norm_error
from draws import gradients, normal
from jax._src.pallas.mosaic.interpret import utils as interpreter
from jax.experimental.pallas import tpu as pltpu

from alexnet_jax.kernels.pooling import max_pooling
from alexnet_jax.kernels.relu_norm_pool import (
  fits,
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
@pytest.mark.parametrize('platform', ['default', 'tpu'])
@pytest.mark.parametrize(
  ('batch', 'height', 'width', 'choice'),
  [(128, 5, 7, {}), (256, 7, 3, {'size': 4, 'alpha': 0.1, 'beta': 0.6})],
)
def test_relu_norm_pool_as_one(
  lowered_for, platform, batch, height, width, choice
):
  """Value and gradient against the three layers, one after the other."""
  x = jnp.asarray(normal(0, (batch, height, width, 16), 30))
  pool = {'window': 3, 'stride': 2}
  assert fits(x, **pool)

  bias = jnp.asarray(normal(1, (16,), 30))

  def one(x, bias):
    return relu_norm_pool(x, bias, choice, pool)

  def three(x, bias):
    normed = response_norm(jax.nn.relu(x + bias), **choice)
    return max_pooling(normed, **pool)

  lowered_for('default')
  want = [three(x, bias), *gradients(three, x, bias)]
  formula = functools.partial(plain_relu_norm_pool, norm=choice, pool=pool)
  plain = [formula(x, bias), *gradients(formula, x, bias)]
  lowered_for(platform)
  with pltpu.force_tpu_interpret_mode():
    got = [one(x, bias), *gradients(one, x, bias)]
  for a, b, c in zip(got, want, plain, strict=True):
    assert max_norm_error(a, b) <= 1e-5
    assert max_norm_error(a, c) <= 1e-5


def test_where_the_kernels_of_tpus_fit():
  def fit(*shape, window=3, stride=2):
    x = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    return fits(x, window, stride)

  assert fit(1024, 55, 55, 48) and fit(128, 27, 27, 128)
  assert not fit(64, 55, 55, 48)  # lanes would be empty
  assert not fit(128, 56, 55, 48)  # a window hangs over
  assert not fit(128, 55, 55, 12)
  assert not fit(128, 55, 55, 48, window=2)
