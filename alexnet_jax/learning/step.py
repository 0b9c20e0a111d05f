"""One training step of §5: views, forward, backward, momentum, compiled once
for the whole mesh."""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax
from jax.sharding import PartitionSpec as P

from alexnet_jax.data import augment
from alexnet_jax.learning.optimizer import make_optimizer
from alexnet_jax.learning.state import Setup, TrainState
from alexnet_jax.runtime import sharding
from alexnet_jax.runtime.metrics import Metrics

Batch = Mapping[str, jax.Array]
fold = jax.vmap(jax.random.fold_in, (0, None))


def make_train_step(setup: Setup) -> functools.partial:
  """One compiled step over the whole mesh.

  Returns:
    A function of the state (donated), a batch as `put_batch` lays it, and the
    rate, that gives the next state and the sums of the step's own metrics: a
    jitted one, with the constants of the views filled in.
  """
  config, specs = setup.config, setup.specs()

  def body(state: TrainState, batch: Batch, rate: jax.Array, constants):
    images, labels = batch['image'], batch['label']  # [b, S, S, 3], [b]
    # Every draw is a function of (seed, step, example, purpose[, tower]),
    # never of the device that makes it.
    key = jax.random.fold_in(jax.random.key(config.seed), state.step)
    local = labels.shape[0]
    rows = lax.axis_index(sharding.DATA) * local + jnp.arange(local)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
    with jax.named_scope('augment'):
      views = augment.training_views(
        config.augment, constants, images, fold(keys, 0)
      )

    def loss_fn(params: nnx.State) -> tuple[jax.Array, jax.Array]:
      model = nnx.merge(setup.graphdef, params)
      logits = model(views, fold(keys, 1))
      with jax.named_scope('loss'):
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        # Summed over the mesh inside, so the gradient comes out summed, too.
        loss = lax.psum(losses.sum(), sharding.DATA) / config.batch_size
      return loss, logits

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, logits), grads = grad_fn(state.params)
    sums = lax.psum(Metrics.of(logits, labels), sharding.DATA)
    with jax.named_scope('update'):
      tx = make_optimizer(config.optimizer, state.params, rate)
      updates, opt_state = tx.update(grads, state.opt_state, state.params)
      params = optax.apply_updates(state.params, updates)
    bad = sum(jnp.sum(~jnp.isfinite(u)) for u in jax.tree.leaves(updates))
    finite = jnp.isfinite(loss) & (lax.psum(bad, sharding.TOWER) == 0)
    first_bad = (state.nonfinite_step < 0) & ~finite
    step = state.step + 1
    state = TrainState(
      step=step,
      params=params,
      opt_state=opt_state,
      nonfinite_step=jnp.where(first_bad, step, state.nonfinite_step),
    )
    return state, sums

  mapped = jax.shard_map(
    body,
    mesh=setup.mesh,
    in_specs=(specs, sharding.BATCH, P(), P()),
    out_specs=(specs, P()),
  )

  def train_step(state, batch, rate, constants):
    with jax.default_matmul_precision(config.matmul_precision):
      return mapped(state, batch, rate, constants)

  step = jax.jit(train_step, donate_argnames='state')
  # An argument, not a constant that each compilation would fold in.
  constants = jax.device_put(
    setup.constants, jax.NamedSharding(setup.mesh, P())
  )
  return functools.partial(step, constants=constants)
