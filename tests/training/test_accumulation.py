"""A batch in parts, the running average of parameters, and smoothed labels.

'Within' is max|a - b| <= tolerance * max|b|, per array.
"""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import max_norm_error

from alexnet_jax.runtime import backend, sharding
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training.settings import configure
from alexnet_jax.training.state import make_setup
from alexnet_jax.training.step import (
  TrainStep,
  cross_entropies,
  jitted_step,
  running_average,
)
from configs import default

pytestmark = pytest.mark.usefixtures('cached')

BATCH, SIZE, CROP, CLASSES = 16, 81, 70, 7
RATES = (0.01, 0.01, 0.001)
GRADIENTS, PARAMETERS = 1e-5, 1e-6
PARTS = 'kernel', 'bias'


def open_setup(mesh=(1, 1), parallelism='towers', **fields):
  config = default.get_config()
  config.batch_size = BATCH
  config.augment.crop_size = CROP
  config.mesh.data, config.mesh.towers = mesh
  config.mesh.parallelism = parallelism
  config.optimizer.ema = fields.pop('ema', 0.0)
  config.model.width = fields.pop('width', 0.25)
  config.update(fields)
  settings = configure(config)
  rng = np.random.default_rng(1)
  statistics = types.SimpleNamespace(
    mean_image=rng.uniform(80, 160, (SIZE, SIZE, 3)),
    rgb_mean=np.full(3, 120.0),
    eigenvalues=np.array([4000.0, 300.0, 60.0]),
    eigenvectors=np.linalg.qr(rng.normal(size=(3, 3)))[0],
  )
  return make_setup(settings, settings.mesh.make_mesh(2), CLASSES, statistics)


def batch_of(setup, seed):
  rng = np.random.default_rng(seed)
  rows = sharding.local_rows(setup.batch_sharding, BATCH)
  images = rng.integers(0, 256, (BATCH, SIZE, SIZE, 3), dtype=np.uint8)
  labels = rng.integers(0, CLASSES, BATCH, dtype=np.int32)
  batch = {'image': images[rows], 'label': labels[rows]}
  return sharding.put_batch(setup.batch_sharding, rows, BATCH, batch)


def train(setup, rates=RATES):
  """The state and the metrics after each step."""
  step, state, found = TrainStep(setup), setup.init_state(), []
  for number, rate in enumerate(rates):
    state, sums = step(state, batch_of(setup, number), np.float32([rate]))
    found.append(jax.device_get((state, sums)))
  return found


def assert_within(tolerance, got, want):
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    assert max_norm_error(a, b) <= tolerance  # NaN is not


@pytest.fixture(scope='module')
def whole():
  return train(open_setup())


@pytest.mark.parametrize(
  ('mesh', 'parallelism', 'parts'),
  [
    ((1, 1), 'towers', 4),
    ((2, 2), 'owt', 2),
  ],
)
def test_a_batch_in_parts_is_the_same_step(whole, mesh, parallelism, parts):
  """Views and dropout on; the draws are each image's own in any part."""
  found = train(open_setup(mesh, parallelism, accumulate=parts))
  # The velocity of the first step is the gradient, times the rate.
  assert_within(GRADIENTS, found[0][0].opt_state, whole[0][0].opt_state)
  # Biases that begin at 0 are nothing but a sum of gradients.
  ends = [x[-1][0].params for x in (found, whole)]
  for layer in ends[0]:
    kernels, biases = ([x[layer][part] for x in ends] for part in PARTS)
    assert_within(PARAMETERS, *kernels)
    assert_within(GRADIENTS, *biases)
  for (_, got), (_, want) in zip(found, whole, strict=True):
    assert got.compute()['loss'] == pytest.approx(want.compute()['loss'], 1e-5)
    assert int(got.count) == BATCH
    assert int(got.top1_errors) == int(want.top1_errors)


def test_the_memory_of_a_step_falls_with_its_parts():
  """Of a batch whose activations take more than the parameters."""

  def temporaries(parts):
    setup = open_setup(accumulate=parts, batch_size=64, width=0.05)
    place = {'sharding': setup.batch_sharding}
    batch = {
      'image': jax.ShapeDtypeStruct((64, SIZE, SIZE, 3), jnp.uint8, **place),
      'label': jax.ShapeDtypeStruct((64,), jnp.int32, **place),
    }
    rates, constants = np.float32([0.01]), setup.constants
    step = jitted_step(setup).lower(
      setup.abstract_state(), batch, rates, constants
    )
    return step.compile(backend.UNRUN).memory_analysis().temp_size_in_bytes

  whole, in_four = (temporaries(parts) for parts in (1, 4))
  assert whole > 2 * in_four


def test_parts_that_do_not_divide_a_batch_are_refused():
  with pytest.raises(UserError, match='a batch of 16 .* in 3 parts each'):
    open_setup(accumulate=3)


def test_the_average_follows_the_parameters_by_its_formula(whole):
  """It moves no parameter, and is what NumPy makes of their history."""
  setup = open_setup(ema=0.15)
  found = train(setup)
  assert_within(0, found[-1][0].params, whole[-1][0].params)
  average = jax.tree.map(np.float64, jax.device_get(setup.init_state().params))
  for step, (state, _) in enumerate(found):
    share = min(0.15, (1 + step) / (10 + step))  # 0.1, then 0.15
    average = jax.tree.map(
      lambda a, p, d=share: d * a + (1 - d) * np.float64(p),
      average,
      state.params,
    )
    assert_within(1e-6, state.average, average)
  assert whole[-1][0].average is None


def test_the_average_of_the_first_steps_forgets_the_initial_weights():
  old, new = {'w': jnp.zeros(())}, {'w': jnp.ones(())}
  found = running_average(old, new, 0.999, jnp.int32(0))
  np.testing.assert_allclose(found['w'], 0.9)


@pytest.mark.parametrize('smoothing', [0.0, 0.1, 0.5])
def test_smoothed_labels_by_their_formula(smoothing):
  rng = np.random.default_rng(5)
  logits = rng.normal(0, 3, (6, 9))
  labels = rng.integers(0, 9, 6)
  logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
  wanted = np.full((6, 9), smoothing / 9)
  wanted[np.arange(6), labels] += 1 - smoothing
  got = cross_entropies(jnp.float32(logits), jnp.int32(labels), smoothing)
  np.testing.assert_allclose(got, -(wanted * logs).sum(axis=1), rtol=1e-5)


def test_smoothing_is_of_the_gradient_and_not_of_the_metrics(whole):
  ((state, sums),) = train(open_setup(label_smoothing=0.1), RATES[:1])
  assert sums.compute() == whole[0][1].compute()
  biases = [x.params['fc8']['bias'][...] for x in (state, whole[0][0])]
  assert max_norm_error(*biases) > 1e-3
