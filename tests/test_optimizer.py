"""The momentum rule of §5 against a loop over NumPy float64."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest
from conftest import max_norm_error
from flax import nnx

from alexnet_jax.learning.optimizer import (
  make_optimizer,
  multipliers,
  param_names,
)
from alexnet_jax.runtime.errors import UserError

RATES = [0.1, 0.1, 0.1, 0.01, 0.01, 0.01]  # a drop after three steps


def make_params():
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
  return nnx.State(
    {
      'conv1': {'kernel': nnx.Param(draw(2, 3)), 'bias': nnx.Param(draw(3))},
      'fc8': {'kernel': nnx.Param(draw(3, 2)), 'bias': nnx.Param(draw(2))},
    }
  )


def make_config(**overrides):
  config = ml_collections.ConfigDict(
    {
      'momentum': 0.9,
      'weight_decay': 5e-2,
      'rate_multipliers': (('', 1.0),),
      'decay_multipliers': (('bias', 0.0), ('', 1.0)),
    }
  )
  config.update(overrides)
  return config


def gradients(step):
  rng = np.random.default_rng(100 + step)
  return jax.tree.map(
    lambda w: jnp.asarray(rng.normal(size=w.shape), jnp.float32), make_params()
  )


def run(config):
  params = make_params()
  state = make_optimizer(config, params).init(params)
  for step, rate in enumerate(RATES):
    tx = make_optimizer(config, params, jnp.float32(rate))
    updates, state = tx.update(gradients(step), state, params)
    params = optax.apply_updates(params, updates)
  return dict(named(params))


def named(params):
  names = jax.tree.leaves(param_names(params))
  return zip(names, jax.tree.leaves(params), strict=True)


def by_hand(rates=None, decays=None):
  """v <- 0.9 v - decay rate w - rate g ; w <- w + v, parameter by parameter."""
  weights = {n: np.asarray(w, np.float64) for n, w in named(make_params())}
  velocity = {name: np.zeros_like(w) for name, w in weights.items()}
  for step, rate in enumerate(RATES):
    for name, grad in named(gradients(step)):
      own = rate * (rates or {}).get(name, 1.0)
      decay = 5e-2 * (decays or {}).get(name, float('kernel' in name))
      velocity[name] = (
        0.9 * velocity[name] - decay * own * weights[name] - own * grad
      )
      weights[name] = weights[name] + velocity[name]
  return weights


def assert_equal(got, want):
  assert got.keys() == want.keys()
  for name in want:
    assert max_norm_error(got[name], want[name]) <= 1e-6, name


def test_the_rule_across_a_drop_of_the_rate():
  assert_equal(run(make_config()), by_hand())


def test_it_is_not_optax_sgd():
  """Which rescales the old velocity when the rate drops."""
  params = make_params()
  sgd = lambda rate: optax.sgd(rate, momentum=0.9)  # noqa: E731
  state = sgd(0.1).init(params)
  for step, rate in enumerate(RATES):
    updates, state = sgd(rate).update(gradients(step), state, params)
    params = optax.apply_updates(params, updates)
  got = run(make_config(weight_decay=0.0))
  errors = [max_norm_error(w, got[name]) for name, w in named(params)]
  assert min(errors) > 1e-2


def test_rules_per_parameter_first_match_wins():
  config = make_config(
    rate_multipliers=(('conv1/bias', 2.0), ('conv1', 0.5), ('', 1.0)),
    decay_multipliers=(('fc8', 3.0), ('', 0.0)),
  )
  rates = {'conv1/bias': 2.0, 'conv1/kernel': 0.5}
  decays = {
    'fc8/kernel': 3.0,
    'fc8/bias': 3.0,
    'conv1/kernel': 0.0,
    'conv1/bias': 0.0,
  }
  assert_equal(run(config), by_hand(rates, decays))


def test_a_parameter_without_a_rule_is_refused():
  with pytest.raises(UserError, match="no rule of .* 'conv1/bias'"):
    multipliers((('kernel', 1.0),), make_params())


def test_a_rule_that_decides_nothing_is_refused():
  with pytest.raises(UserError, match="'conv9'.*the names are.*conv1/bias"):
    multipliers((('conv9', 1.0), ('', 1.0)), make_params())
