"""A run that begins with what another has learnt."""

import re
import shutil

import jax
import numpy as np
import pytest
import small_runs
from etils import epath
from flax import nnx

from alexnet_jax.data import builders
from alexnet_jax.formats import safetensors
from alexnet_jax.models.towers import MeshShape
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training import loop as train
from alexnet_jax.training import pretrained
from alexnet_jax.training.saved import STATISTICS
from alexnet_jax.training.settings import configure
from alexnet_jax.training.state import make_setup
from alexnet_jax.training.views import PREPROCESSING
from configs import finetune

pytestmark = pytest.mark.usefixtures('cached')


def started(config, mesh=(1, 1), num_classes=4):
  """By name: what a run begins with, and what it would without."""
  config.seed = 7
  dataset = builders.open_dataset(config.data.name, config.data.dir)
  settings = configure(config)
  place = MeshShape(*mesh).make_mesh(model_towers=2)
  setup = make_setup(settings, place, num_classes, dataset.statistics)
  initial = setup.init_state()
  choice = settings.pretrained
  network = pretrained.read(choice.source, choice.checkpoint)
  got = pretrained.start(network, choice, setup, initial, dataset.class_names)
  assert jax.tree.map(lambda x: x.sharding, got) == jax.tree.map(
    lambda x: x.sharding, setup.abstract_state()
  )
  assert int(got.step) == 0
  assert not any(np.any(x) for x in jax.tree.leaves(got.opt_state))
  return flat(got), flat(initial)


def flat(state):
  layers = nnx.to_pure_dict(state.params)
  return {
    f'{layer}/{part}': np.asarray(x)
    for layer, parts in layers.items()
    for part, x in parts.items()
  }


def by_name(reference, config, which='best'):
  arrays, _ = small_runs.saved(config, reference, which)
  return {
    name: array
    for path, array in arrays.items()
    for name in (f'{layer}/{part}' for layer in LAYERS for part in PARTS)
    if path.startswith('.params')
    and all(f"'{word}'" in path for word in name.split('/'))
  }


LAYERS = ('conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'fc6', 'fc7', 'fc8')
PARTS = ('kernel', 'bias')


@pytest.mark.parametrize('mesh', [(1, 1), (2, 2)])
def test_all_layers_but_the_fresh_are_taken(reference, config, mesh):
  """fc8 has other classes, hence another shape."""
  saved = by_name(reference, config)
  assert len(saved) == 16
  config.pretrained.source = str(reference)
  got, initial = started(config, mesh)
  for name, array in got.items():
    fresh = name.startswith('fc8')
    np.testing.assert_array_equal(array, (initial if fresh else saved)[name])
    assert fresh or name.endswith('bias') or (array != initial[name]).any()


def test_a_file_and_another_checkpoint(reference, config, tmp_path):
  first = min(int(p.name) for p in (reference / 'checkpoints').iterdir())
  saved = by_name(reference, config, first)
  file = epath.Path(tmp_path / 'x.safetensors')
  safetensors.write(file, pretrained.read(reference, first), 'grouped')
  for source, checkpoint in ((file, 'best'), (reference, str(first))):
    config.pretrained.update(
      {'source': str(source), 'checkpoint': checkpoint, 'fresh': ('fc7', 'fc8')}
    )
    got, initial = started(config)
    for name, array in got.items():
      fresh = name.startswith(('fc7', 'fc8'))
      np.testing.assert_array_equal(array, (initial if fresh else saved)[name])
  pretrained.read(file, str(first))
  with pytest.raises(UserError, match=rf'step {first}, and no checkpoint 1000'):
    pretrained.read(file, 1000)


@pytest.mark.parametrize('kind', ['run', 'file'])
def test_finetune_takes_network_and_views_of_its_source(
  kind, reference, config, tmp_path
):
  source = reference
  if kind == 'file':
    source = epath.Path(tmp_path / 'x.safetensors')
    safetensors.write(source, pretrained.read(reference))
  whole = finetune.get_config(str(source))
  assert whole.model.width == config.model.width == 0.05
  assert whole.augment.crop_size == 64
  whole.data.update({'name': 'pictures', 'dir': config.data.dir})
  got, initial = started(whole)
  saved = by_name(reference, config)
  for name, array in got.items():
    fresh = name.startswith('fc8')
    np.testing.assert_array_equal(array, (initial if fresh else saved)[name])
  with pytest.raises(UserError, match='no run in gone'):
    finetune.get_config('gone')


@pytest.mark.slow
def test_only_the_first_step_looks_at_it(reference, config, tmp_path, capsys):
  """Then the source may be gone."""
  source = shutil.copytree(reference, tmp_path / 'source')
  config.update_from_flattened_dict(
    {
      'mesh.towers': 1,
      'length': '1 step',
      'schedule.learning_rate': 0.0,
      'pretrained.source': str(source),
    }
  )
  saved = by_name(reference, config)
  workdir = tmp_path / 'run'
  assert train.train_and_evaluate(config, workdir) == 0
  assert f'fc6, fc7 of {source}, step ' in capsys.readouterr().out
  got = by_name(workdir, config, 'last')
  for name, array in saved.items():
    assert np.array_equal(got[name], array) == (name[:3] != 'fc8'), name
  shutil.rmtree(source)
  config.length = '2 steps'
  assert train.train_and_evaluate(config, workdir) == 0
  again = by_name(workdir, config, 'last')
  for name, array in got.items():  # the rate is 0
    np.testing.assert_array_equal(again[name], array)
  config.pretrained.source = str(reference)
  words = f'source is {reference}, and the run in {workdir} began with {source}'
  with pytest.raises(UserError, match=re.escape(words)):
    train.train_and_evaluate(config, workdir)


@pytest.mark.parametrize(
  ('fields', 'words'),
  [
    ({'pretrained.source': 'nowhere'}, 'no run in nowhere: '),
    ({'model.fc7.features': 1024}, r'fc7/kernel is .*pretrained\.fresh'),
    ({'pretrained.fresh': ()}, 'fc8/bias is'),
    ({'pretrained.fresh': ('fc9',)}, "fresh=.'fc9',.: the layers are .*'conv1"),
    ({'pretrained.checkpoint': '1000'}, '1000'),
  ],
)
def test_what_does_not_fit_is_refused(fields, words, reference, config):
  config.pretrained.source = str(reference)
  config.update_from_flattened_dict(fields)
  with pytest.raises(UserError, match=words):
    started(config)


def test_another_network_of_the_same_shapes_is_told(reference, config, caplog):
  config.update_from_flattened_dict(
    {
      'model.lrn.k': 1.0,
      'model.conv1.init_std': 0.5,
      'model.conv3.reads': 'own',
      'pretrained.source': 'there',
      'pretrained.fresh': ('conv3', 'fc8'),
    }
  )
  settings = configure(config)
  network = pretrained.read(reference)
  plain = config.to_dict()['model']
  pretrained.tell_differences(network, settings.pretrained, plain)
  assert [record.getMessage() for record in caplog.records] == [
    'config.model.lrn.k is 1.0 here, and the network of there was trained with '
    '2.0'
  ]


OTHER_VIEWS = {
  'augment.mean': 'rgb',
  'augment.scale': 0.5,
  'augment.crop_size': 48,
}


def test_views_are_those_of_the_source(reference, config, tmp_path, caplog):
  """As if they had been given; also of a run that goes on without its source.
  One that is given by name, and differs, is refused."""
  file = epath.Path(tmp_path / 'x.safetensors')
  safetensors.write(file, pretrained.read(reference))
  config.update_from_flattened_dict(
    {
      'length': '1 step',
      'evals.final_split': '',
      'pretrained.source': str(reference),
    }
  )
  same, other = tmp_path / 'same', tmp_path / 'other'
  same.mkdir()  # with what a run has left whose checkpoints are gone
  (same / STATISTICS).write_bytes(b'of another run')
  assert train.train_and_evaluate(config, same) == 0
  assert 'as the network of' not in caplog.text
  given = config.copy_and_resolve_references()
  given.update_from_flattened_dict(OTHER_VIEWS)
  for source in (reference, file):
    given.pretrained.source = str(source)
    for field, value in OTHER_VIEWS.items():
      words = rf'{field}={value!r}, but the network of {source} was .* with '
      with pytest.raises(UserError, match=words):
        train.train_and_evaluate(given, other, overrides={field: value})
  assert not other.exists()
  assert train.train_and_evaluate(given, other) == 0
  said = 'augment.{} is {!r} here, as the network of {} was trained, not {!r}'
  for taken in (
    ('mean', 'image', file, 'rgb'),
    ('scale', 1.0, file, 0.5),
    ('crop_size', 64, file, 48),
  ):
    assert said.format(*taken) in caplog.text
  small_runs.assert_equal_runs(config, other, same)
  meta = small_runs.saved(config, other)[1]
  views = {name: meta['config']['augment'][name] for name in PREPROCESSING}
  assert views == {'mean': 'image', 'scale': 1.0, 'crop_size': 64}
  file.unlink()  # a resumed run needs no source
  with pytest.raises(UserError, match=rf'mean=.rgb., but the .* of {other} '):
    train.train_and_evaluate(given, other, overrides={'augment.mean': 'rgb'})
  assert train.train_and_evaluate(given, other) == 0  # has no step to do
  assert said.format('mean', 'image', other, 'rgb') in caplog.text
