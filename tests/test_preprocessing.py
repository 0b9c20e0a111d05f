"""What a network was trained with goes where it goes: drawn settings."""

import dataclasses
import json

import jax
import numpy as np
import onnxruntime
import oracle
import pytest
from etils import epath
from flax import traverse_util
from PIL import Image

import alexnet_jax
from alexnet_jax import library
from alexnet_jax.data import stats
from alexnet_jax.formats import conversion, onnx
from alexnet_jax.formats.names import Network
from configs import default

pytestmark = pytest.mark.usefixtures('cached')


def draw_network(seed: int) -> Network:
  """A small network; its settings are drawn, and weights that all matter."""
  rng = np.random.default_rng(seed)
  config = default.get_config()
  config.model.width = 0.05
  config.augment.crop_size = int(rng.integers(64, 100))
  config.augment.mean = str(rng.choice(['image', 'rgb', 'none']))
  config.augment.scale = float(rng.choice([1, 0.5, 1 / 58, rng.uniform(0, 3)]))
  side = int(rng.integers(config.augment.crop_size, 140))
  mean = stats.of_mean(rng.uniform(60, 190, (side, side, 3)))
  names = tuple('abcdef')
  network = Network(json.loads(config.to_json()), {}, names, mean)
  params = {
    name: rng.normal(
      0, (1 / max(1, np.prod(x.shape[1:-1]))) ** 0.5, x.shape
    ).astype(np.float32)
    for name, x in network.shapes().items()
  }
  # So small that probabilities are far from 0 and 1.
  last = params['fc8/kernel'] * np.float32(0.02 / config.augment.scale)
  return dataclasses.replace(network, params=params | {'fc8/kernel': last})


def softmax(logits) -> np.ndarray:
  logits = np.asarray(logits, np.float64)
  e = np.exp(logits - logits.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize('seed', range(10))
def test_every_program_says_what_predict_says(seed, tmp_path):
  network = draw_network(seed)
  rng = np.random.default_rng(seed)
  side, crop = len(network.statistics.mean_image), network.image_size
  files = [tmp_path / f'{i}.png' for i in range(2)]
  for file in files:
    size = rng.integers(side, 2 * side, 2)
    Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(file)

  # The oracle: Pillow's square, NumPy's mean, scale and network.
  squares = []
  for file in files:
    with Image.open(file) as image:
      wide, high = image.size
      edge = min(wide, high)
      left, top = (wide - edge) / 2, (high - edge) / 2
      box = (left, top, left + edge, top + edge)
      square = image.resize((side, side), Image.Resampling.BICUBIC, box)
      squares.append(np.asarray(square, np.float64))
  low = (side - crop) // 2
  cuts = np.stack(squares)[:, low : low + crop, low : low + crop]
  augment, whole = network.config['augment'], network.statistics.mean_image
  mean = {
    'image': whole[low : low + crop, low : low + crop],
    'rgb': whole.mean((0, 1)),
    'none': 0,
  }[augment['mean']]
  params = traverse_util.unflatten_dict(network.params, sep='/')
  views = (cuts - mean) * augment['scale']
  expected = softmax(oracle.forward(params, views)['fc8'])
  assert np.ptp(expected) > 0.01 and expected.max() < 0.99

  model = library.Model(network)
  assert abs(model.predict(files) - expected).max() < 1e-5
  pixels = cuts.astype(np.float32)
  onnx.write(epath.Path(tmp_path / 'x.onnx'), network, model.mean, model.scale)
  session = onnxruntime.InferenceSession(tmp_path / 'x.onnx')
  (logits,) = session.run(None, {'images': pixels})
  assert abs(softmax(logits) - expected).max() < 1e-5
  program = jax.export.deserialize(bytearray(model.stablehlo()))
  assert abs(softmax(program.call(pixels)) - expected).max() < 1e-5
  conversion.write(tmp_path / 'x.safetensors', 'safetensors', network)
  again = alexnet_jax.load(tmp_path / 'x.safetensors')
  assert abs(again.predict(files) - expected).max() < 1e-5


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
  with Image.open(path) as stored:
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
    assert opened.getexif().get(0x0112) == before  # the user's is as it was


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
