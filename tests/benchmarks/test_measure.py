"""`benchmark eval|layers|input`: that they run, and that what they count is
right; how fast anything is is no test."""

import importlib
import types

import jax
import numpy as np
import pytest
import small_runs
from conftest import max_norm_error

from alexnet_jax.benchmarks import (
  evaluation_speed,
  input_speed,
  layer_speed,
  results,
)
from alexnet_jax.models.describe import describe
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training.settings import configure
from configs import default

pytestmark = pytest.mark.usefixtures('cached')

ABOUT = {'benchmark', 'commit', 'machine', 'cores', 'versions', 'repeats'}


def spread_of(row, field):
  low, middle, high = (row[f'{field}{end}'] for end in ('_low', '', '_high'))
  assert 0 < low <= middle <= high
  return middle


def narrow():
  config = default.get_config()
  config.update_from_flattened_dict(
    {'batch_size': 4, 'model.width': 0.05, 'augment.crop_size': 64}
  )
  config.mesh.data = config.mesh.towers = 1
  return configure(config)


def described():
  return describe(narrow().model, 7, 64)


def test_an_evaluation_counts_an_image_once(monkeypatch):
  monkeypatch.setattr(evaluation_speed, 'VIEWS', (1, 2))
  # One device has both towers: the second mesh is the first.
  first = jax.devices()[:1]
  monkeypatch.setattr(jax, 'devices', lambda *_: first)
  one, two = evaluation_speed.measure_evaluations(
    narrow(), [(1, 1), (1, 2)], num_classes=7, repeats=2
  )
  assert one.keys() >= ABOUT
  assert (one['name'], two['name']) == ('mesh 1,1, 1 view', 'mesh 1,1, 2 views')
  forward = sum(layer.forward_flops for layer in described())
  for row, views in ((one, 1), (two, 2)):
    speed = spread_of(row, 'images_per_sec')
    assert row['gflops'] == pytest.approx(speed * views * forward / 1e9)
    assert row['name'] in results.format_rows([one, two])


def test_layers_are_those_of_the_network():
  found = {layer.name: layer for layer in layer_speed.list_layers(narrow(), 7)}
  assert ' '.join(found) == (
    'conv1 lrn1 pool1 conv2 lrn2 pool2 conv3 conv4 conv5 pool5 fc6 fc7 fc8'
  )
  towers, batch = 2, 4
  for counted in described():
    layer = found.pop(counted.name)
    assert towers * layer.operations == batch * counted.forward_flops
    assert towers * layer.operations * len(layer.wanted) == (
      batch * counted.training_flops
    )
  for layer in found.values():
    assert not layer.operations and len(layer.wanted) == 1


@pytest.mark.parametrize(
  'name',
  [
    *('cifar10_18pct', 'cifar10_80sec', 'cifar10_conv_local_13pct'),
    *('caffenet', 'krizhevsky_145', 'torchvision'),
  ],
)
def test_layers_have_the_shapes_of_any_network(name):
  config = importlib.import_module(f'configs.{name}').get_config()
  config.batch_size = 2
  settings = configure(config)
  shapes = {}
  for layer in describe(settings.model, 10, settings.augment.crop_size):
    shapes[layer.name] = layer.output
    shapes |= {s.name: s.shape for s in layer.then if s.kind != 'act'}
  for layer in layer_speed.list_layers(settings, 10):
    expected = (2, *shapes.pop(layer.name))
    for way in (layer.ours, layer.plain):
      assert jax.eval_shape(way, *layer.args).shape == expected, layer.name
  assert not shapes


@pytest.mark.slow
def test_both_ways_of_a_layer_are_the_same_function():
  for layer in layer_speed.list_layers(narrow(), 7):
    keys = jax.random.split(jax.random.key(0), len(layer.args))
    args = [
      30 * jax.random.normal(key, arg.shape)
      for key, arg in zip(keys, layer.args, strict=True)
    ]
    assert max_norm_error(layer.ours(*args), layer.plain(*args)) <= 1e-5


@pytest.mark.slow
def test_every_layer_is_measured_in_both_ways():
  rows = layer_speed.measure_layers(narrow(), 7, repeats=2)
  layers = list(layer_speed.list_layers(narrow(), 7))
  assert [row['name'] for row in rows] == [layer.name for layer in layers]
  for row, layer in zip(rows, layers, strict=True):
    assert row.keys() >= ABOUT
    for way in ('', 'plain_'):
      spread_of(row, f'{way}forward_seconds')
      spread_of(row, f'{way}training_seconds')
    assert row['name'] in results.format_rows(rows)
    if layer.operations:
      whole = row['training_seconds']
      expected = len(layer.wanted) * layer.operations / whole / 1e9
      assert row['training_gflops'] == pytest.approx(expected)


@pytest.mark.slow
def test_the_input_gives_every_image_of_a_batch(data_dir):
  config = small_runs.small_config(data_dir, mesh__data=1, mesh__towers=1)
  rows = input_speed.measure_input(configure(config), repeats=1)
  assert [row['name'] for row in rows] == ['raw, batches', 'raw, views']
  for row in rows:
    assert row.keys() >= ABOUT
    assert (row['data'], row['batch'], row['workers']) == ('pictures', 8, 0)
    spread_of(row, 'images_per_sec')
    spread_of(row, 'images_per_sec_per_core')
    assert row['name'] in results.format_rows(rows)


def test_pictures_are_those_of_one_split(tmp_path):
  for split in ('test', 'train'):
    (tmp_path / split / 'hat').mkdir(parents=True)
    (tmp_path / split / 'hat' / '0.jpg').touch()
  settings = configure(default.get_config())
  for folder, found in ((tmp_path, 0), (tmp_path / 'train', 1)):
    with pytest.raises(UserError, match=f'{found} files in <class>'):
      input_speed.measure_input(settings, repeats=1, pictures=str(folder))


def test_a_sample_of_the_input_is_a_batch(data_dir, monkeypatch):
  """Two batches, then two of views, in a quarter of a second each; by the
  clocks of processors, in three."""
  config = small_runs.small_config(data_dir, mesh__data=1, mesh__towers=1)
  made = []

  def seconds(work, times):
    made.append([jax.tree.map(np.array, work()) for _ in range(times)])
    return 0.25

  class Process:
    """At every look it has worked for 4 s more, and its child for 2."""

    looks = 0

    def __init__(self):
      Process.looks += 1

    def cpu_times(self):
      return types.SimpleNamespace(user=3 * self.looks, system=self.looks)

    def children(self, recursive):
      assert recursive
      times = types.SimpleNamespace(user=0.5 * self.looks, system=0)
      times.system = 3 * times.user
      return [types.SimpleNamespace(cpu_times=lambda: times)]

  monkeypatch.setattr(
    input_speed, 'psutil', types.SimpleNamespace(Process=Process)
  )
  monkeypatch.setattr(input_speed.timing, 'time_calls', seconds)
  monkeypatch.setattr(
    input_speed.timing,
    'alternate',
    lambda contenders, *_, **__: {c.name: [c.measure(2)] for c in contenders},
  )
  rows = input_speed.measure_input(configure(config), repeats=1)
  assert [row['name'] for row in rows] == ['raw, batches', 'raw, views']
  for row in rows:
    assert spread_of(row, 'images_per_sec') == 8 / 0.25
    assert spread_of(row, 'images_per_sec_per_core') == pytest.approx(8 / 3)
  batches, views = made
  for first, second, shape in (
    (*(batch['image'] for batch in batches), (8, 256, 256, 3)),
    (*views, (8, 64, 64, 3)),
  ):
    assert first.shape == second.shape == shape
    assert (first != second).any()
