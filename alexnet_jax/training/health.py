"""Is a run alive? Signal, dead units and the scale of updates, layer by layer.

The shares are of one batch: how much of what a layer says depends on the image
(the spread of a unit over the images, against its mean activity), and how many
of its units, kernels where it is a convolution, are zero on all of it. The
authors' initial weights bring 11 % to fc7; at a hundredth of that a network
stays at chance.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax.models.rows import Table
from alexnet_jax.models.towers import TOWER
from alexnet_jax.runtime import backend, sharding
from alexnet_jax.runtime.metrics import standard_error
from alexnet_jax.training.state import Setup, TrainState
from alexnet_jax.training.views import test_views

# Of the signal that reaches the last hidden layer. With less, learning starts
# late or never: measured, docs/paper.md.
STALLS = 0.004
DEAD = 0.5  # share of a tower's units in a layer
LOUD = 0.05  # an update against the weights: more will not settle
AT_CHANCE = 0.05  # the loss is as near to log(classes) as this share of it


@dataclasses.dataclass(frozen=True)
class Health:
  """What was measured, by layer, in the order of the network.

  Attributes:
    spread: of the pixels that the network sees, after mean and scale.
    signal: [towers], spread over images against mean activity; 0: nothing.
    dead: [towers], share of units that are zero on every image.
    update: root mean square of the last update against the weights'.
  """

  spread: float
  signal: Mapping[str, np.ndarray]
  dead: Mapping[str, np.ndarray]
  update: Mapping[str, float]

  def scalars(self) -> dict[str, float]:
    """A row of metrics: the mean over towers of each."""
    values = {}
    for name, signal in self.signal.items():
      values[f'health/{name}_signal'] = float(signal.mean())
      values[f'health/{name}_dead'] = float(self.dead[name].mean())
    for name, update in self.update.items():
      values[f'health/{name}_update'] = update
    return values


def make_probe(setup: Setup) -> Callable[[TrainState, jax.Array], Health]:
  """Measures a state on a batch of images as `put_batch` lays it.

  One forward pass of the central views without dropout; the state is left as
  it is. The update is the velocity, which is what the last step added.
  """
  size, axes = setup.augment.crop_size, setup.towers.batch_axes

  def body(state: TrainState, images: jax.Array, constants):
    views = test_views(constants, images, size, 1)[0]
    model = nnx.merge(setup.graphdef, state.params)
    out = model.activations(views)
    signal, dead = {}, {}
    # The activation function of a convolution may come after others.
    at = {
      row.name: row.output('act') if 'act' in row.then else row.name
      for row in setup.table.convs
    }
    at |= {row.name: row.name for row in setup.table.denses}
    for name, output in at.items():
      signal[name], dead[name] = _shares(setup, name, out[output])
    trees: list[Any] = [(trace, state.params) for trace in _velocity(state)]
    squares = {
      name: [_squares(tree[name]['kernel'][...]) for tree in pair]
      for pair in trees
      for name in state.params
    }
    spread = jnp.sqrt(lax.pmean(jnp.square(views).mean(), axes))
    return spread, signal, dead, squares

  tower = P(TOWER)
  probe = jax.jit(
    jax.shard_map(
      body,
      mesh=setup.mesh,
      in_specs=(setup.specs(), P(axes), P()),
      out_specs=(P(), tower, tower, P()),
    ),
    compiler_options=backend.HASTY,
  )
  constants = jax.device_put(setup.constants, NamedSharding(setup.mesh, P()))

  def measure(state: TrainState, images: jax.Array) -> Health:
    with jax.default_matmul_precision(setup.matmul_precision):
      found = probe(state, images, constants)
    spread, signal, dead, squares = multihost_utils.process_allgather(
      found, tiled=True
    )
    # jit sorts the names of a dict; conv1 to fc8 are sorted.
    return Health(
      spread=float(spread),
      signal=signal,
      dead=dead,
      update={
        name: math.sqrt(float(step) / float(weights)) if weights else 0.0
        for name, (step, weights) in squares.items()
      },
    )

  return measure


def _shares(
  setup: Setup, name: str, xs: Sequence[jax.Array]
) -> tuple[jax.Array, jax.Array]:
  """Signal and dead units of a layer on this device's towers.

  With 'owt', a convolution has the maps of all towers here, on rows of this
  device: each device keeps those of its own.
  """
  own = setup.towers.owt and name.startswith('conv')
  axes = setup.towers.batch_axes if own else (sharding.DATA,)

  def mean(x: jax.Array) -> jax.Array:
    return lax.pmean(x.mean(0), axes)

  signal, dead = [], []
  for x in (x.astype(jnp.float32) for x in xs):
    # Two passes: the spread may be a millionth of the mean.
    deviation = jnp.sqrt(mean((x - mean(x)) ** 2)).mean()
    activity = mean(jnp.abs(x)).mean()
    signal.append(deviation / jnp.maximum(activity, 1e-30))
    places = tuple(range(x.ndim - 1))
    silent = lax.psum((x != 0).sum(places), axes) == 0
    dead.append(silent.mean(dtype=jnp.float32))
  if not own:
    return jnp.stack(signal), jnp.stack(dead)
  here = len(xs) // lax.axis_size(TOWER)
  start = here * lax.axis_index(TOWER)
  return (
    lax.dynamic_slice_in_dim(jnp.stack(signal), start, here),
    lax.dynamic_slice_in_dim(jnp.stack(dead), start, here),
  )


def _velocity(state: TrainState) -> list[Any]:
  """What the last step added; of AdamW, which does not keep it, nothing."""
  parts = state.opt_state
  return [s.trace for s in parts if isinstance(s, optax.TraceState)]


def _squares(x: jax.Array) -> jax.Array:
  return sharding.total(jnp.square(x).sum())


def warnings(health: Health, table: Table) -> list[str]:
  """What will keep a network from learning, each with its likely cause."""
  found = []
  last = list(health.signal)[-1]
  arrives = float(health.signal[last].mean())
  if not arrives >= STALLS:
    found.append(
      f'only {arrives:.3%} of what {last} says depends on the image (10 % is '
      f'healthy): the loss is likely to stay at log(classes). '
      f'{cause(health, table)}'
    )
  for name, dead in health.dead.items():
    for number, share in enumerate(dead, start=1):
      if share > DEAD:
        found.append(
          f'{share:.0%} of the units of {name} in tower {number} are zero on a '
          'whole batch: a lower config.schedule.learning_rate, or other '
          'initial biases'
        )
  for name, update in health.update.items():
    if update > LOUD:
      found.append(
        f'a step changes the weights of {name} by {update:.1%}: a lower '
        'config.schedule.learning_rate (0.1 % is usual)'
      )
  return found


def cause(health: Health, table: Table) -> str:
  """Why little signal arrives, most likely."""
  if health.spread < 10:
    return (
      f'The views have a spread of {health.spread:.2g}, the initial weights '
      'are made for pixels of 0 to 255 (about 60): config.augment.scale=1.0'
    )
  low = [
    row
    for row in table.convs
    if row.name in ('conv3', 'conv4', 'conv5')
    and row.init_std * table.width**0.5 < 0.02
  ]
  if table.name == 'alexnet' and low:
    layers = ', '.join(row.name for row in low)
    return (
      f"{layers} start at {low[0].init_std:.2g}, the authors' program has 0.03 "
      f'at full width: config.model.{low[0].name}.init_std'
    )
  shares = {name: float(s.mean()) for name, s in health.signal.items()}
  names = list(shares)
  falls = {
    name: shares[before] / max(shares[name], 1e-30)
    for before, name in itertools.pairwise(names)
  }
  where = max(falls, key=lambda name: falls[name])
  return (
    f'Most is lost in {where}: look at config.model.{where}.init_std and '
    'init_bias'
  )


def alarm(
  values: Mapping[str, float],
  count: int,
  num_classes: int,
  health: Health,
  table: Table,
) -> str | None:
  """What to say of a network that guesses; None: it does not.

  Either the loss or the error shows that a network learns: early on the loss
  may still be that of guessing while the error is below it.

  Args:
    values: 'loss' and 'top1_error' on validation, after an epoch or more.
    count: how many images these are of.
    num_classes: the loss of guessing is its logarithm.
    health: of the state.
    table: of the network.
  """
  loss, error = values['loss'], values['top1_error']
  chance = math.log(num_classes)
  wrong = 1 - 1 / num_classes
  if loss < (1 - AT_CHANCE) * chance:
    return None
  if error + standard_error(error, count) < wrong:
    return None
  found = warnings(health, table) or [
    'the signal arrives: try another config.schedule.learning_rate, or look at '
    'the labels'
  ]
  return (
    f'the loss is {loss:.3f}, guessing has {chance:.3f}; the error is '
    f'{error:.1%}, guessing has {wrong:.1%}; {"; ".join(found)}'
  )
