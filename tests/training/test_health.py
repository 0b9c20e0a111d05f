"""Health of a run against NumPy, its warnings, and what becomes of them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import small_runs
from conftest import max_norm_error
from flax import nnx

from alexnet_jax.data import builders
from alexnet_jax.models.networks import read_table
from alexnet_jax.models.towers import MeshShape
from alexnet_jax.runtime import sharding
from alexnet_jax.training import health, state, step
from alexnet_jax.training import views as augment
from alexnet_jax.training.settings import configure
from configs import default

pytestmark = pytest.mark.usefixtures('cached')

STALL = {  # the paper's initial weights on unit-scaled input
  'model.conv3.init_std': 0.01,
  'model.conv4.init_std': 0.01,
  'model.conv5.init_std': 0.01,
  'augment.scale': 1 / 58,
}


def measured(config, mesh, images=None, steps=0):
  """Health of the state after some steps on one batch; and that state."""
  dataset = builders.open_dataset(config.data.name, config.data.dir)
  mesh = MeshShape(*mesh).make_mesh(2)
  setup = state.make_setup(
    configure(config), mesh, dataset.num_classes, dataset.statistics
  )
  source = dataset.source('train')
  batch = {
    'image': np.stack([source[i]['image'] for i in range(8)]),
    'label': np.arange(8, dtype=np.int32) % dataset.num_classes,
  }
  if images is not None:
    batch['image'] = images
  rows = sharding.local_rows(setup.batch_sharding, 8)
  batch = {k: v[np.asarray(rows)] for k, v in batch.items()}
  batch = sharding.put_batch(setup.batch_sharding, rows, 8, batch)
  values = setup.init_state()
  train_step = step.TrainStep(setup)
  for _ in range(steps):
    values, _ = train_step(values, batch, jnp.float32([0.01]))
  found = health.make_probe(setup)(values, batch['image'])
  return found, values, dataset, np.asarray(batch['image'])


def test_health_equals_numpy(config, cached):
  found, values, dataset, images = measured(config, (1, 1), steps=1)
  own = configure(config).augment
  constants = augment.make_constants(own, dataset.statistics)
  views = np.asarray(augment.test_views(constants, images, 64, 1)[0])
  params = jax.tree.map(np.asarray, nnx.to_pure_dict(values.params))
  layers = oracle.forward(params, views)
  layers.pop('fc8')
  for name, xs in layers.items():
    if not name.startswith(('conv', 'fc')):
      assert name not in found.signal
      continue
    for tower, x in enumerate(xs):
      want = x.std(0).mean() / np.abs(x).mean()
      assert found.signal[name][tower] == pytest.approx(want, rel=1e-3)
      places = tuple(range(x.ndim - 1))
      want = (x.astype(np.float32) == 0).all(places).mean()
      assert found.dead[name][tower] == pytest.approx(want)
  velocity = values.opt_state[2].trace
  for name in params:
    v = np.asarray(velocity[name]['kernel'][...], np.float64)
    want = np.linalg.norm(v) / np.linalg.norm(params[name]['kernel'])
    assert found.update[name] == pytest.approx(want, rel=1e-4)
  assert max_norm_error(found.spread, np.sqrt((views**2).mean())) <= 1e-5


@pytest.mark.fresh
@pytest.mark.parametrize(
  ('mesh', 'parallelism'),
  [
    ((2, 2), 'owt'),
    pytest.param((2, 2), 'towers', marks=pytest.mark.slow),
    pytest.param((1, 2), 'owt', marks=pytest.mark.slow),
  ],
)
def test_health_does_not_depend_on_the_mesh(mesh, parallelism, config, cached):
  want = measured(config, (1, 1))[0]
  config.mesh.parallelism = parallelism
  found = measured(config, mesh)[0]
  assert found.scalars().keys() == want.scalars().keys()
  for name in want.signal:
    assert max_norm_error(found.signal[name], want.signal[name]) <= 1e-3
    np.testing.assert_array_equal(found.dead[name], want.dead[name])


@pytest.mark.parametrize(
  'then', [('act', 'norm', 'pool'), ('norm', 'pool', 'act')]
)
def test_dead_units_are_counted_by_tower(then, config, cached):
  """conv1 of the second tower, by a bias that nothing overcomes."""
  config.model.conv1.then = then
  dataset = builders.open_dataset(config.data.name, config.data.dir)
  mesh = MeshShape(1, 2).make_mesh(2)
  setup = state.make_setup(
    configure(config), mesh, dataset.num_classes, dataset.statistics
  )
  values = setup.init_state()
  bias = values.params['conv1']['bias']
  place = bias[...].sharding
  low = np.asarray(bias[...]).copy()
  low[1] = -1e6
  values.params['conv1']['bias'] = bias.replace(jax.device_put(low, place))
  rows = sharding.local_rows(setup.batch_sharding, 8)
  images = {'image': np.full((8, 256, 256, 3), 9, np.uint8)}
  images = sharding.put_batch(setup.batch_sharding, rows, 8, images)
  found = health.make_probe(setup)(values, images['image'])
  assert found.dead['conv1'][1] == 1 > found.dead['conv1'][0]
  (text,) = [t for t in health.warnings(found, setup.table) if 'conv1' in t]
  assert text.startswith('100% of the units of conv1 in tower 2')


def healthy(**more):
  return health.Health(
    **{
      'spread': 60.0,
      'signal': {'conv1': np.array([0.9]), 'fc7': np.array([0.1])},
      'dead': {'conv1': np.array([0.0]), 'fc7': np.array([0.1])},
      'update': {'conv1': 1e-3},
      **more,
    }
  )


def test_warnings_name_the_cause():
  config = default.get_config()
  table = read_table(config.model.to_dict())
  assert health.warnings(healthy(), table) == []
  lost = {'conv1': np.array([0.5]), 'fc7': np.array([1e-4])}
  (text,) = health.warnings(healthy(signal=lost, spread=1.0), table)
  assert 'config.augment.scale=1.0' in text and '0.010% of what fc7' in text
  (text,) = health.warnings(healthy(signal=lost), table)
  assert 'Most is lost in fc7' in text
  config.model.conv4.init_std = 0.01
  table = read_table(config.model.to_dict())
  (text,) = health.warnings(healthy(signal=lost), table)
  assert 'conv4 start at 0.02' in text  # at a quarter of the width
  (text,) = health.warnings(healthy(update={'fc8': 0.2}), table)
  assert 'fc8 by 20.0%' in text


def test_the_alarm_is_for_guessing():
  table = read_table(default.get_config().model.to_dict())

  def alarm(loss, error, count, classes=10):
    values = {'loss': loss, 'top1_error': error}
    return health.alarm(values, count, classes, healthy(), table)

  assert alarm(2.0, 0.9, 500) is None
  text = alarm(2.29, 0.9, 500)
  assert text.startswith(
    'the loss is 2.290, guessing has 2.303; the error is 90.0%, guessing has '
    '90.0%; '
  )
  assert 'config.schedule.learning_rate' in text
  assert alarm(6.0, 0.999, 500, 1000) is None
  assert alarm(6.9, 0.999, 500, 1000)
  # The error is below chance by more than its standard error, 1.4 % at 500
  # pictures and 14 % at 5: the network learns.
  assert alarm(2.29, 0.88, 500) is None
  assert alarm(2.29, 0.89, 500)
  assert alarm(2.29, 0.8, 5)


@pytest.mark.parametrize('stall', [False, True])
def test_the_preflight_knows_the_stall(stall, config, program, tmp_path):
  """At the real width, on the real size: `shapes` would take minutes."""
  config.update_from_flattened_dict(
    {
      'augment.crop_size': 224,
      'model.width': 0.25,
      'length': '1 step',
      'evals.final_split': '',
      **(STALL if stall else {}),
    }
  )
  out = program(tmp_path / 'run', config).run()
  assert ('depends on the image' in out) == stall
  assert ('config.augment.scale=1.0' in out) == stall
  (row,) = [
    row for row in small_runs.rows(tmp_path / 'run') if 'validation/loss' in row
  ]
  assert 0 <= row['health/conv5_dead'] <= 1
  assert row['health/fc8_update'] > 0
  assert (row['health/fc7_signal'] < health.STALLS) == stall
  assert not math.isnan(row['health/fc7_signal'])
