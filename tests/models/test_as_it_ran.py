"""Run #145 and its siblings: each configs/krizhevsky_*.py."""

import re

import jax
import jax.numpy as jnp
import krizhevsky_145
import numpy as np
import pytest
import step_oracle
from conftest import max_norm_error
from flax import nnx
from test_alexnet import count, photographs
from test_configs import flat, load
from test_whole_steps import arrays, assert_close

from alexnet_jax.data.stats import of_mean
from alexnet_jax.models.networks import make_network
from alexnet_jax.models.towers import MeshShape
from alexnet_jax.runtime import sharding
from alexnet_jax.training.schedules import learning_rates, make_schedule
from alexnet_jax.training.settings import configure
from alexnet_jax.training.state import make_setup
from alexnet_jax.training.step import TrainStep

RUN_145 = {
  'lrn.alpha_over': 'mean',
  'conv1.then': ('norm', 'pool', 'act'),
  'conv2.then': ('act', 'norm', 'map_norm', 'pool'),
}


def make(name, num_classes=1000, size=224, **fields):
  config = load(name)
  config.augment.crop_size = size
  config.model.update_from_flattened_dict(fields)
  model = configure(config).model
  return make_network(model, num_classes, size, rngs=nnx.Rngs(params=0))


@pytest.mark.parametrize(
  ('width', 'size', 'batch'),
  [
    (0.125, 96, 2),
    pytest.param(1.0, 224, 1, marks=pytest.mark.slow),
  ],
)
def test_run_145_is_the_numpy_program(width, size, batch):
  model = make('krizhevsky_145', 10, size, width=width)
  images = photographs(batch, size)
  params = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model)))
  want = krizhevsky_145.forward(params, images)
  assert max_norm_error(model(jnp.asarray(images)), want) <= 1e-5
  # None of its peculiarities is lost in rounding.
  assert RUN_145.keys() == changed('krizhevsky_145', 'imagenet2012', 'model.')
  for field in RUN_145:
    fields = {name: way for name, way in RUN_145.items() if name != field}
    other = make('imagenet2012', 10, size, width=width, **fields)
    assert max_norm_error(other(jnp.asarray(images)), want) > 1e-4, field


def changed(name, base, part='', file='') -> set[str]:
  """The fields that one configuration has otherwise than another."""
  fields, others = flat(load(name)), flat(load(base))
  return {
    field.removeprefix(part)
    for field in fields
    if fields[field] != others[field] and field.startswith(part)
  }


# By run: the parameters with 1000 classes, by hand from the tables; and what
# differs from #145 besides the rates.
SIBLINGS = {
  '145': (60_965_224, ''),
  '145_half': (
    59_798_312,
    'data.name evals.final_split mesh.towers model.towers model.conv5.features '
    'model.fc6.features model.fc7.features',
  ),
  '146': (61_555_304, 'model.layers pretrained.source'),
  '147': (
    60_965_224,
    'model.pool.window model.conv2.pad model.conv5.pad',
  ),
  '148': (60_965_224, 'model.lrn.enabled model.conv2.then'),
  '150': (
    60_714_408,
    'model.conv3.reads model.fc6.reads model.fc7.reads '
    'model.conv2.features model.fc6.features',
  ),
  '167': (60_965_224, 'model.conv2.then'),
  '170': (60_965_224, ''),
}
TIMES = ('length', 'augment.color_until', 'schedule.')
every_run = pytest.mark.parametrize('run', SIBLINGS)


@every_run
def test_parameters_maps_and_differences(run):
  name = f'krizhevsky_{run}'
  parameters, fields = SIBLINGS[run]
  found = {
    field
    for field in changed(name, 'krizhevsky_145')
    if not field.startswith(TIMES)
  }
  assert found == set(fields.split())
  model = nnx.eval_shape(lambda: make(name))
  assert count(model) == parameters
  order = []

  def forward(model, x):
    out = model.activations(x)
    order.extend(out)
    return out

  images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
  out = jax.eval_shape(forward, model, images)
  last = 'conv6' if run == '146' else 'pool5'
  assert out[last][0].shape[1:3] == (6, 6)
  # Order of layers, where it is not the paper's.
  first = {
    '148': 'conv1 pool1 act1 conv2 pool2 conv3',
    '167': 'conv1 lrn1 pool1 act1 conv2 pool2 conv3',
  }.get(run, 'conv1 lrn1 pool1 act1 conv2 lrn2 map_norm2 pool2 conv3')
  assert ' '.join(order).startswith(first)


# Of fc7 kernels, conv1 kernels, conv1 biases, fc7 biases, fc8 kernels.
BY_HAND = {
  0: (0.01, 0.01, 0.02, 0.02, 0.01),
  24.99: (0.01, 0.01, 0.02, 0.02, 0.01),
  25: (1e-3, 1e-3, 0.02, 0.02, 1e-3),
  51: (1e-4, 1e-4, 0.02, 0.02, 1e-4),
  66.99: (1e-4, 1e-4, 0.02, 0.02, 1e-4),
  67: (1e-4, 1e-5, 0.02, 0.02, 1e-4),
  72: (1e-4, 0, 0, 0.02, 1e-4),
  79: (1e-5, 0, 0, 0.02, 1e-5),
  90.99: (1e-5, 0, 0, 0.02, 1e-5),
}
TUNED = {
  0: (1e-3, 1e-4, 0.02, 0.02, 1e-3),
  0.029: (1e-3, 1e-4, 0.02, 0.02, 1e-3),
  0.03: (1e-3, 1e-4, 0.02, 0.02, 0.01),
  5: (1e-3, 1e-5, 0.02, 0.02, 0.01),
  7: (1e-3, 0, 0, 0.02, 0.01),
  9: (1e-3, 0, 0, 0.02, 1e-3),
  22: (1e-4, 0, 0, 0.02, 1e-4),
  42: (1e-5, 0, 0, 0.02, 1e-5),
}


def automatic(second, third, last, frozen):
  """Four parts of 23.75 epochs; biases two of 47.5."""
  return {
    0: (0.01, 0.01, 0.02, 0.02, 0.01),
    23.74: (0.01, 0.01, 0.02, 0.02, 0.01),
    23.75: (second, second, 0.02, 0.02, second),
    47.49: (second, second, 0.02, 0.02, second),
    47.5: (third, third, 0.002, 0.002, third),
    71.25: (last, last, 0.002, 0.002, last),
    frozen - 0.01: (last, last, 0.002, 0.002, last),
    frozen: (last, 0, 0, 0.002, last),
    94.99: (last, 0, 0, 0.002, last),
  }


# With when colour noise and the run end.
COURSES = {
  **dict.fromkeys(('145', '145_half', '147', '148', '150'), (BY_HAND, 67, 91)),
  '146': (TUNED, 38, 54),
  # 1000 ** (-1/3) is a tenth.
  '167': (automatic(1e-3, 1e-4, 1e-5, 73), 63, 95),
  '170': (automatic(0.0015874, 0.00025198, 0.00004, 74), 68, 95),
}
NAMES = ('fc7/kernel', 'conv1/kernel', 'conv1/bias', 'fc7/bias', 'fc8/kernel')


@every_run
def test_rates(run):
  config = load(f'krizhevsky_{run}')
  course, color, end = COURSES[run]
  assert config.augment.color_until == f'{color} epochs'
  assert config.length == f'{end} epochs'
  small(config)  # each rule is that of a parameter
  plan = configure(config).schedule
  schedule, rules = make_schedule(plan), plan.rules
  for epoch, wanted in course.items():
    given = learning_rates(plan, epoch, schedule.learning_rate(epoch))
    for name, rate in zip(NAMES, wanted, strict=True):
      found = [
        i for i, (text, _) in enumerate(rules, 1) if re.search(text, name)
      ]
      got = given[found[0] if found else 0]
      assert got == pytest.approx(rate, rel=1e-4), (epoch, name)


STATISTICS = of_mean(np.full((100, 100, 3), 120.0))


def small(config):
  """The setup of 96-pixel views of 100-pixel pictures of 5 classes."""
  config.augment.crop_size = 96
  mesh = MeshShape(1, 1).make_mesh(config.model.towers)
  return make_setup(configure(config), mesh, 5, STATISTICS)


@pytest.mark.usefixtures('cached')
@pytest.mark.parametrize(
  'run',
  [  # the program of #170 is #145's
    run if run == '145' else pytest.param(run, marks=pytest.mark.slow)
    for run in SIBLINGS
    if run != '170'
  ],
)
def test_a_step_of_a_small_one(run):
  """All that has a rate moves as in NumPy, and nothing else: #145's conv1 at
  the end. An update that is not finite is told, though the loss is."""
  config = load(f'krizhevsky_{run}')
  config.update_from_flattened_dict(
    {'model.width': 0.03, 'batch_size': 4, 'mesh.towers': 1}
  )
  rng = np.random.default_rng(0)
  setup = small(config)
  images = rng.integers(0, 256, (4, 100, 100, 3), np.uint8)
  labels = np.arange(4, dtype=np.int32)
  batch = sharding.put_batch(
    setup.batch_sharding, list(range(4)), 4, {'image': images, 'label': labels}
  )
  state = setup.init_state()
  before = jax.tree.map(np.asarray, nnx.to_pure_dict(state.params))
  given = learning_rates(setup.schedule, 80, 1e-3)
  step = TrainStep(setup)
  state, sums = step(state, batch, given)
  assert int(state.nonfinite_step) == -1
  assert np.isfinite(sums.compute()['loss'])
  losses, weights, velocity = step_oracle.train_step(
    config,
    STATISTICS,
    before,
    jax.tree.map(np.zeros_like, before),
    images,
    labels,
    0,
    given,
  )
  assert max_norm_error(sums.loss, losses.sum()) <= 1e-5
  assert_close(arrays(state.opt_state[2].trace), velocity)
  now = arrays(state.params)
  assert_close(now, weights)
  for layer, parts in now.items():
    for part, value in parts.items():
      moved = (value != before[layer][part]).any()
      assert moved == (layer != 'conv1'), (layer, part)
  state, sums = step(state, batch, jnp.full_like(given, jnp.inf))
  assert np.isfinite(sums.compute()['loss'])
  assert int(state.nonfinite_step) == 2
