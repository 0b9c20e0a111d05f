"""Decoding: the crop, the rotations, and every kind of file."""

import io

import numpy as np
import pytest
import small_pictures
from PIL import Image

from alexnet_jax.data import photographs
from alexnet_jax.data.photographs import BadImageError, square


def _encode(image: Image.Image, form: str = 'PNG', **options) -> bytes:
  buffer = io.BytesIO()
  image.save(buffer, form, **options)
  return buffer.getvalue()


def _noise(width: int, height: int) -> np.ndarray:
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (height, width, 3), np.uint8)


def test_shorter_side_256_is_only_cropped():
  wide, tall = _noise(400, 256), _noise(256, 300)
  np.testing.assert_array_equal(
    square(_encode(Image.fromarray(wide))), wide[:, 72:328]
  )
  np.testing.assert_array_equal(
    square(_encode(Image.fromarray(tall))), tall[22:278]
  )


@pytest.mark.parametrize(
  ('width', 'height', 'centre'),
  [
    (768, 512, (128, 0, 640, 512)),
    (96, 64, (16, 0, 80, 64)),
    (300, 401, (0, 50.5, 300, 350.5)),
    (1, 1, (0, 0, 1, 1)),
  ],
)
@pytest.mark.parametrize('palette', [False, True])
def test_scaled_and_cropped_to_the_centre(width, height, centre, palette):
  """As Pillow's own bicubic has noise, where filters differ most; a palette
  becomes RGB first, for it has no colours between two of its own."""
  image = Image.fromarray(_noise(width, height))
  image = image.quantize(16) if palette else image
  want = image.convert('RGB').resize(
    (256, 256), Image.Resampling.BICUBIC, box=centre
  )
  found = square(_encode(image))
  assert found.dtype == np.uint8
  np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize(
  ('orientation', 'undo'),
  [
    (1, lambda x: x),
    (2, lambda x: x[:, ::-1]),
    (3, lambda x: np.rot90(x, 2)),
    (4, lambda x: x[::-1]),
    (5, lambda x: x.transpose(1, 0, 2)),
    (6, lambda x: np.rot90(x, -1)),
    (7, lambda x: np.rot90(x, 2).transpose(1, 0, 2)),
    (8, lambda x: np.rot90(x, 1)),
  ],
)
def test_exif_rotation_is_applied(orientation, undo):
  pixels = _noise(256, 256)
  exif = Image.Exif()
  exif[0x0112] = orientation
  data = _encode(Image.fromarray(pixels), exif=exif)
  np.testing.assert_array_equal(square(data), undo(pixels))


def test_damaged_exif_does_not_spoil_a_whole_picture():
  pixels = _noise(256, 256)
  data = _encode(Image.fromarray(pixels), exif=b'Exif\0\0not a TIFF header')
  np.testing.assert_array_equal(square(data), pixels)


@pytest.mark.parametrize(
  ('mode', 'colour', 'form', 'expected'),
  [
    ('L', 90, 'JPEG', (90, 90, 90)),
    ('CMYK', (0, 255, 255, 0), 'JPEG', (255, 0, 0)),
    ('RGB', (10, 200, 30), 'PNG', (10, 200, 30)),
    ('RGBA', (10, 200, 30, 255), 'PNG', (10, 200, 30)),
    ('LA', (90, 255), 'PNG', (90, 90, 90)),
    ('1', 1, 'PNG', (255, 255, 255)),
    ('RGB', (10, 200, 30), 'WEBP', (10, 200, 30)),
    ('RGB', (10, 200, 30), 'BMP', (10, 200, 30)),
  ],
)
def test_every_colour_mode_becomes_rgb(mode, colour, form, expected):
  options = {'lossless': True} if form == 'WEBP' else {}
  data = _encode(Image.new(mode, (300, 280), colour), form, **options)
  tolerance = 2 if form == 'JPEG' else 0
  assert np.abs(square(data).astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (lambda data: b'', 'not an image'),
    (lambda data: b'<html>404</html>', 'not an image'),
    (lambda data: data[: len(data) // 2], 'truncated'),
    (lambda data: data[:20], 'not an image|truncated'),
  ],
)
def test_damaged_files(damage, message):
  data = _encode(Image.fromarray(_noise(300, 300)), 'JPEG')
  with pytest.raises(BadImageError, match=message):
    square(damage(data))


def test_of_sixteen_bits_the_upper_ones_are_kept():
  ramp = np.arange(256 * 256, dtype=np.uint16).reshape(256, 256)
  want = np.repeat((ramp // 256)[..., None], 3, -1)
  np.testing.assert_array_equal(square(_encode(Image.fromarray(ramp))), want)


def test_thirty_two_bits_are_refused_rather_than_clipped():
  deep = Image.fromarray(np.full((300, 300), 30000, np.int32))
  with pytest.raises(BadImageError, match='8 bits'):
    square(_encode(deep, 'TIFF'))


def test_decoders_give_the_same_pixels():
  """The greatest difference, over photographs and noise: 0."""
  pytest.importorskip('simplejpeg')
  rng = np.random.default_rng(0)
  pictures = [rng.integers(0, 256, (96, 96, 3), np.uint8)]
  pictures += [square(small_pictures.draw_jpeg(seed), 96) for seed in range(8)]
  for pixels in pictures:
    data = photographs.encode_jpeg(pixels)
    one, other = (
      photographs.decode_jpeg(data, decoder) for decoder in photographs.DECODERS
    )
    np.testing.assert_array_equal(one, other)
    for decoder in photographs.DECODERS:
      with pytest.raises((OSError, ValueError)):
        photographs.decode_jpeg(data[: len(data) // 2], decoder)


def test_jpeg_is_444_and_close():
  # A hue edge between two columns: 4:2:0 would smear it by 100 and more.
  pixels = np.zeros((256, 256, 3), np.uint8)
  pixels[:, ::2, 0], pixels[:, 1::2, 2] = 200, 200
  data = photographs.encode_jpeg(pixels)
  error = np.abs(photographs.decode_jpeg(data).astype(int) - pixels)
  assert error.max() < 30
