"""The choices of `config.model`'s table, each against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from conftest import max_norm_error
from flax import nnx
from test_alexnet import count, make, photographs
from test_configs import flat

from alexnet_jax.kernels import windows
from alexnet_jax.models import layers, table
from alexnet_jax.runtime.errors import UserError
from configs import default

pytestmark = pytest.mark.usefixtures('cached')

SMALL = {'num_classes': 7, 'image_size': 96, 'width': 0.125}


def parameters(model):
  return jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model)))


def shapes(model):
  return {n: a['kernel'].shape for n, a in nnx.state(model).items()}


def test_fields_that_came_later_are_the_papers_in_default():
  fields = flat(default.get_config().model)
  assert {name: fields[name] for name in table.SINCE} == table.SINCE


def test_a_configuration_without_them_is_the_same_network():
  now = default.get_config().model
  old = now.copy_and_resolve_references()
  with old.unlocked():
    for name in {name.split('.')[0] for name in table.SINCE}:
      if name not in ('lrn', 'init_std', 'init_bias'):
        del old[name]
    del old.lrn['across_towers'], old.init_std['conv6'], old.init_bias['conv6']
  assert table.completed(old).to_dict() == now.to_dict()
  assert table.rows(old) == table.rows(now)
  assert 'talk' not in old  # a copy was completed


@pytest.mark.parametrize(
  ('size', 'window', 'stride', 'pad'),
  [(11, 3, 2, 0), (12, 3, 2, 0), (12, 5, 4, 2), (13, 4, 3, 1), (9, 3, 1, 1)],
)
def test_rounding_down_leaves_the_last_window_out(size, window, stride, pad):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, size, size, 3))
  kernel, bias = rng.normal(size=(window, window, 3, 4)), rng.normal(size=4)
  number = len(range(0, size + 2 * pad - window + 1, stride))
  assert windows.full_size(size, window, stride, pad) == number
  whole = oracle.conv(x, kernel, bias, 1, pad)
  x, kernel, bias = (jnp.asarray(a, jnp.float32) for a in (x, kernel, bias))
  x = windows.full_windows(x, window, stride, pad)
  got = layers.conv(x, kernel, stride, 0) + bias
  want = whole[:, ::stride, ::stride]
  assert want.shape[1] == number
  assert max_norm_error(got, want) <= 1e-5


def plain(model, params, images, then, talk, across=False):
  """The convolutional layers in NumPy, tower by tower; what fc6 reads."""
  xs = [images, images]
  for name, steps in then.items():
    if name in talk:
      xs = [np.concatenate(xs, -1)] * 2
    stride, pad = {'conv1': (4, 0), 'conv2': (1, 2)}.get(name, (1, 1))
    kernel, bias = params[name]['kernel'], params[name]['bias']
    xs = [oracle.conv(xs[t], kernel[t], bias[t], stride, pad) for t in (0, 1)]
    for step in steps:
      if step == 'norm' and across:
        xs = np.split(oracle.lrn(np.concatenate(xs, -1)), 2, -1)
      else:
        rule = {
          'act': lambda x: np.maximum(x, 0),
          'norm': oracle.lrn,
          'pool': oracle.max_pool,
        }[step]
        xs = [rule(x) for x in xs]
  return xs


LAST = ('act', 'pool')
NETWORKS = {
  'caffenet': {
    'model': {'lrn.across_towers': True},
    'then': {
      **dict.fromkeys(('conv1', 'conv2'), ('act', 'pool', 'norm')),
      **{'conv3': ('act',), 'conv4': ('act',), 'conv5': LAST},
    },
    'talk': ('conv3', 'fc6', 'fc7'),
  },
  'six': {
    'model': {},
    'then': {
      **{'conv1': ('norm', 'pool', 'act'), 'conv2': ('act', 'norm', 'pool')},
      **{'conv3': ('act',), 'conv4': ('act',), 'conv5': LAST},
      'conv6': ('act',),
    },
    'talk': ('conv3', 'conv6', 'fc6', 'fc7'),
  },
  'shallow': {
    'model': {},
    'then': {'conv1': LAST, 'conv2': LAST, 'conv4': ('act',), 'conv5': LAST},
    'talk': ('conv2', 'conv4', 'fc6', 'fc7'),
  },
}


@pytest.mark.parametrize('name', NETWORKS)
def test_what_is_there_what_follows_and_who_talks(name):
  then, talk = NETWORKS[name]['then'], NETWORKS[name]['talk']
  fields = {f'then.{layer}': steps for layer, steps in then.items()}
  model = make(
    **SMALL,
    **{'convs': tuple(then), 'talk': talk, **fields},
    **NETWORKS[name]['model'],
  )
  images = photographs(2, 96)
  out = model.activations(jnp.asarray(images))
  across = 'lrn.across_towers' in NETWORKS[name]['model']
  want = plain(model, parameters(model), images, then, talk, across)
  last = list(out)[-4]  # before fc6, fc7 and fc8
  for got, maps in zip(out[last], want, strict=True):
    assert max_norm_error(got, maps) <= 1e-5


def test_towers_that_do_not_talk_are_two_networks():
  """Until fc8 adds what they say: the logits are a sum of one of each."""
  model = make(**SMALL, talk=())
  images = jnp.asarray(photographs(2, 96))
  logits, params = model(images), nnx.state(model)
  graphdef = nnx.graphdef(make(**SMALL, talk=(), towers=1))
  total = -params['fc8']['bias'][...]  # else it counts twice
  for t in (0, 1):
    cut = lambda a, t=t: a[t : t + 1] if a.ndim > 1 else a  # noqa: E731
    total = total + nnx.merge(graphdef, jax.tree.map(cut, params))(images)
  assert max_norm_error(logits, total) <= 1e-5


def test_widths_follow_the_table():
  model = nnx.eval_shape(
    lambda: make(**{'features.conv2': 160, 'features.fc6': 4096, 'talk': ()})
  )
  got = shapes(model)
  assert got['conv2'] == (2, 5, 5, 48, 160)
  assert got['conv3'] == (2, 3, 3, 160, 192)
  assert got['fc6'] == (2, 6 * 6 * 128, 4096)
  assert got['fc7'] == (2, 4096, 2048)
  assert count(model) > 0


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    ({'convs': ('conv2', 'conv1')}, r"model.convs=\('conv2', 'conv1'\)"),
    ({'convs': ()}, r'model.convs=\(\): conv1 and some of'),
    ({'talk': ('conv1',)}, 'the layers that can read both towers'),
    ({'talk': ('conv6',)}, 'the layers that can read both towers'),
    ({'then.conv1': ('act', 'lrn')}, r"then.conv1=\('act', 'lrn'\): 'act' and"),
    ({'then.conv1': ('pool',)}, "then.conv1=.*: 'act' and some of"),
    ({'then.conv3': ('act', 'act')}, 'each once'),
    ({'rounding': 'off'}, "rounding is 'up' or 'down', not 'off'"),
  ],
)
def test_bad_tables_are_refused(overrides, message):
  with pytest.raises(UserError, match=message):
    make(**SMALL, **overrides)
