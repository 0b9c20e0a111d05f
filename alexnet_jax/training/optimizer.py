"""The paper's momentum rule (§5) as an Optax chain, with rules per layer.

  v <- momentum v - decay rate w - rate gradient ;  w <- w + v

The rate is inside the velocity: when it drops, the old velocity is not
rescaled. `optax.sgd` has it outside, which is another rule after a drop.

A parameter whose rate is 0 stands still from that step on. By the formula
alone it would go on moving by its old velocity, ten times its last step in
all; the 2012 program, whose runs ended with a frozen conv1, updates nothing
that has no rate, and so does this. The velocity dies out unseen, as it would.

'lars' multiplies a layer's rate by

  trust |w| / (|gradient| + decay |w|)

(You, Gitman and Ginsburg 2017), so that no step is large beside its weights. A
layer is that of all towers. `optax.scale_by_trust_ratio` has the norm of the
sum of gradient and decay below, and that of the towers of one device.

'adamw' is Optax's rule of 2017 in its place, with the same rules per layer.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax

from alexnet_jax.runtime import sharding
from alexnet_jax.runtime.checks import FLOAT32, Checked, Range, choice
from alexnet_jax.runtime.errors import UserError

Rules = Sequence[tuple[str, float]]


@dataclasses.dataclass(frozen=True)
class Rule(Checked, part='optimizer'):
  """`config.optimizer`.

  Attributes:
    kind: 'momentum', the rule above, 'lars' or 'adamw'.
    momentum: the share of the old velocity; of AdamW, of the old mean.
    beta2: of AdamW, the share of the old mean square.
    epsilon: of AdamW, added to the root of that.
    weight_decay: the share of a weight that a step takes off, times the rate.
    learning_rate_multipliers: ordered (pattern, multiplier); the first pattern
      that is found in a parameter's name, such as 'conv1/kernel', decides.
    decay_multipliers: likewise, of `weight_decay`; with 'lars' a parameter
      whose multiplier is 0 keeps the plain rate.
    ema: the share of the old average in the running average of the
      parameters; 0: none is kept.
    trust: of LARS, the share of a weight that a step at rate 1 moves it by.
  """

  kind: Annotated[str, choice('momentum', 'lars', 'adamw')]
  momentum: Annotated[float, Range(0, 1)]
  beta2: Annotated[float, Range(0, 1)]
  epsilon: Annotated[float, Range(0, 1)]
  weight_decay: Annotated[float, Range(0, FLOAT32)]
  learning_rate_multipliers: Rules
  decay_multipliers: Rules
  ema: Annotated[float, Range(0, 0.999999)]
  trust: Annotated[float, Range(0, FLOAT32)] = 0.001

  def __post_init__(self):
    super().__post_init__()
    for field in ('learning_rate_multipliers', 'decay_multipliers'):
      rules = getattr(self, field)
      try:
        fine = all(re.compile(text) and abs(by) < 1000 for text, by in rules)
      except (TypeError, ValueError, re.error):
        fine = False
      if not fine:
        raise UserError(
          f'config.optimizer.{field}={rules} are not pairs of a pattern and a '
          'multiplier'
        )


def param_names(params: nnx.State) -> Any:
  """The tree of `params` with each leaf's name, such as 'conv1/kernel'."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: '/'.join(k.key for k in path if hasattr(k, 'key')), params
  )


def trained(params: nnx.State) -> nnx.State:
  """What gradients move of a network: all but running averages."""
  return nnx.filter_state(params, nnx.Param)


def initial_velocity(rule: Rule, params: nnx.State) -> optax.OptState:
  """The state of `make_optimizer` before the first step."""
  params = trained(params)
  return make_optimizer(rule, params).init(params)


def multipliers(
  rules: Rules, params: nnx.State, otherwise: float | None = None
) -> Any:
  """The multiplier of each parameter.

  Args:
    rules: ordered (pattern, multiplier); the first pattern found in a name
      decides.
    params: whose structure and names count.
    otherwise: of a parameter that no pattern matches.

  Returns:
    A tree of floats.

  Raises:
    UserError: a parameter that no pattern matches and no `otherwise`, or a
      pattern that is the first for none.
  """
  used = set()

  def first(name: str) -> float:
    for number, (pattern, value) in enumerate(rules):
      if re.search(pattern, name):
        used.add(number)
        return float(value)
    if otherwise is not None:
      return otherwise
    raise UserError(f'no rule of {list(rules)} matches parameter {name!r}')

  values = jax.tree.map(first, param_names(params))
  unused = [rule for number, rule in enumerate(rules) if number not in used]
  if unused:
    names = sorted(jax.tree.leaves(param_names(params)))
    raise UserError(
      f'rules {unused} decide for no parameter; the names are {names}'
    )
  return values


def _rounded(product: jax.Array, rate: jax.Array) -> jax.Array:
  """A product, float32, which no compiler makes a multiply-add of: between it
  and the sum its last bit is turned if the rate has a sign, and it has none."""
  of_rate, bits = (
    lax.bitcast_convert_type(x, jnp.int32) for x in (rate, product)
  )
  sign = lax.shift_right_logical(of_rate, 31)
  return lax.bitcast_convert_type(bits ^ sign, jnp.float32)


def _norm(x: jax.Array) -> jax.Array:
  """Of a layer's parameter, whose towers may be on several devices."""
  return jnp.sqrt(sharding.total(jnp.sum(jnp.square(x))))


def make_optimizer(
  rule: Rule,
  params: nnx.State,
  learning_rates: jax.Array | Sequence[float] = (0.0,),
  patterns: Sequence[str] = (),
  num_examples: int = 1,
) -> optax.GradientTransformation:
  """The rule above at one step's rates; its state does not depend on them.

  Args:
    rule: momentum, decay, and their multipliers.
    params: the parameters; abstract ones will do.
    learning_rates: [1 + patterns], the main one and those of `patterns`;
      traced in the train step.
    patterns: a parameter has the rate of the first that is found in its name,
      else the main one, times its multiplier.
    num_examples: that the gradients are a sum over; the rule is of their mean.

  Raises:
    UserError: rules that leave out a parameter, or that decide for none.
  """
  decays = multipliers(rule.decay_multipliers, params)
  times = multipliers(rule.learning_rate_multipliers, params)
  numbers = [(pattern, i) for i, pattern in enumerate(patterns, start=1)]
  which = multipliers(numbers, params, otherwise=0)

  def rate(by: float, number: float) -> jax.Array:
    return by * jnp.asarray(learning_rates)[int(number)]

  def add_decay(grads, weights):
    decay = num_examples * rule.weight_decay

    def decayed(g: jax.Array, w: jax.Array, by: float) -> jax.Array:
      if not by:
        return g
      total = g + decay * by * w
      if rule.kind != 'lars':
        return total
      weight, slope = _norm(w), _norm(g)
      # Without a gradient the formula shrinks weights by the share `trust`,
      # however small their decay; without weights it has no value.
      return total * jnp.where(
        (weight > 0) & (slope > 0),
        rule.trust * num_examples * weight / (slope + decay * by * weight),
        1,
      )

    return jax.tree.map(decayed, grads, weights, decays)

  adam = optax.scale_by_adam(rule.momentum, rule.beta2, rule.epsilon)

  def update_adamw(grads, state, weights=None):
    def step(u, w, decay, *own):
      change = -rate(*own) * (u + rule.weight_decay * decay * w)
      return jnp.where(rate(*own) == 0, 0, change)

    means = jax.tree.map(lambda g: g / num_examples, grads)
    with jax.numpy_dtype_promotion('standard'):  # beta to the power of a step
      updates, state = adam.update(means, state)
    return jax.tree.map(step, updates, weights, decays, times, which), state

  if rule.kind == 'adamw':
    return optax.GradientTransformation(adam.init, update_adamw)

  # Where two products are added, a multiply-add rounds only one of them: which,
  # is a compiler's choice, and another for one device's program than for
  # two's. So the mean waits until decay is added, and the product with the rate
  # is rounded before the velocity is added: towers learn the same bits on
  # either mesh.
  def scaled(g: jax.Array, by: float, number: float) -> jax.Array:
    own = rate(by, number)
    return jnp.where(own == 0, 0, _rounded(-own / num_examples * g, own))

  def scale_by_rate(grads, _):
    return jax.tree.map(scaled, grads, times, which)

  chain = optax.chain(
    optax.stateless(add_decay),
    optax.stateless(scale_by_rate),
    optax.trace(rule.momentum),
  )

  def update(grads, state, weights=None):
    velocity, state = chain.update(grads, state, weights)
    frozen = jax.tree.map(
      lambda v, *own: jnp.where(rate(*own) == 0, 0, v), velocity, times, which
    )
    return frozen, state

  return optax.GradientTransformation(chain.init, update)
