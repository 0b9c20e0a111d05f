"""What a network was trained with goes where it goes: drawn settings."""

import dataclasses
import io
import json
from pathlib import Path

import jax
import numpy as np
import onnxruntime
import oracle
import pytest
import small_pictures
from etils import epath
from flax import traverse_util
from ml_collections import ConfigDict
from PIL import Image

import alexnet_jax
from alexnet_jax import library
from alexnet_jax.data import stats
from alexnet_jax.formats import conversion, onnx
from alexnet_jax.formats.names import Network
from alexnet_jax.training import evaluation, saved
from alexnet_jax.training.settings import configure
from configs import default

pytestmark = pytest.mark.usefixtures('cached')


SIDES = (104, 128)  # of the squares
CLASSES = tuple('abcdef')
# One of each side in each run of the tests, 30 with -m slow.
DRAWS = [
  *range(2),
  *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 30)),
]


def draw_config(seed: int) -> ConfigDict:
  """Of a small network whose settings are drawn."""
  rng = np.random.default_rng(seed)
  config = default.get_config()
  config.model.width = 0.05
  config.mesh.data = config.mesh.towers = 1
  config.evals.batch_size = 12
  config.augment.crop_size = int(rng.integers(64, SIDES[0]))
  config.augment.mean = ('image', 'rgb', 'none')[seed % 3]
  config.augment.scale = float(rng.choice([1, 0.5, 1 / 58, rng.uniform(0, 3)]))
  return config


def draw_weights(network: Network, seed: int) -> Network:
  """Weights that all matter; so small that probabilities are not 0 and 1."""
  rng = np.random.default_rng(seed)
  params = {
    name: rng.normal(
      0, (1 / max(1, np.prod(x.shape[1:-1]))) ** 0.5, x.shape
    ).astype(np.float32)
    for name, x in network.shapes().items()
  }
  scale = network.config['augment']['scale']
  last = params['fc8/kernel'] * np.float32(0.02 / scale)
  return dataclasses.replace(network, params=params | {'fc8/kernel': last})


def softmax(logits) -> np.ndarray:
  logits = np.asarray(logits, np.float64)
  e = np.exp(logits - logits.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
  folder = tmp_path_factory.mktemp('tree')
  return small_pictures.write_tree(folder, dict.fromkeys(CLASSES, 2))


def crop_square(file: Path, side: int) -> np.ndarray:
  """§2 by Pillow alone: uint8 [side, side, 3]."""
  with Image.open(file) as image:
    wide, high = image.size
    edge = min(wide, high)
    left, top = (wide - edge) / 2, (high - edge) / 2
    box = (left, top, left + edge, top + edge)
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC, box))


@pytest.mark.parametrize('seed', DRAWS)
def test_every_program_says_what_predict_says(seed, tree, tmp_path):
  """The oracle: Pillow's square; NumPy's mean, scale and network."""
  config, side = draw_config(seed), SIDES[seed % 2]
  config.data.dir, config.data.name = str(tmp_path / 'data'), 'pets'
  small_pictures.prepare(
    'folder', tmp_path, tree, size=side, validation_share=0.0
  )
  mean = np.random.default_rng(seed).uniform(60, 190, (side, side, 3))
  network = draw_weights(
    Network(json.loads(config.to_json()), {}, CLASSES, stats.of_mean(mean)),
    seed,
  )

  files = sorted(tree.glob('*/*'))
  squares = np.stack([crop_square(file, side) for file in files])
  crop, augment = network.image_size, network.config['augment']
  low = (side - crop) // 2
  pixels = squares[:, low : low + crop, low : low + crop].astype(np.float32)
  subtracted = {
    'image': mean[low : low + crop, low : low + crop],
    'rgb': mean.mean((0, 1)),
    'none': 0,
  }[augment['mean']]
  params = traverse_util.unflatten_dict(network.params, sep='/')
  views = (pixels.astype(np.float64) - subtracted) * augment['scale']
  expected = softmax(oracle.forward(params, views)['fc8'])
  assert np.ptp(expected) > 0.01 and expected.max() < 0.99

  def agrees(probabilities) -> bool:
    return abs(probabilities - expected).max() < 1e-5

  model = library.Model(network)
  assert agrees(model.predict(files))
  onnx.write(epath.Path(tmp_path / 'x.onnx'), network, model.mean, model.scale)
  session = onnxruntime.InferenceSession(tmp_path / 'x.onnx')
  (logits,) = session.run(None, {'images': pixels})
  assert agrees(softmax(logits))
  program = jax.export.deserialize(bytearray(model.stablehlo()))
  assert agrees(softmax(program.call(pixels)))
  conversion.write(tmp_path / 'x.safetensors', 'safetensors', network)
  again = alexnet_jax.load(tmp_path / 'x.safetensors')
  assert agrees(again.predict(files))

  # An evaluation, which is told nothing of it, counts as predict does.
  run = tmp_path / 'run'
  saved.write_run(
    run,
    network.config,
    configure(config),
    network.state(),
    network.class_names,
    network.statistics,
  )
  here = {f'data.{name}': config.data[name] for name in ('name', 'dir')}
  found = evaluation.evaluate_checkpoint(run, 'last', 'train', 1, here)
  labels = [CLASSES.index(file.parent.name) for file in files]
  wrong = model.predict(files).argmax(-1) != labels
  assert found['top1_error'] == pytest.approx(wrong.mean(), abs=1e-6)


# ---- One picture, one answer.


def draw_picture(seed: int) -> tuple[Image.Image, str, dict]:
  """A picture, and the format and the options to save it with."""
  rng = np.random.default_rng(seed)
  high, wide = rng.integers(40, 90, 2)
  image = Image.fromarray(rng.integers(0, 256, (high, wide, 4), np.uint8))
  mode = ('RGB', 'L', 'P', 'RGBA', 'LA', 'CMYK', '1', 'I;16')[seed % 8]
  if mode == 'I;16':
    image = Image.fromarray(rng.integers(0, 65536, (high, wide), np.uint16))
  elif mode == 'P':
    image = image.convert('RGB').quantize(16)
  else:
    image = image.convert('RGB').convert(mode)
  if mode in ('RGBA', 'LA'):
    alpha = rng.integers(0, 256, (high, wide), np.uint8)
    image.putalpha(Image.fromarray(alpha))
  exif = Image.Exif()
  exif[0x0112] = int(rng.integers(1, 9))
  form = {'CMYK': 'TIFF', 'RGB': str(rng.choice(['PNG', 'JPEG', 'WEBP']))}
  return image, form.get(mode, 'PNG'), {'exif': exif}


TURNS = {
  2: [Image.Transpose.FLIP_LEFT_RIGHT],
  3: [Image.Transpose.ROTATE_180],
  4: [Image.Transpose.FLIP_TOP_BOTTOM],
  5: [Image.Transpose.TRANSPOSE],
  6: [Image.Transpose.ROTATE_270],
  7: [Image.Transpose.TRANSVERSE],
  8: [Image.Transpose.ROTATE_90],
}


@pytest.mark.parametrize('seed', range(24))
def test_a_picture_is_the_same_however_it_is_given(seed, tmp_path):
  image, form, options = draw_picture(seed)
  path = tmp_path / f'x.{form.lower()}'
  image.save(path, form, **options)
  with Image.open(io.BytesIO(path.read_bytes())) as stored:
    orientation = stored.getexif().get(0x0112, 1)
    stored.load()
    if stored.mode == 'I;16':
      stored = Image.fromarray((np.asarray(stored) // 256).astype(np.uint8))
    upright = stored.convert('RGB')
    if form != 'TIFF':  # Pillow has turned it
      for turn in TURNS.get(orientation, []):
        upright = upright.transpose(turn)
  array = np.asarray(upright)
  expected = alexnet_jax.preprocess(array, 64)
  with path.open('rb') as file, Image.open(path) as opened:
    before = opened.getexif().get(0x0112)
    for given in (path, str(path), file, file, opened, [opened, path]):
      for found in alexnet_jax.preprocess(given, 64):
        np.testing.assert_array_equal(found, expected[0])
    if form != 'TIFF':  # which Pillow itself turns, and says so
      assert opened.getexif().get(0x0112) == before  # as it was given


def test_pictures_that_cannot_be_read_are_refused_alike(tmp_path):
  deep = Image.new('F', (70, 70), 0.5)
  deep.save(tmp_path / 'x.tiff')
  with (tmp_path / 'x.tiff').open('rb') as file:
    opened = Image.open(tmp_path / 'x.tiff')
    for given in (tmp_path / 'x.tiff', file, opened, deep):
      with pytest.raises(alexnet_jax.library.UserError, match='32 bits'):
        alexnet_jax.preprocess(given)
  (tmp_path / 'x.txt').write_text('words')
  words = pytest.raises(alexnet_jax.library.UserError, match='mode "rb"')
  with (tmp_path / 'x.txt').open() as file, words:
    alexnet_jax.preprocess(file)
