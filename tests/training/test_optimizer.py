"""The momentum rule of §5 against a loop over NumPy float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import max_norm_error
from flax import nnx
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

from alexnet_jax.models.alexnet import AlexNet
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training.optimizer import (
  make_optimizer,
  multipliers,
  param_names,
)
from alexnet_jax.training.settings import configure
from configs import default


def by_hand(rates=None, decays=None):
  """v <- momentum v - decay rate w - rate g ; w <- w + v, one by one."""
  weights = {n: np.asarray(w, np.float64) for n, w in named(make_params())}
  velocity = {name: np.zeros_like(w) for name, w in weights.items()}
  for step, rate in enumerate(RATES):
    for name, grad in named(gradients(step)):
      own = rate * (rates or {}).get(name, 1.0)
      decay = DECAY * (decays or {}).get(name, float('kernel' in name))
      velocity[name] = (
        MOMENTUM * velocity[name] - decay * own * weights[name] - own * grad
      )
      weights[name] = weights[name] + velocity[name]
  return weights


@pytest.mark.parametrize('images', [1, 125])
def test_the_rule_across_a_drop_of_the_rate(images):
  assert_equal(run(make_rule(), images), by_hand())


def test_two_steps_by_hand():
  """One weight of 2: gradient 3 at rate 0.5, then 1 at rate 0.25."""
  params = nnx.State({'fc8': {'kernel': nnx.Param(jnp.array([2.0]))}})
  rule = make_rule(decay_multipliers=(('', 1.0),))
  state = make_optimizer(rule, params).init(params)
  # v = -0.05 * 0.5 * 2 - 0.5 * 3 = -1.55 ; w = 0.45
  # v = 0.8 * -1.55 - 0.05 * 0.25 * 0.45 - 0.25 * 1 = -1.495625
  for rate, gradient, velocity in ((0.5, 3.0, -1.55), (0.25, 1.0, -1.495625)):
    grads = jax.tree.map(lambda w, g=gradient: jnp.full_like(w, g), params)
    tx = make_optimizer(rule, params, [rate])
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    assert max_norm_error(jax.tree.leaves(updates)[0], [velocity]) <= 1e-6
    # The state is the velocity, and nothing that knows the rate.
    (kept,) = jax.tree.leaves(state)
    assert max_norm_error(kept, [velocity]) <= 1e-6
  assert max_norm_error(jax.tree.leaves(params)[0], [0.45 - 1.495625]) <= 1e-6


def test_it_is_not_optax_sgd():
  """Which rescales the old velocity when the rate drops."""
  params = make_params()
  sgd = lambda rate: optax.sgd(rate, momentum=MOMENTUM)  # noqa: E731
  state = sgd(0.1).init(params)
  for step, rate in enumerate(RATES):
    updates, state = sgd(rate).update(gradients(step), state, params)
    params = optax.apply_updates(params, updates)
  got = run(make_rule(weight_decay=0.0))
  errors = [max_norm_error(w, got[name]) for name, w in named(params)]
  assert min(errors) > 1e-2


def test_rules_per_parameter_first_match_wins():
  rule = make_rule(
    learning_rate_multipliers=(('conv1/bias', 2.0), ('conv1', 0.5), ('', 1.0)),
    decay_multipliers=(('fc8', 3.0), ('', 0.0)),
  )
  rates = {'conv1/bias': 2.0, 'conv1/kernel': 0.5}
  decays = {
    'fc8/kernel': 3.0,
    'fc8/bias': 3.0,
    'conv1/kernel': 0.0,
    'conv1/bias': 0.0,
  }
  assert_equal(run(rule), by_hand(rates, decays))


@pytest.mark.parametrize('images', [1, 125])
def test_adamw_by_hand(images):
  """Loshchilov and Hutter's algorithm 2, a multiplier of the rate on biases."""
  rule = make_rule(
    kind='adamw', learning_rate_multipliers=(('bias', 2.0), ('', 1.0))
  )
  weights = {n: np.asarray(w, np.float64) for n, w in named(make_params())}
  m = {name: np.zeros_like(w) for name, w in weights.items()}
  v = {name: np.zeros_like(w) for name, w in weights.items()}
  for step, rate in enumerate(RATES, start=1):
    for name, grad in named(gradients(step - 1)):
      g = np.asarray(grad, np.float64)
      own = rate * (2 if 'bias' in name else 1)
      m[name] = MOMENTUM * m[name] + (1 - MOMENTUM) * g
      v[name] = 0.97 * v[name] + 0.03 * g**2
      mean, square = m[name] / (1 - MOMENTUM**step), v[name] / (1 - 0.97**step)
      move = mean / (np.sqrt(square) + 1e-3)
      move += DECAY * float('kernel' in name) * weights[name]
      weights[name] = weights[name] - own * move
  got = run(rule, images)
  for name, want in weights.items():
    assert max_norm_error(got[name], want) <= 1e-5, name


# By step: of two rules, and of what they leave to the main rate.
OWN = {'conv1': [0.1, 0.02, 0.02, 0.0, 0.0, 0.3], 'bias': [0.2] * 6}


def test_rates_of_their_own_and_what_stands_still():
  """conv1 is frozen whole for two steps, whatever its velocity; then it goes
  on with what nine tenths thrice have left of it."""
  rule, params = make_rule(), make_params()
  state = make_optimizer(rule, params).init(params)
  weights = {n: np.asarray(w, np.float64) for n, w in named(params)}
  velocity = {name: np.zeros_like(w) for name, w in weights.items()}
  for step, main in enumerate(RATES):
    before = dict(named(params))
    rates = jnp.float32([main, *(own[step] for own in OWN.values())])
    tx = make_optimizer(rule, params, rates, list(OWN))
    updates, state = tx.update(gradients(step), state, params)
    params = optax.apply_updates(params, updates)
    for name, grad in named(gradients(step)):
      first = [own[step] for pattern, own in OWN.items() if pattern in name]
      rate = (first or [main])[0]
      decay = DECAY * float('kernel' in name)
      velocity[name] = (
        MOMENTUM * velocity[name] - decay * rate * weights[name] - rate * grad
      )
      if rate:
        weights[name] = weights[name] + velocity[name]
    for name, w in named(params):
      stands = np.array_equal(w, before[name])
      assert stands == (name.startswith('conv1') and step in (3, 4)), name
  assert_equal(dict(named(params)), weights)


def test_a_frozen_parameter_is_kept_from_a_gradient_that_is_not_finite():
  rule, params = make_rule(), make_params()
  state = make_optimizer(rule, params).init(params)
  bad = jax.tree.map(lambda w: jnp.full_like(w, jnp.nan), params)
  tx = make_optimizer(rule, params, jnp.float32([0]))
  updates, state = tx.update(bad, state, params)
  assert not any(jnp.any(x) for x in jax.tree.leaves((updates, state)))


def test_names_of_the_network():
  settings = configure(default.get_config())
  model = nnx.eval_shape(
    lambda: AlexNet(settings.model, 10, 224, rngs=nnx.Rngs(params=0))
  )
  params = nnx.state(model)
  layers = ['conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'fc6', 'fc7', 'fc8']
  names = jax.tree.leaves(param_names(params))
  assert sorted(names) == [
    f'{layer}/{kind}' for layer in layers for kind in ('bias', 'kernel')
  ]
  # Of default.py: decay on weights only (§5), one rate for all.
  decays = multipliers(settings.optimizer.decay_multipliers, params)
  for name, decay in zip(names, jax.tree.leaves(decays), strict=True):
    assert decay == (0.0 if name.endswith('bias') else 1.0)
  rates = multipliers(settings.optimizer.learning_rate_multipliers, params)
  assert jax.tree.leaves(rates) == [1.0] * 16


def test_a_parameter_without_a_rule_is_refused():
  with pytest.raises(UserError, match="no rule of .* 'conv1/bias'"):
    multipliers((('kernel', 1.0),), make_params())


def test_a_rule_that_decides_nothing_is_refused():
  with pytest.raises(UserError, match="'conv9'.*the names are.*conv1/bias"):
    multipliers((('conv9', 1.0), ('', 1.0)), make_params())
  with pytest.raises(UserError, match="'conv9'.*the names are.*conv1/bias"):
    make_optimizer(make_rule(), make_params(), patterns=['conv9'])
  # Nor may one stand behind others that decide everything.
  for rules in (
    (('', 1.0), ('bias', 0.0)),
    (('bias', 1.0), ('bias', 0.0), ('', 1.0)),  # the same one twice
  ):
    with pytest.raises(UserError, match=r"rules \[\('bias', 0.0\)\] decide"):
      multipliers(rules, make_params())


def test_a_bad_rule_is_refused_before_any_step():
  for field in ('learning_rate_multipliers', 'decay_multipliers'):
    with pytest.raises(UserError, match="no rule of .* 'conv1/bias'"):
      make_optimizer(make_rule(**{field: (('kernel', 1.0),)}), make_params())
