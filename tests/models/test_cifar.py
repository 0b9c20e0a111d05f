"""The CIFAR-10 nets: every activation against NumPy."""

import importlib
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import small_runs
from conftest import max_norm_error
from draws import normal
from flax import nnx
from PIL import Image

import alexnet_jax
from alexnet_jax.data import preparation
from alexnet_jax.data.stats import of_mean
from alexnet_jax.formats import conversion
from alexnet_jax.models import table
from alexnet_jax.models.networks import make_network
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training import saved
from alexnet_jax.training.settings import configure
from experiments.cifar_18pct import WITHOUT


def load(name, **overrides):
  file = f'cifar10_{name.replace("-", "_")}'
  config = importlib.import_module(f'configs.{file}').get_config()
  config.update_from_flattened_dict(overrides)
  return config


def make(name, num_classes=10, **overrides):
  settings = configure(load(name, **overrides))
  size = settings.augment.crop_size
  rngs = nnx.Rngs(params=0)
  return make_network(
    settings.model, num_classes, size, dtype=settings.dtype, rngs=rngs
  )


def oracle_net(name, params, images, act=lambda x: np.maximum(x, 0)):
  """The tables of cuda-convnet, each typed in again from the files."""
  max_pool, avg_pool = oracle.max_pool, oracle.avg_pool

  def weights(layer):
    both = params[layer]['kernel'][0], params[layer]['bias'][0]
    return tuple(x.astype(np.float64) for x in both)

  def conv(layer, x):
    return act(oracle.conv(x, *weights(layer), 1, 2))

  def dense(layer, x):
    kernel, bias = weights(layer)
    return x.reshape(len(x), -1) @ kernel + bias

  def norm(x):
    return oracle.map_norm(x, 3, 1.0, 5e-5, 0.75)

  x = max_pool(conv('conv1', images))
  if name == 'conv-local-13pct':
    x = max_pool(conv('conv2', x))
    x = act(oracle.local(x, *weights('local3'), 1))
    x = act(oracle.local(x, *weights('local4'), 1))
  elif name == '18pct':
    x = norm(avg_pool(conv('conv2', norm(x))))
    x = avg_pool(conv('conv3', x))
  else:
    x = avg_pool(conv('conv3', avg_pool(conv('conv2', x))))
    x = act(dense('fc64', x))
  return dense('fc10', x)


def pure(model):
  return jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model)))


@pytest.mark.parametrize(
  ('name', 'size'),
  [('80sec', 32), ('18pct', 32), ('conv-local-13pct', 24)],
)
def test_nets_equal_the_oracle(name, size):
  model = make(name, **{'augment.crop_size': size})
  images = normal(0, (2, size, size, 3), 60)
  params = pure(model)
  # conv1 starts at 1e-4: at 100 times that every layer counts.
  first = params['conv1']
  first['kernel'] = first['kernel'] * 100
  first['bias'] = normal(1, first['bias'].shape)
  nnx.update(model, params)
  got = jax.jit(lambda x: model(x))(jnp.asarray(images))
  assert got.shape == (2, 10)
  assert max_norm_error(got, oracle_net(name, params, images)) <= 1e-5


def test_switches():
  images = jnp.asarray(normal(0, (2, 32, 32, 3), 60))
  tanh = make('18pct', **{'model.activation': 'tanh'})
  out = jax.jit(lambda x: tanh.activations(x))(images)
  assert out.keys() == {
    *('conv1', 'pool1', 'map_norm1', 'conv2', 'pool2', 'map_norm2'),
    *('conv3', 'pool3', 'fc10'),
  }
  want = oracle_net('18pct', pure(tanh), np.asarray(images), np.tanh)
  assert max_norm_error(out['fc10'], want) <= 1e-5
  bare = make('18pct', **WITHOUT)
  assert 'map_norm1' not in jax.eval_shape(bare.activations, images)
  half = make('80sec', **{'model.width': 0.5}, num_classes=7)
  assert half.conv1.kernel.shape == (1, 5, 5, 3, 16)
  assert jax.eval_shape(half, images).shape == (2, 7)


def test_logits_are_float32_where_the_rest_is_not():
  images = jnp.asarray(normal(0, (8, 32, 32, 3), 60))
  model = make('80sec', dtype='bfloat16')
  out = jax.jit(lambda x: model.activations(x))(images)
  got = np.asarray(out['fc10'])
  assert got.dtype == np.float32
  assert (got != got.astype(jnp.bfloat16).astype(np.float32)).any()


@pytest.mark.parametrize(
  ('name', 'count'),
  [
    # conv1 2,432 + conv2 25,632 + conv3 51,264, then 1,024 x 64 + 64 and
    # 64 x 10 + 10; or 1,024 x 10 + 10.
    ('80sec', 2432 + 25632 + 51264 + 65600 + 650),
    ('18pct', 2432 + 25632 + 51264 + 10250),
    # On 24x24: 6x6 places of 3x3x64x32 and of 3x3x32x32, biases for each.
    (
      'conv-local-13pct',
      4864 + 102464 + 36 * (18432 + 32) + 36 * (9216 + 32) + 11530,
    ),
  ],
)
def test_parameters(name, count):
  leaves = jax.tree.leaves(nnx.state(nnx.eval_shape(lambda: make(name))))
  assert sum(leaf.size for leaf in leaves) == count


def test_initial_weights():
  model = make('80sec', **{'model.init_scale': 2.0})
  for layer, std in (('conv1', 2e-4), ('conv2', 0.02), ('fc64', 0.2)):
    kernel = np.asarray(getattr(model, layer).kernel[...])
    assert abs(kernel.std() / std - 1) < 0.05
    assert (np.asarray(getattr(model, layer).bias[...]) == 0).all()


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    ({'model.name': '12pct'}, "one of .*'18pct'.* not '12pct'"),
    ({'model.towers': 2}, 'towers=2: 80sec has one'),
    ({'mesh.parallelism': 'owt'}, "parallelism is one of .'towers'.,"),
    ({'model.activation': 'gelu'}, "activation is one of .* not 'gelu'"),
    ({'augment.crop_size': 2}, 'crop_size=2 is too small for conv1'),
    ({'model.conv1.then': ('act', 'norm')}, "80sec has no 'norm'"),
    ({'model.conv1.then': ('act', 'map_norm')}, "80sec has no 'map_norm'"),
    ({'model.conv2.then': ('batch_norm', 'act')}, "80sec has no 'batch_norm'"),
    ({'model.fc64.then': ('act', 'dropout')}, "80sec has no 'dropout'"),
  ],
)
def test_bad_fields_are_refused(overrides, message):
  with pytest.raises(UserError, match=message):
    make('80sec', **overrides)


def test_a_field_that_a_net_does_not_read_is_no_field():
  fields = {'model.dropout': 0.5, 'model.lrn.enabled': False}
  for field, value in fields.items():
    with pytest.raises((AttributeError, KeyError)):
      load('18pct', **{field: value})
  assert 'fc64' in table.cifar10_80sec() and 'fc64' not in load('18pct').model


def test_a_trained_net_is_looked_at_like_alexnet(tmp_path):
  """`load`, `predict`, `report` and exports, at the net's own 32 pixels."""
  rng = np.random.default_rng(0)
  large = {'model.init_scale': 10.0}  # for probabilities that differ
  model = make('18pct', num_classes=3, **large)
  params = nnx.state(model)
  statistics = of_mean(rng.uniform(100, 150, (32, 32, 3)))
  names = ['bird', 'cat', 'dog']
  workdir = tmp_path / 'run'
  config = load('18pct', **large)
  plain = json.loads(config.to_json())
  saved.write_run(workdir, plain, configure(config), params, names, statistics)
  pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
  Image.fromarray(pixels).save(tmp_path / 'a.png')

  loaded = alexnet_jax.load(workdir)
  assert loaded.side == 32
  view = (pixels - statistics.mean_image)[None]
  logits = oracle_net('18pct', pure(model), view)[0]
  want = np.exp(logits) / np.exp(logits).sum()
  assert want.max() > 0.4
  assert max_norm_error(loaded.predict(pixels)[0], want) <= 1e-5
  with pytest.raises(UserError, match="no layer 'fc7': there are conv1, "):
    loaded.features(pixels)
  file = tmp_path / 'net.safetensors'
  conversion.write(file, 'safetensors', loaded.network())
  assert max_norm_error(alexnet_jax.load(file).predict(pixels)[0], want) <= 1e-5
  for form in ('grouped', 'caffe', 'torchvision'):
    words = "not torchvision's" if form == 'torchvision' else 'only AlexNet'
    with pytest.raises(UserError, match=words):
      conversion.write(tmp_path / 'x', form, loaded.network())

  out = subprocess.run(
    [
      *(sys.executable, '-m', 'alexnet_jax.predict', str(tmp_path / 'a.png')),
      *(f'--workdir={workdir}', '--format=json'),
    ],
    cwd=small_runs.ROOT,
    capture_output=True,
    text=True,
    check=True,
  ).stdout
  # The file's own pixels: not by way of 256.
  for row in json.loads(out)[0]['predictions']:
    assert row['probability'] == pytest.approx(want[row['label']], rel=1e-4)


@pytest.mark.fresh
@pytest.mark.slow
def test_a_run_resumes_to_the_bit(tmp_path, cache_dir):
  """`prepare` at 32x32, training on two devices, an evaluation that ends it:
  killed midway and run again, the same rows and numbers."""
  rng = np.random.default_rng(0)
  for split, count in (('train', 48), ('validation', 10), ('test', 10)):
    for i in range(count):
      file = tmp_path / 'input' / split / 'abcdef'[i % 6] / f'{i}.png'
      file.parent.mkdir(parents=True, exist_ok=True)
      pixels = rng.integers(0, 256, (32, 32, 3)) // 2
      pixels[..., i % 3] += 20 * (i % 6)
      Image.fromarray(pixels.astype(np.uint8)).save(file)
  preparation.prepare(
    'folder',
    data_dir=tmp_path / 'data',
    name='cifar10',
    input_dir=str(tmp_path / 'input'),
    size=32,
    num_workers=1,
  )
  config = load(
    '18pct',
    **{
      'data.dir': str(tmp_path / 'data'),
      'batch_size': 8,
      'evals.batch_size': 10,
      'model.width': 0.25,
      'length': '12 steps',
      'log_every': '1 step',
      'evals.every': '3 steps',
      'checkpoint.every': '3 steps',
      'mesh.data': 2,
    },
  )

  def program(workdir):
    return small_runs.Program(config, tmp_path / workdir, cache_dir)

  program('whole').run()
  assert len(small_runs.rows(tmp_path / 'whole')) == 12 + 4 + 1
  small_runs.kill(program('killed').start_until(5))
  program('killed').run()
  small_runs.assert_equal_runs(config, tmp_path / 'killed', tmp_path / 'whole')
