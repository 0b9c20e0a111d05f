"""Batch normalization: its formulas in NumPy, the same numbers on every mesh,
and a run with it that resumes to the bit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_runs
import test_towers
from conftest import max_norm_error
from flax import nnx
from jax.sharding import PartitionSpec as P

import alexnet_jax
from alexnet_jax.data import builders
from alexnet_jax.formats import names
from alexnet_jax.models import rows
from alexnet_jax.models.batch_norm import BatchNorm
from alexnet_jax.models.towers import MeshShape
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training import evaluation as evaluate
from alexnet_jax.training import loop as train

pytestmark = [pytest.mark.usefixtures('cached'), pytest.mark.fresh]

CHOICE = rows.BatchNorm(momentum=0.75, epsilon=1e-3)


def random_layer(seed=0):
  """Of two towers with three maps, with no number that is 0 or 1."""
  rng = np.random.default_rng(seed)
  layer = BatchNorm(2, 3)
  for name in ('scale', 'bias', 'mean', 'var'):
    value = jnp.asarray(rng.uniform(0.5, 2, (2, 3)), jnp.float32)
    setattr(layer, name, type(getattr(layer, name))(value))
  return layer


def random_maps(seed):
  """Two towers' maps, far from 0 where digits would be lost."""
  rng = np.random.default_rng(seed)
  x = 100 * rng.normal(size=(2, 4, 5, 6, 3)) + [3, -1000, 20000]
  return list(x.astype(np.float32))


def random_weights():
  """What outputs are summed with, where a gradient is wanted."""
  draw = np.random.default_rng(1).normal(size=(2, 4, 5, 6, 3))
  return list(draw.astype(np.float32))


def values(layer):
  return {
    name: np.asarray(getattr(layer, name)[...], np.float64)
    for name in ('scale', 'bias', 'mean', 'var')
  }


def test_training_is_by_the_batch_and_moves_the_averages():
  layer, want = random_layer(), values(random_layer())
  for seed in range(2):
    xs = random_maps(seed)
    found = layer(xs, CHOICE, training=True)
    for tower, (x, y) in enumerate(zip(xs, found, strict=True)):
      x = x.astype(np.float64).reshape(-1, 3)
      normal = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-3)
      normal = normal * want['scale'][tower] + want['bias'][tower]
      # 20,000 against a spread of 100: three of float32's digits are gone.
      assert max_norm_error(np.asarray(y).reshape(-1, 3), normal) <= 1e-4
      for name, new in (('mean', x.mean(0)), ('var', x.var(0, ddof=1))):
        old = want[name][tower]
        want[name][tower] = 0.75 * old + 0.25 * new
  for name, value in values(layer).items():
    assert max_norm_error(value, want[name]) <= 1e-5, name


def test_evaluation_is_by_the_averages():
  layer, want = random_layer(), values(random_layer())
  xs = random_maps(0)
  for tower, y in enumerate(layer(xs, CHOICE, training=False)):
    center, spread = want['mean'][tower], np.sqrt(want['var'][tower] + 1e-3)
    y64 = (xs[tower] - center) / spread * want['scale'][tower]
    assert max_norm_error(y, y64 + want['bias'][tower]) <= 1e-5
  for name, value in values(layer).items():
    np.testing.assert_array_equal(value, want[name])


def test_gradients():
  layer, xs = random_layer(), [x / 100 for x in random_maps(0)]
  graphdef, params, averages = nnx.split(layer, nnx.Param, nnx.BatchStat)
  weights = random_weights()

  def loss(params, xs):
    layer = nnx.merge(graphdef, params, averages, copy=True)
    found = layer(xs, CHOICE, training=True)
    return sum((w * y).sum() for w, y in zip(weights, found, strict=True))

  grads, dxs = jax.jit(jax.grad(loss, (0, 1)))(params, xs)
  for tower in range(2):
    x, dy = (a[tower].astype(np.float64).reshape(-1, 3) for a in (xs, weights))
    spread = np.sqrt(x.var(0) + 1e-3)
    normal = (x - x.mean(0)) / spread
    scale = values(layer)['scale'][tower]
    # Section 3 of the paper of 2015, its three paths to x as one.
    dx = dy - dy.mean(0) - normal * (dy * normal).mean(0)
    got = np.asarray(dxs[tower]).reshape(-1, 3)
    assert max_norm_error(got, dx * scale / spread) <= 1e-4
    assert max_norm_error(grads['bias'][...][tower], dy.sum(0)) <= 1e-5
    want = (dy * normal).sum(0)
    assert max_norm_error(grads['scale'][...][tower], want) <= 1e-4


def layer_on_mesh(data, towers):
  """Output, gradients and averages of the layer on devices."""
  mesh = MeshShape(data, towers).make_mesh(2)
  graphdef, params, averages = nnx.split(
    random_layer(), nnx.Param, nnx.BatchStat
  )
  xs, weights = jnp.stack(random_maps(0)), jnp.stack(random_weights())

  def body(params, averages, xs, weights):
    def loss(params, xs):
      layer = nnx.merge(graphdef, params, averages, copy=True)
      ys = jnp.stack(layer(list(xs), CHOICE, training=True, axes=('data',)))
      total = jax.lax.psum((weights * ys).sum(), ('data', 'tower'))
      return total, (ys, nnx.state(layer, nnx.BatchStat))

    return jax.grad(loss, (0, 1), has_aux=True)(params, xs)

  tower, parts = P('tower'), P('tower', 'data')
  specs = (tower, tower, parts, parts), ((tower, parts), (parts, tower))
  args = [
    jax.device_put(arg, jax.NamedSharding(mesh, spec))
    for arg, spec in zip((params, averages, xs, weights), specs[0], strict=True)
  ]
  mapped = jax.shard_map(body, mesh=mesh, in_specs=specs[0], out_specs=specs[1])
  return jax.device_get(jax.jit(mapped)(*args))


def test_devices_share_the_statistics():
  want = layer_on_mesh(1, 1)
  for mesh in ((2, 1), (1, 2), (4, 2)):
    got = layer_on_mesh(*mesh)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
      assert max_norm_error(a, b) <= 1e-4, mesh


def test_statistics_are_float32():
  layer = random_layer()
  xs = [jnp.full((2, 200, 200, 3), 3, jnp.bfloat16)] * 2
  found = layer(xs, rows.BatchNorm(0.0, 1e-3), training=True)
  assert found[0].dtype == jnp.bfloat16
  # bfloat16 would not count to 80,000.
  np.testing.assert_array_equal(layer.mean[...], 3)
  assert layer.var[...].dtype == jnp.float32


# -- in the network


def normed():
  return {
    'model.conv1.then': ('act', 'batch_norm', 'pool'),
    'model.conv2.then': ('act', 'pool', 'batch_norm'),
    'model.conv4.then': ('act', 'batch_norm'),
    # Where no unit is cut off, the gradient of a bias is 0 but for rounding.
    'model.conv2.init_bias': 0.0,
    'model.conv4.init_bias': 0.0,
  }


@pytest.fixture(scope='module')
def after():
  """Parameters, velocity and running averages after three steps on a mesh."""

  @functools.cache
  def after(data, towers, parallelism='towers'):
    fields = normed() | {'mesh.parallelism': parallelism}
    setup = test_towers.make(data, towers, width=0.05, crop=64, **fields)
    return test_towers.three_steps(setup)[1]

  return after


@pytest.mark.slow
@pytest.mark.parametrize('mesh', [(2, 1), (1, 1), (2, 2, 'owt')])
def test_every_mesh_has_the_same_numbers(after, mesh):
  got, want = after(*mesh), after(1, 2)
  averages = want.params['conv1']['batch_norm']
  assert np.abs(averages['mean'][...]).max() > 0.1  # they moved
  paths = jax.tree_util.tree_leaves_with_path(want)
  for a, (path, b) in zip(jax.tree.leaves(got), paths, strict=True):
    assert max_norm_error(a, b) <= 1e-4, jax.tree_util.keystr(path)


@pytest.fixture(scope='module')
def trained(data_dir, tmp_path_factory, cached):
  """(configuration, workdir) of a run of four steps."""
  config = small_runs.small_config(
    data_dir,
    **{name.replace('.', '__'): value for name, value in normed().items()},
    length='4 steps',
    evals__every='2 steps',
    optimizer__decay_multipliers=(('bias|scale', 0.0), ('', 1.0)),
  )
  workdir = tmp_path_factory.mktemp('batch_norm') / 'run'
  assert train.train_and_evaluate(config, workdir) == 0
  return config, workdir


def test_a_run_resumes_to_the_bit(trained, tmp_path):
  config, workdir = trained
  with config.unlocked():
    half = config.copy_and_resolve_references()
  half.length = '2 steps'
  assert train.train_and_evaluate(half, tmp_path / 'run') == 0
  assert train.train_and_evaluate(config, tmp_path / 'run') == 0
  arrays, others = (
    small_runs.saved(config, folder)[0]
    for folder in (tmp_path / 'run', workdir)
  )
  assert any("['batch_norm']['var']" in name for name in arrays)
  assert not any("['mean']" in name for name in arrays if 'opt_state' in name)
  assert arrays.keys() == others.keys()
  for name, array in arrays.items():
    assert array.tobytes() == others[name].tobytes(), name


def test_averages_that_have_not_moved_sound_no_alarm(
  trained, tmp_path, capsys, caplog
):
  """Nothing arrives at fc8 by these weights at test time, and all in training,
  where each layer is normalized; a warm-up longer than the run is said."""
  config = trained[0].copy_and_resolve_references()
  config.update_from_flattened_dict(
    {f'model.conv{number}.init_std': 0.01 for number in (3, 4, 5)}
    | {'augment.scale': 1 / 58, 'length': '1 step', 'schedule.warmup': 9.0}
  )
  assert train.train_and_evaluate(config, tmp_path / 'run') == 0
  assert 'depends on the image' not in capsys.readouterr().err
  said = 'config.schedule.warmup has 9 epochs, and the run 0.2'
  assert said in caplog.text


def test_a_loaded_network_is_the_evaluated_one(trained):
  config, workdir = trained
  model = alexnet_jax.load(workdir, 'last')
  dataset = builders.open_dataset('pictures', config.data.dir)
  source = dataset.source('test')
  images = [source[i]['image'] for i in range(len(source))]
  labels = [source[i]['label'] for i in range(len(source))]
  right = model.predict(images)[np.arange(len(labels)), labels]
  values = evaluate.evaluate_checkpoint(workdir, 'last', 'test', 1)
  assert -np.log(right).mean() == pytest.approx(values['loss'], rel=1e-4)
  with pytest.raises(
    UserError, match='only AlexNet without batch_norm has a form'
  ):
    names.join(model.network().params)
