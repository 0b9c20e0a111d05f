"""Towers on two devices are the towers on one: §3.2 is only a placement."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import max_norm_error
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax.models import layers, towers
from alexnet_jax.models.towers import MeshShape
from alexnet_jax.runtime import sharding
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training.settings import configure
from alexnet_jax.training.state import make_setup
from alexnet_jax.training.step import TrainStep
from configs import default

pytestmark = pytest.mark.usefixtures('cached')

BATCH = 8


def make(data, spread, width=0.125, crop=96, num_classes=7, **overrides):
  """The setup of a small network on a (data, spread) mesh."""
  config = default.get_config()
  config.batch_size = BATCH
  config.model.width = width
  config.augment.crop_size = crop
  config.update_from_flattened_dict(overrides)
  rng = np.random.default_rng(0)
  statistics = types.SimpleNamespace(
    mean_image=rng.uniform(100, 150, (crop + 32, crop + 32, 3)),
    rgb_mean=np.full(3, 125.0),
    eigenvalues=np.array([4000.0, 300.0, 60.0]),
    eigenvectors=np.linalg.qr(rng.normal(size=(3, 3)))[0],
  )
  mesh = MeshShape(data, spread).make_mesh(config.model.towers)
  return make_setup(configure(config), mesh, num_classes, statistics)


def batch(setup, step):
  rng = np.random.default_rng(step)
  size = setup.augment.crop_size + 32
  coarse = rng.integers(0, 256, (BATCH, size // 16, size // 16, 3), np.uint8)
  rows = sharding.local_rows(setup.batch_sharding, BATCH)
  images = coarse.repeat(16, 1).repeat(16, 2)
  labels = rng.integers(0, 7, BATCH, np.int32)
  return sharding.put_batch(
    setup.batch_sharding, rows, BATCH, {'image': images, 'label': labels}
  )


@functools.cache
def of_one_device():
  """What the others are compared with."""
  return logits_and_gradients(make(1, 1))


def logits_and_gradients(setup):
  """Of the initial network on central views, without dropout."""
  params = setup.init_state().params
  size = setup.augment.crop_size

  def body(params, batch):
    images = batch['image'][:, :size, :size].astype(jnp.float32) - 125.0

    def loss(params):
      logits = nnx.merge(setup.graphdef, params)(images)
      picked = jnp.take_along_axis(logits, batch['label'][:, None], 1)
      total = jax.nn.logsumexp(logits, 1).sum() - picked.sum()
      return jax.lax.psum(total, sharding.DATA), logits

    grads, logits = jax.grad(loss, has_aux=True)(params)
    return logits, grads

  specs = setup.specs().params
  mapped = jax.shard_map(
    body,
    mesh=setup.mesh,
    in_specs=(specs, P(sharding.DATA)),
    out_specs=(P(sharding.DATA), specs),
  )
  return jax.device_get(jax.jit(mapped)(params, batch(setup, 0)))


def three_steps(setup):
  state, step = setup.init_state(), TrainStep(setup)
  losses = []
  for i in range(3):
    state, metrics = step(state, batch(setup, i), jnp.float32([1e-3]))
    losses.append(metrics.compute()['loss'])
  return losses, jax.device_get(state)


def assert_close(got, want):
  names = jax.tree_util.tree_leaves_with_path(want)
  for a, (path, b) in zip(jax.tree.leaves(got), names, strict=True):
    assert max_norm_error(a, b) <= 1e-5, jax.tree_util.keystr(path)


@pytest.mark.fresh
@pytest.mark.slow
def test_logits_and_gradients():
  assert_close(logits_and_gradients(make(1, 2)), of_one_device())


@pytest.mark.fresh
def test_three_optimizer_steps_to_the_bit():
  """Any difference would turn a unit on or off in some later step."""
  got, want = three_steps(make(1, 2)), three_steps(make(1, 1))
  jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.fresh
@pytest.mark.slow
def test_full_width_logits_gradients_and_three_steps():
  full = {'width': 1.0, 'crop': 224}
  assert_close(
    logits_and_gradients(make(1, 2, **full)),
    logits_and_gradients(make(1, 1, **full)),
  )
  got, want = three_steps(make(1, 2, **full)), three_steps(make(1, 1, **full))
  jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.fresh
@pytest.mark.slow
@pytest.mark.parametrize('data', [2, 4])
def test_the_data_axis_sums_the_same_gradients(data):
  """Over examples the sum has another order, but the same terms."""
  assert_close(logits_and_gradients(make(data, 2)), of_one_device())


@pytest.mark.parametrize(
  'still',
  [
    {'model.dropout': 0.0},
    {
      'augment.random_crop': False,
      'augment.random_flip': False,
      'augment.color': 0.0,
    },
  ],
  ids=['views', 'dropout'],
)
def test_each_step_draws_anew(still):
  """One batch twice, nothing learned: only the draws differ."""
  setup = make(1, 1, **still)
  state, step = setup.init_state(), TrainStep(setup)
  losses = []
  for _ in range(2):
    state, metrics = step(state, batch(setup, 0), jnp.float32([0]))
    losses.append(metrics.compute()['loss'])
  assert losses[0] != losses[1]


@pytest.mark.fresh
@pytest.mark.slow
@pytest.mark.parametrize('spread', [1, 2])
def test_one_function_after_conv1_is_the_three_it_stands_for(
  monkeypatch, spread
):
  """conv1 and conv2 take `relu_norm_pool`, until nothing is one kernel."""
  setup = make(1, spread, width=1 / 3)  # conv1 has 16 maps
  calls, whole = [], layers.relu_norm_pool
  # An accelerator's kernel takes no batch as small; its formula does.
  monkeypatch.setattr(layers, 'fits', lambda *args, **kwargs: True)
  monkeypatch.setattr(
    layers,
    'relu_norm_pool',
    lambda *args: calls.append(1) or whole(*args),
  )
  got = three_steps(setup)
  assert calls
  calls.clear()
  monkeypatch.setattr(layers, 'is_one_kernel', lambda *args: False)
  want = three_steps(setup)
  assert not calls
  assert_close(got, want)


def test_tower_parameters_lie_on_their_tower_only():
  setup = make(2, 2)
  state = setup.init_state()
  for tree in (state.params, state.opt_state):
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
      readout_bias = leaf.ndim == 1
      spec = P() if readout_bias else P(towers.TOWER)
      assert leaf.sharding.spec == spec, jax.tree_util.keystr(path)
      if not readout_bias:
        assert {s.data.shape[0] for s in leaf.addressable_shards} == {1}


@pytest.mark.parametrize('spread', [1, 2])
def test_exchange_and_total_follow_the_order_of_the_towers(spread):
  mesh = MeshShape(1, spread).make_mesh(2)
  held = 2 // spread

  def body(x):  # [held, 3]
    xs = list(x)
    own = towers.Towers(towers.TOWER)
    joined = own.read_maps(xs, 'both')
    assert len(joined) == held
    numbers = jnp.stack(
      [jnp.asarray(i, jnp.float32) for i in own.numbers(held)]
    )
    return joined[0][None], own.sum_halves(xs), numbers

  tower = P(towers.TOWER)
  mapped = jax.shard_map(
    body, mesh=mesh, in_specs=tower, out_specs=(tower, P(), tower)
  )
  x = np.arange(6, dtype=np.float32).reshape(2, 3)
  x = jax.device_put(x, NamedSharding(mesh, tower))
  joined, total, numbers = jax.jit(mapped)(x)
  for row in np.asarray(joined):
    np.testing.assert_array_equal(row, [0, 1, 2, 3, 4, 5])
  np.testing.assert_array_equal(total, [3, 5, 7])
  np.testing.assert_array_equal(numbers, [0, 1])


@pytest.mark.parametrize('spread', [1, 2])
@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_a_narrow_exchange_rounds_maps_and_their_gradients(dtype, spread):
  mesh = MeshShape(1, spread).make_mesh(2)
  tower = P(towers.TOWER)

  def body(x, g):  # [held, 3] and [held, 6] of towers
    own = towers.Towers(towers.TOWER, exchange_dtype=dtype)
    read = lambda x: jnp.stack(own.read_maps(list(x), 'both'))  # noqa: E731
    joined, pull = jax.vjp(read, x)
    return joined, pull(g)[0]

  mapped = jax.shard_map(
    body, mesh=mesh, in_specs=(tower, tower), out_specs=(tower, tower)
  )
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 3)).astype(np.float32)
  g = rng.normal(size=(2, 6)).astype(np.float32)
  place = NamedSharding(mesh, tower)
  exact = {'xla_allow_excess_precision': False}  # XLA may round less
  joined, back = jax.jit(mapped, compiler_options=exact)(
    jax.device_put(x, place), jax.device_put(g, place)
  )
  narrow = lambda x: x.astype(dtype)  # noqa: E731
  for row in np.asarray(joined):
    np.testing.assert_array_equal(row, narrow(x.ravel()).astype(np.float32))
  total = narrow(narrow(g).astype(np.float32).sum(0)).astype(np.float32)
  np.testing.assert_array_equal(back, total.reshape(2, 3))


def test_without_a_mesh_all_towers_are_here():
  xs = [jnp.ones(2), jnp.zeros(2)]
  own = towers.Towers()
  for joined in own.read_maps(xs, 'both'):
    np.testing.assert_array_equal(joined, [1, 1, 0, 0])
  assert own.read_maps(xs, 'own') is xs
  np.testing.assert_array_equal(own.sum_halves(xs), [1, 1])
  assert own.numbers(2) == [0, 1]


def test_owt_is_refused_where_nothing_follows_the_convolutions():
  config = default.get_config()
  config.mesh.parallelism = 'owt'
  config.model.layers = ('conv1', 'conv2', 'fc8')
  with pytest.raises(UserError, match="parallelism='owt' spreads the fully"):
    configure(config)
