"""A small network's parameters and gradients, and rules that update them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from conftest import max_norm_error
from flax import nnx

from alexnet_jax.training.optimizer import Rule, make_optimizer, param_names

RATES = [0.1, 0.1, 0.1, 0.01, 0.01, 0.01]  # a drop after three steps
MOMENTUM, DECAY = 0.8, 0.05  # not the paper's, so that no constant passes


def make_params():
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
  return nnx.State(
    {
      'conv1': {'kernel': nnx.Param(draw(2, 3)), 'bias': nnx.Param(draw(3))},
      'fc8': {'kernel': nnx.Param(draw(3, 2)), 'bias': nnx.Param(draw(2))},
    }
  )


def make_rule(**overrides):
  fields = {
    'kind': 'momentum',
    'beta2': 0.97,
    'epsilon': 1e-3,
    'momentum': MOMENTUM,
    'weight_decay': DECAY,
    'learning_rate_multipliers': (('', 1.0),),
    'decay_multipliers': (('bias', 0.0), ('', 1.0)),
    'ema': 0.0,
  }
  return Rule(**fields | overrides)


def gradients(step):
  rng = np.random.default_rng(100 + step)
  return jax.tree.map(
    lambda w: jnp.asarray(rng.normal(size=w.shape), jnp.float32), make_params()
  )


def run(rule, images=1):
  params = make_params()
  state = make_optimizer(rule, params).init(params)
  for step, rate in enumerate(RATES):
    tx = make_optimizer(rule, params, jnp.float32([rate]), num_examples=images)
    sums = jax.tree.map(lambda g: images * g, gradients(step))
    updates, state = tx.update(sums, state, params)
    params = optax.apply_updates(params, updates)
  return dict(named(params))


def named(params):
  names = jax.tree.leaves(param_names(params))
  return zip(names, jax.tree.leaves(params), strict=True)


def assert_equal(got, want):
  assert got.keys() == want.keys()
  for name in want:
    assert max_norm_error(got[name], want[name]) <= 1e-6, name
