"""The paper's momentum rule (§5) as an Optax chain, with rules per layer.

  v <- momentum v - decay rate w - rate gradient ;  w <- w + v

The rate is inside the velocity: when it drops, the old velocity is not
rescaled. `optax.sgd` has it outside, which is another rule after a drop.
"""

import re
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
import optax
from flax import nnx

from alexnet_jax.runtime.errors import UserError

Rules = Sequence[tuple[str, float]]


def param_names(params: nnx.State) -> Any:
  """The tree of `params` with each leaf's name, such as 'conv1/kernel'."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: '/'.join(k.key for k in path if hasattr(k, 'key')), params
  )


def multipliers(rules: Rules, params: nnx.State) -> Any:
  """The multiplier of each parameter.

  Args:
    rules: ordered (pattern, multiplier); the first pattern found in a name
      decides.
    params: whose structure and names count.

  Returns:
    A tree of floats.

  Raises:
    UserError: a parameter that no pattern matches, or a pattern that
      is the first for none.
  """
  used = set()

  def first(name: str) -> float:
    for number, (pattern, value) in enumerate(rules):
      if re.search(pattern, name):
        used.add(number)
        return float(value)
    raise UserError(f'no rule of {list(rules)} matches parameter {name!r}')

  values = jax.tree.map(first, param_names(params))
  unused = [rule for number, rule in enumerate(rules) if number not in used]
  if unused:
    names = sorted(jax.tree.leaves(param_names(params)))
    raise UserError(
      f'rules {unused} decide for no parameter; the names are {names}'
    )
  return values


def make_optimizer(
  config: ml_collections.ConfigDict,
  params: nnx.State,
  rate: jax.Array | float = 0.0,
) -> optax.GradientTransformation:
  """The rule above at one rate; its state does not depend on the rate.

  Args:
    config: `config.optimizer`.
    params: the parameters; abstract ones will do.
    rate: of this step, a traced scalar in the train step.

  Raises:
    UserError: rules that leave out a parameter.
  """
  decays = multipliers(config.decay_multipliers, params)
  rates = multipliers(config.rate_multipliers, params)

  def add_decay(grads, weights):
    return jax.tree.map(
      lambda g, w, by: g + config.weight_decay * by * w if by else g,
      grads,
      weights,
      decays,
    )

  def scale_by_rate(grads, _):
    return jax.tree.map(lambda g, by: -rate * by * g, grads, rates)

  return optax.chain(
    optax.stateless(add_decay),
    optax.stateless(scale_by_rate),
    optax.trace(config.momentum),
  )
