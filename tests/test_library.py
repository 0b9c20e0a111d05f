"""`load`, `create_model` and `preprocess`: the network in other programs."""

import shutil

import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import small_runs
from conftest import max_norm_error
from PIL import Image

import alexnet_jax
from alexnet_jax.data import builders, photographs
from alexnet_jax.data.stats import Statistics
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training import evaluation as evaluate

pytestmark = pytest.mark.usefixtures('cached')


@pytest.fixture(scope='module')
def model(reference):
  return alexnet_jax.load(reference)


@pytest.fixture(scope='module')
def validation(data_dir):
  source = builders.open_dataset('pictures', data_dir).source('validation')
  examples = [source[i] for i in range(len(source))]
  return (
    np.stack([example['image'] for example in examples]),
    np.array([example['label'] for example in examples]),
  )


@pytest.mark.parametrize('views', [1, 10])
def test_predictions_have_the_error_of_the_evaluation(
  model, validation, config, reference, views
):
  """One device here; two devices, a tower each, there."""
  images, labels = validation
  found = model.predict(images, views=views)
  values = evaluate.evaluate_checkpoint(reference, 'best', 'validation', views)
  losses = -np.log(found[np.arange(len(labels)), labels])
  assert max_norm_error(losses.mean(), values['loss']) < 1e-5
  wrong = np.mean(found.argmax(1) != labels)
  assert wrong == pytest.approx(values['top1_error'], abs=1e-9)


def test_a_run_is_loaded_without_its_data_set(
  reference, validation, tmp_path, monkeypatch
):
  def gone(*_):
    raise AssertionError('the data set was opened')

  monkeypatch.setattr(builders, 'open_dataset', gone)
  moved = alexnet_jax.load(shutil.copytree(reference, tmp_path / 'moved'), 18)
  assert moved.class_names == tuple(map(str, range(small_runs.CLASSES)))
  assert moved.step == 18
  assert moved.predict(validation[0]).shape == (13, small_runs.CLASSES)


def test_statistics_are_those_of_the_data_set(model, data_dir):
  dataset = builders.open_dataset('pictures', data_dir)
  for name, value in vars(dataset.statistics).items():
    np.testing.assert_array_equal(vars(model.statistics)[name], value)


def test_missing_statistics_are_told(reference, tmp_path):
  moved = shutil.copytree(reference, tmp_path / 'moved')
  (moved / 'statistics.npz').unlink()
  with pytest.raises(UserError, match=r'statistics\.npz is missing: put it'):
    alexnet_jax.load(moved)


def test_a_run_is_evaluated_with_its_own_mean(
  model, validation, config, reference, tmp_path
):
  """Not with that of the data set, which may be another by then: the loss is
  NumPy's, of views that this mean was subtracted from."""
  moved = shutil.copytree(reference, tmp_path / 'moved')
  path = builders.epath.Path(moved) / 'statistics.npz'
  own = Statistics.load(path)
  fields = {**vars(own), 'mean_image': own.mean_image + 40}
  Statistics(**fields).save(path)
  images, labels = validation
  here = slice(96, 160)  # 64 of 256 pixels
  params = {
    name: {part: np.asarray(value[...]) for part, value in layer.items()}
    for name, layer in model.params.items()
  }
  losses = []
  for folder, more in ((reference, 0), (moved, 40)):
    mean = own.mean_image[here, here] + more
    views = images[:, here, here].astype(np.float64) - mean
    logits = oracle.forward(params, views)['fc8']
    sums = np.log(np.exp(logits).sum(1))
    losses.append((sums - logits[np.arange(len(labels)), labels]).mean())
    values = evaluate.evaluate_checkpoint(folder, 'best', 'validation', 1)
    assert values['loss'] == pytest.approx(losses[-1], rel=1e-5)
  assert losses[0] != pytest.approx(losses[1], rel=1e-4)


def test_damaged_statistics_are_told(reference, tmp_path):
  moved = shutil.copytree(reference, tmp_path / 'moved')
  data = (moved / 'statistics.npz').read_bytes()
  (moved / 'statistics.npz').write_bytes(data[: len(data) // 2])
  with pytest.raises(UserError, match=r'statistics\.npz cannot be read'):
    alexnet_jax.load(moved)


def test_activations_are_the_oracles():
  model = alexnet_jax.create_model('alexnet_quarter', num_classes=5, seed=3)
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)
  views = model.preprocess(image)
  np.testing.assert_array_equal(views[0, 0], image[16:240, 16:240])
  params = {
    name: {part: np.asarray(value[...]) for part, value in layer.items()}
    for name, layer in model.params.items()
  }
  expected = oracle.forward(params, np.asarray(views[0]))
  found = model.activations(views[0])
  assert list(found) == list(expected)
  for name, value in expected.items():
    joined = np.concatenate(value, -1) if isinstance(value, list) else value
    assert max_norm_error(found[name], joined) < 1e-5, name
  assert max_norm_error(model(views)[0], expected['fc8']) < 1e-5
  assert (
    max_norm_error(
      model.features(image, 'pool5').ravel(),
      np.concatenate(expected['pool5'], -1).ravel(),
    )
    < 1e-5
  )
  with pytest.raises(UserError, match="no layer 'fc9': there are conv1"):
    model.features(image, 'fc9')


def test_any_number_of_images_in_batches_is_each_alone(model, monkeypatch):
  monkeypatch.setattr(alexnet_jax.library, 'BATCH', 3)
  rng = np.random.default_rng(1)
  images = list(rng.integers(0, 256, (7, 256, 256, 3), dtype=np.uint8))
  alone = np.concatenate([model.predict(image) for image in images])
  assert max_norm_error(model.predict(images), alone) < 1e-5
  assert model(jnp.stack([model.preprocess(images)] * 2)).shape == (2, 1, 7, 6)


def test_preprocess_takes_paths_images_and_arrays(tmp_path):
  rng = np.random.default_rng(2)
  pixels = rng.integers(0, 256, (300, 400, 3), dtype=np.uint8)
  path = tmp_path / 'a.png'
  Image.fromarray(pixels).save(path)
  expected = photographs.square(path.read_bytes())
  for image in (path, str(path), Image.open(path), pixels):
    found = alexnet_jax.preprocess(image)
    np.testing.assert_array_equal(found, expected[None])
  several = alexnet_jax.preprocess([path, pixels])
  np.testing.assert_array_equal(several, np.stack([expected] * 2))
  np.testing.assert_array_equal(alexnet_jax.preprocess(several), several)


@pytest.mark.parametrize(
  ('image', 'message'),
  [
    (np.zeros((4, 4, 3), np.float32), r'uint8 \[H, W, 3\], not float32'),
    (np.zeros((4, 4), np.uint8), r'there is no|uint8 \[H, W, 3\], not'),
    ([], 'there is no image'),
    ('missing.jpg', 'cannot read missing.jpg'),
    (__file__, 'not an image of these kinds'),
  ],
)
def test_what_is_no_image_is_told(image, message):
  with pytest.raises(UserError, match=message):
    alexnet_jax.preprocess(image)


def test_what_is_no_run_is_told(tmp_path):
  with pytest.raises(UserError, match='no run in'):
    alexnet_jax.load(tmp_path)
  with pytest.raises(UserError, match="no architecture 'vgg': there are alex"):
    alexnet_jax.create_model('vgg')
  with pytest.raises(AttributeError, match="no attribute 'vgg'"):
    alexnet_jax.vgg  # noqa: B018
