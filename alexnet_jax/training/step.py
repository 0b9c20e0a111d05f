"""One training step of §5: views, forward, backward, momentum, compiled once
for the whole mesh."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax
from jax.sharding import PartitionSpec as P

from alexnet_jax.runtime import sharding
from alexnet_jax.runtime.metrics import Metrics
from alexnet_jax.training import views
from alexnet_jax.training.cache import pick
from alexnet_jax.training.optimizer import make_optimizer
from alexnet_jax.training.state import Setup, TrainState

Batch = Mapping[str, jax.Array]
VIEW, DROPOUT = 0, 1  # what a key is for


def loss_and_logits(
  setup: Setup,
  params: nnx.State,
  cuts: jax.Array,
  labels: jax.Array,
  keys: jax.Array | None,
) -> tuple[jax.Array, tuple[jax.Array, nnx.State]]:
  """Inside `shard_map`: what a step differentiates.

  Args:
    setup: of `make_setup`.
    params: of the network, as this device holds them.
    cuts: the views, [b, crop, crop, 3].
    labels: int32, of the rows that the logits on this device have.
    keys: for dropout, one per label; None at test time.

  Returns:
    The loss, summed over the whole batch; and with it the logits on this
    device, and the running averages of batch normalization, if it has any.
  """
  model = nnx.merge(setup.graphdef, params, copy=True)
  logits = model(cuts, keys)
  with jax.named_scope('loss'):
    losses = cross_entropies(logits, labels, setup.label_smoothing)
    # Summed over the mesh inside, so the gradient comes out summed, too.
    # The optimizer takes the mean: what towers send back may be float16, in
    # which gradients of the mean would vanish.
    loss = lax.psum(losses.sum(), sharding.DATA)
  return loss, (logits, nnx.state(model, nnx.BatchStat))


def cross_entropies(
  logits: jax.Array, labels: jax.Array, smoothing: float
) -> jax.Array:
  """Of each example, in nats: float32 [b].

  Args:
    logits: [b, classes].
    labels: int32 [b].
    smoothing: the share of a label that is spread over all classes evenly
      (Szegedy et al. 2016, §7).
  """
  if not smoothing:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  wanted = jax.nn.one_hot(labels, logits.shape[1])
  return optax.softmax_cross_entropy(
    logits, optax.smooth_labels(wanted, smoothing)
  )


def running_average(
  average: nnx.State | None, params: nnx.State, ema: float, step: jax.Array
) -> nnx.State | None:
  """The average after a step: average <- d average + (1 - d) params.

  d is `ema`, and (1 + step) / (10 + step) while that is less, so that the
  initial weights are soon forgotten (TensorFlow's ExponentialMovingAverage).

  Args:
    average: before the step; None: none is kept.
    params: after it.
    ema: of `config.optimizer`.
    step: int32, steps done before this one.
  """
  if average is None:
    return None
  share = 1 - jnp.minimum(ema, (1 + step) / (10 + step))
  return optax.incremental_update(params, average, share)


def row_keys(key: jax.Array, rows: jax.Array, purpose: int) -> jax.Array:
  """A key for each of some rows of the batch.

  Args:
    key: of the step.
    rows: int32 [b], their numbers in the whole batch.
    purpose: `VIEW` or `DROPOUT`.

  Returns:
    [b] typed keys.
  """

  def of(row: jax.Array) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(key, row), purpose)

  return jax.vmap(of)(rows)


class TrainStep:
  """One compiled step over the whole mesh: `jitted_step`, with the constants
  of the views and the cache filled in.

  Args:
    setup: of `make_setup`.
    given: the batch's images are views already, float32
      [b, crop, crop, 3]: the benchmark's.
    cache: `cache.Cache.arrays`; a batch then is {'index': int32 [B]}, which
      of them it has.
  """

  def __init__(
    self, setup: Setup, given: bool = False, cache: Batch | None = None
  ):
    # Arguments, not constants that each compilation would fold in.
    self._noisy, self._plain = jax.device_put(
      (setup.constants, setup.constants.without_color()),
      jax.NamedSharding(setup.mesh, P()),
    )
    self._cache = cache
    place: Any = cache['label'].sharding if cache else None
    self._step = jitted_step(setup, given, spread=bool(place and place.spec))

  def __call__(
    self,
    state: TrainState,
    batch: Batch,
    learning_rates: Any,
    color: bool = True,
  ) -> tuple[TrainState, Metrics]:
    """Takes the step.

    Args:
      state: donated.
      batch: as `put_batch` lays it.
      learning_rates: of `schedules.learning_rates`.
      color: whether there is noise in the views' colours.

    Returns:
      The next state, and the sums of the step's own metrics.
    """
    constants = self._noisy if color else self._plain
    return self._step(state, batch, learning_rates, constants, self._cache)

  def compile(
    self, state: TrainState, batch: Batch, learning_rates: Any
  ) -> jax.stages.Compiled:
    """What a call with such arguments would compile, and now need not."""
    arguments = state, batch, learning_rates, self._noisy, self._cache
    return self._step.lower(*arguments).compile()


def add_parts(
  function: Callable[[Any, Any], tuple[Any, Any]],
  carry: Any,
  rows: Any,
  parts: int,
) -> tuple[Any, Any]:
  """What a function gives of some rows, as sums over parts of them.

  Only one part's activations are in memory at a time.

  Args:
    function: (carry, rows) to (carry, sums).
    carry: handed from part to part.
    rows: a tree of arrays [b, ...].
    parts: how many, a divisor of b.

  Returns:
    (carry, sums).
  """
  if parts == 1:
    return function(carry, rows)
  split = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), rows)
  first = jax.tree.map(lambda x: x[0], split)
  _, sums = jax.eval_shape(function, carry, first)

  def add(so_far, part):
    carry, sums = so_far
    carry, more = function(carry, part)
    return (carry, jax.tree.map(jnp.add, sums, more)), None

  return lax.scan(add, (carry, jax.tree.map(jnp.zeros_like, sums)), split)[0]


def jitted_step(
  setup: Setup, given: bool = False, spread: bool = False
) -> jax.stages.Wrapped:
  """The step of `TrainStep` as a function of state, batch, learning rates,
  constants and cache, which may be spread over the axis of the batch. To lower
  and compile it takes no devices."""
  specs, axes = setup.specs(), setup.towers.batch_axes

  def body(
    state: TrainState,
    batch: Batch,
    learning_rates: jax.Array,
    constants: views.Constants,
    cache: Batch | None,
  ):
    # Every draw is a function of (seed, step, example, purpose[, tower]),
    # never of the device that makes it, nor of the part of the batch.
    key = jax.random.fold_in(jax.random.key(setup.seed), state.step)
    local = len(jax.tree.leaves(batch)[0])
    params, averages = nnx.split_state(state.params, nnx.Param, nnx.BatchStat)

    def gradients_of(averages: nnx.State, part: tuple[Batch, jax.Array]):
      """Of a part of this device's rows: sums of gradients and metrics."""
      batch, places = part
      if cache is not None:
        index = batch['index']
        batch = {name: pick(share, index) for name, share in cache.items()}
      cuts = batch['image']  # [b, S, S, 3]
      labels = setup.replica_rows(batch['label'])
      rows = lax.axis_index(axes) * local + places
      view_keys = row_keys(key, rows, VIEW)
      cut_keys = row_keys(key, rows // setup.augment.share, VIEW)
      # One device's labels, or those of all towers' devices.
      many = len(labels) // len(places)
      devices = lax.axis_index(sharding.DATA) * many + jnp.arange(many)
      label_rows = (devices[:, None] * local + places).reshape(-1)
      dropout_keys = row_keys(key, label_rows, DROPOUT)
      if not given:
        with jax.named_scope('augment'):
          cuts = views.training_views(
            setup.augment, constants, cuts, view_keys, cut_keys
          )

      def loss_fn(params: nnx.State):
        whole = nnx.merge_state(params, averages)
        return loss_and_logits(setup, whole, cuts, labels, dropout_keys)

      grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
      (loss, (logits, averages)), grads = grad_fn(params)
      sums = lax.psum(Metrics.of(logits, labels), sharding.DATA)
      return averages, (grads, loss, sums)

    averages, (grads, loss, sums) = add_parts(
      gradients_of, averages, (batch, jnp.arange(local)), setup.accumulate
    )
    with jax.named_scope('update'):
      tx = make_optimizer(
        setup.optimizer,
        params,
        learning_rates,
        setup.schedule.patterns,
        num_examples=setup.batch_size,
      )
      updates, opt_state = tx.update(grads, state.opt_state, params)
      params = optax.apply_updates(params, updates)
      # A sum is finite where all it adds are, unless they are so large that
      # training has failed as well. To count those that are not, XLA on CPUs
      # would first write out which they are. Asked of velocities, XLA on TPUs
      # would make a pass for them and another for the parameters.
      finite = jnp.isfinite(loss + sharding.total(optax.tree.sum(params)))
      params = nnx.merge_state(params, averages)
      average = running_average(
        state.average, params, setup.optimizer.ema, state.step
      )
    first_bad = (state.nonfinite_step < 0) & ~finite
    step = state.step + 1
    state = TrainState(
      step=step,
      params=params,
      opt_state=opt_state,
      nonfinite_step=jnp.where(first_bad, step, state.nonfinite_step),
      average=average,
    )
    return state, sums

  mapped = jax.shard_map(
    body,
    mesh=setup.mesh,
    in_specs=(specs, P(axes), P(), P(), P(*[sharding.DATA] * spread)),
    out_specs=(specs, P()),
  )

  def train_step(state, batch, learning_rates, constants, cache=None):
    with jax.default_matmul_precision(setup.matmul_precision):
      return mapped(state, batch, learning_rates, constants, cache)

  return jax.jit(train_step, donate_argnames='state')
