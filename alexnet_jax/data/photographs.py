"""One photograph: bytes of any image file to 256x256 RGB (paper §2).

Used by the worker processes of `prepare`; imports no JAX.
"""

import contextlib
import dataclasses
import errno
import io
import os
import stat
import warnings

import numpy as np
import numpy.typing as npt
import PIL
from PIL import ExifTags, Image, ImageFile, ImageOps, features

from alexnet_jax.runtime.errors import UserError, printable

SIZE = 256
FILTER = 'Pillow bicubic, antialiased; shorter side, then central square'
FORMATS = ('BMP', 'GIF', 'JPEG', 'PNG', 'PPM', 'TIFF', 'WEBP')
DECODERS = ('pillow', 'simplejpeg')  # of records
JPEG = {'quality': 90, 'subsampling': 0}  # 0 is 4:4:4

Pixels = npt.NDArray[np.uint8]


class BadImageError(Exception):
  """The bytes are no whole image; the message says why, not where."""


@dataclasses.dataclass(frozen=True, slots=True)
class Photograph:
  """An image file, or `size` bytes at `offset` of an archive."""

  name: str  # unique in its split, for messages and to choose by
  label: int
  path: str
  offset: int = 0
  size: int = -1  # to the end

  def read(self, side: int = SIZE) -> Pixels:
    try:
      # A FIFO would be waited for, and some devices never end.
      if not stat.S_ISREG(os.stat(self.path).st_mode):
        raise OSError(errno.EINVAL, 'it is no file')
      with open(self.path, 'rb') as file:
        file.seek(self.offset)
        data = file.read(self.size)
    except OSError as error:  # of the disk, not of the photograph
      raise UserError(
        f'cannot read {printable(self.path)}: {error.strerror}'
      ) from error
    return square(data, side)


def square(data: bytes, side: int = SIZE) -> Pixels:
  """Decodes an image file to uint8 [side, side, 3], §2's 256 by default.

  The format, one of `FORMATS`, is found from the content (Pillow knows more;
  for EPS, which is a program, it would start Ghostscript). The EXIF orientation
  is applied, then grey, CMYK and palette images become RGB (alpha is dropped;
  of 16 bits the upper 8 are kept), the shorter side is brought to `side` and
  the central square kept. `ImageOps.fit` does the last two in one resampling,
  so the crop is central to a fraction of a pixel; an image of that very size
  keeps its pixels.

  Raises:
    BadImageError: not an image, or a damaged one.
  """
  try:
    with (
      warnings.catch_warnings(action='ignore'),  # about EXIF, mostly
      Image.open(io.BytesIO(data), formats=FORMATS) as image,
    ):
      return fit(image, side)
  except PIL.UnidentifiedImageError:
    kinds = ', '.join(FORMATS)
    raise BadImageError(f'not an image of these kinds: {kinds}') from None
  except BadImageError:
    raise
  except Exception as error:  # damaged bytes may raise anything
    raise BadImageError(str(error) or type(error).__name__) from error


def fit(image: Image.Image, side: int = SIZE) -> Pixels:
  """The central square of an open image, as `square` cuts it.

  Raises:
    BadImageError: it is damaged, or has no colours that RGB can hold.
  """
  try:
    with warnings.catch_warnings(action='ignore'):
      _load(image)
      rgb = _to_rgb(_turn_upright(image))
    return np.asarray(ImageOps.fit(rgb, (side, side), Image.Resampling.BICUBIC))
  except BadImageError:
    raise
  except Exception as error:  # damaged bytes may raise anything
    raise BadImageError(str(error) or type(error).__name__) from error


def _load(image: Image.Image) -> None:
  """Reads the pixels, never from a map of the file: Pillow 13 maps an
  uncompressed TIFF that lies on its side in the wrong shape."""
  if not isinstance(image, ImageFile.ImageFile):
    return
  name, image.filename = image.filename, ''  # without a name there is no map
  try:
    image.load()
  finally:
    image.filename = name


def _turn_upright(image: Image.Image) -> Image.Image:
  """As the EXIF orientation says; the image itself stays as it is."""
  with contextlib.suppress(Exception):  # damaged EXIF, whole pixels
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
      return ImageOps.exif_transpose(image)
  return image


def _to_rgb(image: Image.Image) -> Image.Image:
  if image.mode.startswith('I;16'):  # Pillow would clip them, to white
    # The upper byte, which Pillow takes of 16 bits in colour.
    upper = (np.asarray(image) >> 8).astype(np.uint8)
    return Image.fromarray(upper).convert('RGB')
  if image.mode[0] in 'IF':
    raise BadImageError(
      f'pixels of 32 bits a channel (mode {image.mode}): save it with 8 bits'
    )
  return image.convert('RGB')


def encode_jpeg(pixels: Pixels) -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, 'JPEG', **JPEG)
  return buffer.getvalue()


def decode_jpeg(data: bytes, decoder: str = 'pillow') -> Pixels:
  """Any JPEG file as uint8 [height, width, 3], perhaps read-only.

  Args:
    data: of the file.
    decoder: of `DECODERS`. Their pixels are the same where both have the exact
      cosine transform of libjpeg (tests/data/test_photographs.py).
  """
  if decoder == 'simplejpeg':
    import simplejpeg  # an extra

    return simplejpeg.decode_jpeg(data, fastdct=False, fastupsample=False)
  # Its bytes come faster than its array.
  with Image.open(io.BytesIO(data), formats=['JPEG']) as image:
    pixels = np.frombuffer(image.tobytes(), np.uint8)
    return pixels.reshape(image.height, image.width, -1)


def decoder() -> str:
  """Pillow and the JPEG library under it, with versions."""
  turbo = features.version_feature('libjpeg_turbo')
  jpeg = f'libjpeg-turbo {turbo}' if turbo else features.version('jpg')
  return f'Pillow {PIL.__version__}, {jpeg}'
