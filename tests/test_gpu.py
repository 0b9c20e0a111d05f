"""The program on a GPU beside the CPU (`pytest -m gpu`).

Without a GPU these skip. What a GPU computes in its own ways is compared with
the formulas on CPUs, too: tests/kernels.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import max_norm_error
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax.analysis import communication
from alexnet_jax.models import layers
from alexnet_jax.runtime import sharding
from alexnet_jax.training import schedules, views
from alexnet_jax.training.settings import configure
from alexnet_jax.training.step import jitted_step, loss_and_logits
from configs import default

pytestmark = pytest.mark.gpu

CLASSES = 10
BATCH = 8


@pytest.fixture(scope='module')
def gpu() -> jax.Device:
  try:
    return jax.devices('gpu')[0]
  except RuntimeError as error:
    pytest.skip(f'no GPU here: {error}')


def make(device, width=0.25, dtype='float32', precision='highest', **overrides):
  """The setup of a network whose towers are both on one device."""
  config = default.get_config()
  config.batch_size = BATCH
  config.dtype, config.matmul_precision = dtype, precision
  config.update_from_flattened_dict({'model.width': width, **overrides})
  setup = communication.abstract_setup(configure(config), CLASSES, [device])
  assert setup.mesh.size == 1
  return setup


@functools.cache
def weights(width):
  """The same on all devices: drawn on the CPU."""
  state = make(jax.devices('cpu')[0], width).init_state()
  return jax.tree.map(np.asarray, state.params)


def put(setup, tree, specs):
  return jax.tree.map(
    lambda x, spec: jax.device_put(x, NamedSharding(setup.mesh, spec)),
    tree,
    specs,
  )


def logits_and_gradients(setup, width):
  """Of one batch in training, with dropout, as NumPy."""
  rng = np.random.default_rng(0)
  size = setup.augment.crop_size
  images = rng.normal(scale=60, size=(BATCH, size, size, 3))
  labels = rng.integers(0, CLASSES, BATCH, np.int32)
  specs = setup.specs().params

  def body(params, images, labels):
    row = jax.lax.axis_index(sharding.DATA)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), row), BATCH)

    def loss(params):
      return loss_and_logits(setup, params, images, labels, keys)

    gradients, (logits, _) = jax.grad(loss, has_aux=True)(params)
    return logits, gradients

  rows = P(sharding.DATA)
  program = jax.shard_map(
    body,
    mesh=setup.mesh,
    in_specs=(specs, rows, rows),
    out_specs=(rows, specs),
  )
  with jax.default_matmul_precision(setup.matmul_precision):
    logits, gradients = jax.jit(program)(
      put(setup, weights(width), specs),
      *put(setup, (images.astype(np.float32), labels), (rows, rows)),
    )
  named = jax.tree_util.tree_leaves_with_path(gradients)
  return np.asarray(logits), {
    jax.tree_util.keystr(path): np.asarray(x) for path, x in named
  }


@functools.cache
def of_the_cpu(width):
  return logits_and_gradients(make(jax.devices('cpu')[0], width), width)


def distance(a, b):
  """|a - b| / |b|, of all numbers of a gradient together: rounding turns a
  few maxima and ReLUs, each of which moves single numbers far."""
  return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize(
  ('width', 'dtype', 'precision', 'of_logits', 'of_gradients'),
  [
    (0.25, 'float32', 'highest', 1e-5, 5e-3),
    (1.0, 'float32', 'highest', 1e-5, 5e-3),
    (1.0, 'float32', 'default', 5e-3, 0.1),  # TF32: 11 binary digits
    (1.0, 'bfloat16', 'default', 4e-2, 0.3),  # 8
  ],
)
def test_logits_and_gradients_are_the_cpus(
  gpu, width, dtype, precision, of_logits, of_gradients
):
  logits, gradients = logits_and_gradients(
    make(gpu, width, dtype, precision), width
  )
  want_logits, want = of_the_cpu(width)
  found = {name: distance(gradients[name], want[name]) for name in want}
  error = max_norm_error(logits, want_logits)
  print(f'{dtype} {precision} width {width}: logits {error:.1e}', found)
  assert error <= of_logits
  assert all(each <= of_gradients for each in found.values())


def test_deterministic_steps_repeat_to_the_bit(gpu):
  """`config.deterministic` sets this option for the whole process."""
  setup = make(gpu, dtype='bfloat16', precision='default')
  size = setup.augment.crop_size + 32
  rng = np.random.default_rng(0)
  rates = jnp.asarray(
    schedules.learning_rates(setup.schedule, 0, setup.schedule.learning_rate)
  )
  constants = jax.device_put(setup.constants, NamedSharding(setup.mesh, P()))
  batch = {
    'image': rng.integers(0, 256, (BATCH, size, size, 3), np.uint8),
    'label': rng.integers(0, CLASSES, BATCH, np.int32),
  }
  batch = jax.device_put(batch, setup.batch_sharding)

  def run():
    state = setup.init_state()
    step = jitted_step(setup).lower(state, batch, rates, constants, None)
    step = step.compile(compiler_options={'xla_gpu_deterministic_ops': True})
    for _ in range(3):
      state, _ = step(state, batch, rates, constants, None)
    return jax.tree.map(np.asarray, state.params)

  jax.tree.map(np.testing.assert_array_equal, run(), run())


def test_draws_are_the_cpus(gpu):
  """Views and masks of dropout, to the bit."""
  setup = make(gpu, **{'augment.color': 0.0})
  size = setup.augment.crop_size + 32
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (BATCH, size, size, 3), np.uint8)

  def draw(images, constants):
    keys = jax.random.split(jax.random.key(3), BATCH)
    mask = layers.dropout(jnp.ones((BATCH, 4096)), 0.5, keys)
    return views.training_views(setup.augment, constants, images, keys), mask

  here, there = (
    jax.jit(draw)(*jax.device_put((images, setup.constants), device))
    for device in (gpu, jax.devices('cpu')[0])
  )
  jax.tree.map(np.testing.assert_array_equal, here, there)
