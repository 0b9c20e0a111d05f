"""The choices of `config.model`'s table, each against NumPy."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from conftest import max_norm_error
from flax import nnx
from test_alexnet import count, make, photographs

from alexnet_jax.kernels import geometry, windows
from alexnet_jax.kernels.convolution import plain_convolution
from alexnet_jax.models import table
from alexnet_jax.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures('cached')

SMALL = {'num_classes': 7, 'image_size': 96, 'width': 0.125}


def parameters(model):
  return jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model)))


def shapes(model):
  return {n: a['kernel'].shape for n, a in nnx.state(model).items()}


def test_every_row_is_that_of_the_paper():
  """§3.5, typed from the paper: maps, size, stride and what is read."""
  model = table.alexnet()
  convs = {
    'conv1': (48, 11, 4, 'image', ('act', 'norm', 'pool')),
    'conv2': (128, 5, 1, 'own', ('act', 'norm', 'pool')),
    'conv3': (192, 3, 1, 'both', ('act',)),
    'conv4': (192, 3, 1, 'own', ('act',)),
    'conv5': (128, 3, 1, 'own', ('act', 'pool')),
  }
  fields = ('features', 'kernel', 'stride', 'reads', 'then')
  for name, row in convs.items():
    assert tuple(model[name][field] for field in fields) == row, name
  for name in ('fc6', 'fc7'):
    row = model[name]
    assert (row.features, row.reads) == (2048, 'both')
    assert row.then == ('act', 'dropout')
  assert model.layers == (*convs, 'fc6', 'fc7', 'fc8')


def test_the_table_needs_no_jax():
  check = (
    'import sys, alexnet_jax.models.table; '
    "assert not {'jax', 'flax'} & set(sys.modules)"
  )
  subprocess.run([sys.executable, '-c', check], check=True)


@pytest.mark.parametrize(
  ('size', 'window', 'stride', 'pad'),
  [(11, 3, 2, 0), (12, 3, 2, 0), (12, 5, 4, 2), (13, 4, 3, 1), (9, 3, 1, 1)],
)
def test_rounding_down_leaves_the_last_window_out(size, window, stride, pad):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, size, size, 3))
  kernel, bias = rng.normal(size=(window, window, 3, 4)), rng.normal(size=4)
  number = len(range(0, size + 2 * pad - window + 1, stride))
  assert geometry.full_size(size, window, stride, pad) == number
  whole = oracle.conv(x, kernel, bias, 1, pad)
  x, kernel, bias = (jnp.asarray(a, jnp.float32) for a in (x, kernel, bias))
  x = windows.full_windows(x, window, stride, pad)
  got = plain_convolution(x, kernel, stride) + bias
  want = whole[:, ::stride, ::stride]
  assert want.shape[1] == number
  assert max_norm_error(got, want) <= 1e-5


def plain(params, images, then, both, across=False):
  """The convolutional layers in NumPy, tower by tower; what fc6 reads."""
  xs = [images, images]
  for name, steps in then.items():
    if name in both:
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
    'both': ('conv3',),
  },
  'six': {
    'model': {},
    'then': {
      **{'conv1': ('norm', 'pool', 'act'), 'conv2': ('act', 'norm', 'pool')},
      **{'conv3': ('act',), 'conv4': ('act',), 'conv5': LAST},
      'conv6': ('act',),
    },
    'both': ('conv3', 'conv6'),
  },
  'shallow': {
    'model': {},
    'then': {'conv1': LAST, 'conv2': LAST, 'conv4': ('act',), 'conv5': LAST},
    'both': ('conv2', 'conv4'),
  },
}


@pytest.mark.parametrize('name', NETWORKS)
def test_what_is_there_what_follows_and_who_reads_both(name):
  then, both = NETWORKS[name]['then'], NETWORKS[name]['both']
  fields = {f'{layer}.then': steps for layer, steps in then.items()}
  for layer in tuple(then)[1:]:
    fields[f'{layer}.reads'] = 'both' if layer in both else 'own'
  fields['layers'] = (*then, 'fc6', 'fc7', 'fc8')
  model = make(**SMALL, **fields, **NETWORKS[name]['model'])
  images = photographs(2, 96)
  out = model.activations(jnp.asarray(images))
  across = 'lrn.across_towers' in NETWORKS[name]['model']
  want = plain(parameters(model), images, then, both, across)
  last = list(out)[-4]  # before fc6, fc7 and fc8
  for got, maps in zip(out[last], want, strict=True):
    assert max_norm_error(got, maps) <= 1e-5


SILENT = {f'{layer}.reads': 'own' for layer in ('conv3', 'fc6', 'fc7')}


def test_towers_that_do_not_talk_are_two_networks():
  """Until fc8 adds what they say: the logits are a sum of one of each."""
  model = make(**SMALL, **SILENT)
  images = jnp.asarray(photographs(2, 96))
  logits, params = model(images), nnx.state(model)
  graphdef = nnx.graphdef(make(**SMALL, **SILENT, towers=1))
  total = -params['fc8']['bias'][...]  # else it counts twice
  for t in (0, 1):
    cut = lambda a, t=t: a[t : t + 1] if a.ndim > 1 else a  # noqa: E731
    total = total + nnx.merge(graphdef, jax.tree.map(cut, params))(images)
  assert max_norm_error(logits, total) <= 1e-5


def test_widths_follow_the_table():
  model = nnx.eval_shape(
    lambda: make(**{'conv2.features': 160, 'fc6.features': 4096, **SILENT})
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
    ({'layers': ('conv2', 'conv1', 'fc8')}, r"layers=\('conv2', .* first"),
    ({'layers': ()}, r'layers=\(\): conv1 first'),
    ({'layers': ('conv1', 'fc6')}, 'fc8 last'),
    ({'layers': ('conv1', 'fc6', 'conv2', 'fc8')}, 'convolutions before'),
    ({'layers': ('conv1', 'conv9', 'fc8')}, 'there are .*conv6'),
    ({'layers': ('conv1', 'conv1', 'fc8')}, 'each once'),
    ({'conv1.reads': 'both'}, "conv1 reads the 'image'"),
    ({'conv2.reads': 'image'}, "conv1 reads the 'image'"),
    ({'conv3.reads': 'none'}, "conv3.reads is one of .* not 'none'"),
    ({'fc8.reads': 'own'}, "fc8.reads='own': the classes are of 'both'"),
    ({'conv6.features': 5}, 'conv6.features=5 is read by nothing.*layers'),
    ({'map_norm.k': 3.0}, "map_norm.k=3.0 is read by .*'map_norm' in its"),
    ({'batch_norm.momentum': 0.5}, "'batch_norm' in its `then`"),
    ({'conv2.features': 0}, 'conv2.features=0 is not in 1 to'),
    ({'fc6.then': ('dropout',)}, "fc6.then=.*'act' and some of"),
    ({'conv1.then': ('act', 'lrn')}, r"conv1.then=\('act', 'lrn'\): 'act' and"),
    ({'conv1.then': ('pool',)}, "conv1.then=.*: 'act' and some of"),
    ({'conv3.then': ('act', 'act')}, 'each once'),
    ({'conv2.then': ('act', 'pool', 'avg_pool')}, "take 'pool' or 'avg_pool'"),
    ({'pool.window': 1}, 'pool.window=1 is less than its stride=2'),
    ({'lrn.k': 0.0}, 'lrn.k=0.0 is not in'),
    (
      {'fc6.then': ('act',), 'fc7.then': ('act',), 'dropout': 0.3},
      "dropout=0.3 is read by nothing: no layer has 'dropout'",
    ),
    ({'rounding': 'off'}, "rounding is one of .'down', 'up'., not 'off'"),
  ],
)
def test_bad_tables_are_refused(overrides, message):
  with pytest.raises(UserError, match=message):
    make(**SMALL, **overrides)


def test_windows_within_the_maps_may_leave_pixels_out():
  model = make(**SMALL, **{'pool.window': 1, 'rounding': 'down'})
  images = jnp.ones((1, 96, 96, 3))
  assert np.isfinite(model(images)).all()
