"""LARS by its formula, by Optax's, and over towers on devices of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import max_norm_error
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from small_rules import (
  DECAY,
  MOMENTUM,
  RATES,
  assert_equal,
  gradients,
  make_params,
  make_rule,
  named,
  run,
)

from alexnet_jax.models.towers import MeshShape, TowerParam
from alexnet_jax.training.optimizer import make_optimizer, param_names


def lars_by_hand(rates):
  """You, Gitman and Ginsburg's algorithm 1: weights by name, and each step's
  own rate of each layer. Biases have neither decay nor a rate of their own."""
  weights = {n: np.asarray(w, np.float64) for n, w in named(make_params())}
  velocity = {name: np.zeros_like(w) for name, w in weights.items()}
  own = []
  for step, rate in enumerate(rates):
    own.append({})
    for name, grad in named(gradients(step)):
      g, w = np.asarray(grad, np.float64), weights[name]
      ratio, decay = 1.0, 0.0
      if 'kernel' in name:
        decay = DECAY * (3 if 'fc8' in name else 1)
        size = np.sqrt((w**2).sum())
        ratio = 0.02 * size / (np.sqrt((g**2).sum()) + decay * size)
      own[-1][name] = ratio
      velocity[name] = MOMENTUM * velocity[name] - rate * ratio * (
        g + decay * w
      )
      weights[name] = w + velocity[name]
  return weights, own


LARS = {
  'kind': 'lars',
  'trust': 0.02,
  'decay_multipliers': (('bias', 0.0), ('fc8', 3.0), ('', 1.0)),
}


@pytest.mark.parametrize('images', [1, 125])
def test_lars_by_hand(images):
  want, own = lars_by_hand(RATES)
  assert_equal(run(make_rule(**LARS), images), want)
  # The layers' own rates are not one number, or this would test little.
  ratios = [
    step[f'{layer}/kernel'] for step in own for layer in ('conv1', 'fc8')
  ]
  assert max(ratios) > 1.5 * min(ratios)


def test_lars_without_decay_is_that_of_optax():
  """Where the norm of a sum is the sum of norms."""
  kernels = jax.tree.map(
    lambda name: 'kernel' in name, param_names(make_params())
  )
  params = make_params()
  make = lambda rate: optax.lars(  # noqa: E731
    rate, trust_coefficient=0.02, trust_ratio_mask=kernels, momentum=MOMENTUM
  )
  state = make(RATES[0]).init(params)
  for step, rate in enumerate(RATES):
    updates, state = make(rate).update(gradients(step), state, params)
    params = optax.apply_updates(params, updates)
  got = run(make_rule(**LARS | {'weight_decay': 0.0}))
  assert_equal(got, dict(named(params)))


def test_lars_where_there_is_nothing_to_divide():
  """A layer of zeros, and one without a gradient, have the plain rate."""
  params = nnx.State(
    {
      'conv1': {'kernel': nnx.Param(jnp.zeros(3))},
      'fc8': {'kernel': nnx.Param(jnp.full(3, 2.0))},
    }
  )
  grads = jax.tree.map(lambda w: 1 - w / 2, params)
  rule = make_rule(kind='lars', trust=0.02, decay_multipliers=(('', 1.0),))
  tx = make_optimizer(rule, params, [0.5])
  updates, _ = tx.update(grads, tx.init(params), params)
  got = dict(named(updates))
  assert max_norm_error(got['conv1/kernel'], np.full(3, -0.5)) <= 1e-6
  assert max_norm_error(got['fc8/kernel'], np.full(3, -0.5 * 0.1)) <= 1e-6


def test_a_layer_of_lars_is_that_of_both_towers():
  """On a device each, as on one: the norms are of both."""
  rng = np.random.default_rng(3)
  w = rng.normal(size=(2, 3, 4)) * [[[1]], [[9]]]
  g = rng.normal(size=(2, 3, 4)) * [[[5]], [[1]]]
  size = np.sqrt((w**2).sum())
  ratio = 0.02 * size / (np.sqrt((g**2).sum()) + DECAY * size)
  want = -0.5 * ratio * (g + DECAY * w)
  rule = make_rule(kind='lars', trust=0.02, decay_multipliers=(('', 1.0),))

  def step(params, grads):
    tx = make_optimizer(rule, params, [0.5])
    return tx.update(grads, tx.init(params), params)[0]

  mesh = MeshShape(1, 2).make_mesh(2, jax.devices()[:2])
  over = P('tower')
  spread = jax.shard_map(step, mesh=mesh, in_specs=over, out_specs=over)
  trees = [
    nnx.State({'conv2': {'kernel': TowerParam(jnp.float32(x))}}) for x in (w, g)
  ]
  parts = jax.device_put(trees, NamedSharding(mesh, over))
  for got in (step(*trees), jax.jit(spread)(*parts)):
    assert max_norm_error(jax.tree.leaves(got)[0], want) <= 1e-6
