"""Whole training steps of the real `TrainStep` against NumPy float64.

Of views, network, loss, gradient and rule at once: a label that is off by one,
a sum where a mean belongs, a mask that two layers share, or a window one pixel
off, is another step. 'Within' is max|a - b| <= tolerance * max|b|, per array.
"""

import types

import jax
import numpy as np
import pytest
import step_layers
import step_oracle
from conftest import max_norm_error

from alexnet_jax.models.towers import MeshShape
from alexnet_jax.runtime import sharding
from alexnet_jax.training.settings import configure
from alexnet_jax.training.state import make_setup
from alexnet_jax.training.step import TrainStep
from configs import default

pytestmark = pytest.mark.usefixtures('cached')

TOLERANCE = 1e-5
BATCH, SIZE, CROP = 4, 81, 70  # an odd room; pool5 has 2x2 places
CLASSES = 7
# All different, so that no two can be mistaken for each other; enough for the
# five neighbours of LRN.
FEATURES = {
  **{'conv1': 6, 'conv2': 7, 'conv3': 8, 'conv4': 6, 'conv5': 5},
  **{'fc6': 12, 'fc7': 10},
}
RATES = (2e-3, 2e-3, 2e-4, 2e-4)  # a drop after two steps
STEPS = 250  # to learn four pictures
# Times what keeps a signal's size: nobody is sure of a class yet.
SIZES = {'fc8': 0.1}


def make_config():
  config = default.get_config()
  config.batch_size = BATCH
  config.augment.crop_size = CROP
  config.augment.scale = 0.5
  config.augment.color_divisor = 1.1
  config.model.width = 1.0
  config.model.dropout = 0.4
  for layer, features in FEATURES.items():
    config.model[layer].features = features
  config.optimizer.learning_rate_multipliers = (('bias', 2.0), ('', 1.0))
  return config


def make_statistics():
  rng = np.random.default_rng(1)
  return types.SimpleNamespace(
    mean_image=rng.uniform(80, 160, (SIZE, SIZE, 3)),
    rgb_mean=np.full(3, 120.0),
    eigenvalues=np.array([4000.0, 300.0, 60.0]),
    eigenvectors=np.linalg.qr(rng.normal(size=(3, 3)))[0],
  )


def pictures(seed):
  """uint8 [B, S, S, 3], smooth and rough; labels at both ends, and a pair."""
  rng = np.random.default_rng(seed)
  coarse = rng.integers(0, 216, (BATCH, 9, 9, 3)).repeat(9, 1).repeat(9, 2)
  fine = rng.integers(0, 40, (BATCH, SIZE, SIZE, 3))
  return (coarse + fine).astype(np.uint8), np.int32([0, CLASSES - 1, 3, 3])


def state_of(setup, weights):
  """A state with these weights, and no velocity yet."""

  def fill(path, leaf):
    name = jax.tree_util.keystr(path)
    value = np.zeros(leaf.shape, leaf.dtype)
    if name.startswith('.params'):
      layer, part = (key.key for key in path[1:3])
      value = weights[layer][part].astype(np.float32)
      assert value.shape == leaf.shape, name
    elif name == '.nonfinite_step':
      value -= 1
    return jax.device_put(value, leaf.sharding)

  return jax.tree_util.tree_map_with_path(fill, setup.abstract_state())


def make_weights(params, seed=0):
  """Of a size with which every layer has a signal; float32 numbers."""
  rng = np.random.default_rng(seed)
  out = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    layer, part = (key.key for key in path[:2])
    fan_in = np.prod(leaf.shape[1:-1])
    std = 0.1 if part == 'bias' else (2 / fan_in) ** 0.5 * SIZES.get(layer, 1)
    value = rng.normal(size=leaf.shape) * std
    out.setdefault(layer, {})[part] = value.astype(np.float32)
  return out


def arrays(tree):
  """{'conv1': {'kernel': ...}, ...}."""
  out = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    layer, part = (key.key for key in path[:2])
    out.setdefault(layer, {})[part] = np.asarray(leaf)
  return out


def assert_close(got, want, tolerance=TOLERANCE):
  for layer, parts in want.items():
    for part, value in parts.items():
      error = max_norm_error(got[layer][part], value)
      assert error <= tolerance, (layer, part, error)


@pytest.fixture(scope='module')
def trainer(cached):
  """The real step on one device, compiled once."""
  mesh = MeshShape(1, 1).make_mesh(2)
  setup = make_setup(configure(make_config()), mesh, CLASSES, make_statistics())
  return setup, TrainStep(setup)


def take(trainer, state, seed, rate):
  """A step on the pictures of a seed."""
  setup, step = trainer
  images, labels = pictures(seed)
  place, rows = setup.batch_sharding, list(range(BATCH))
  batch = {'image': images, 'label': labels}
  batch = sharding.put_batch(place, rows, BATCH, batch)
  return step(state, batch, np.float32([rate]))


def test_steps_are_numpys(trainer):
  """Four, with a rate that drops; then two that are not finite."""
  setup, _ = trainer
  weights = make_weights(setup.abstract_state().params)
  state = state_of(setup, weights)
  velocity = jax.tree.map(np.zeros_like, weights)
  for number, rate in enumerate(RATES):
    state, sums = take(trainer, state, number, rate)
    losses, weights, velocity = step_oracle.train_step(
      make_config(),
      make_statistics(),
      weights,
      velocity,
      *pictures(number),
      number,
      np.float32([rate]),
    )
    assert max_norm_error(sums.loss, losses.sum()) <= TOLERANCE
    assert int(sums.count) == BATCH
    assert_close(arrays(state.opt_state[2].trace), velocity)
    assert_close(arrays(state.params), weights)
    assert int(state.step) == number + 1
  assert int(state.nonfinite_step) == -1

  # Two bad ones with nobody looking in between: the first is told.
  for number in (4, 5):
    state, _ = take(trainer, state, number, np.inf)
    assert int(state.step) == number + 1
  assert int(state.nonfinite_step) == 5


def test_a_short_training_learns_what_the_labels_say(trainer):
  """Four pictures, again and again: the loss of their central views, by NumPy,
  falls far below that of a guess."""
  setup, _ = trainer
  state = state_of(setup, make_weights(setup.abstract_state().params))
  images, labels = pictures(0)
  here = slice((SIZE - CROP) // 2, (SIZE - CROP) // 2 + CROP)
  mean = make_statistics().mean_image[here, here]
  views = setup.augment.scale * (images[:, here, here] - mean)
  for _ in range(STEPS):
    state, _ = take(trainer, state, 0, 2e-3)
  logits = step_oracle.logits(make_config().model, arrays(state.params), views)
  losses, _ = step_layers.cross_entropy(logits, labels=labels)
  assert losses.mean() < 0.5 * np.log(CLASSES)
