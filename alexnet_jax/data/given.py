"""Pictures that a caller has, in whatever form, as `prepare` stores them."""

import os
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
from PIL import Image

from alexnet_jax.data import photographs
from alexnet_jax.runtime.errors import UserError, printable

Picture = str | os.PathLike | IO[bytes] | Image.Image | np.ndarray


def preprocess(
  images: Picture | Sequence[Picture], side: int = photographs.SIZE
) -> np.ndarray:
  """Photographs as `prepare` stores them (§2): shorter side to 256, the
  central square.

  Args:
    images: a path, open file, Pillow image or array, or a sequence of these.
      Arrays are uint8 [H, W, 3], or [N, H, W, 3] for N of them. A file and a
      Pillow image of one picture give the same square: turned as its EXIF
      orientation says, and in RGB.
    side: of the square, pixels.

  Returns:
    uint8 [N, side, side, 3].

  Raises:
    UserError: one is not an image, or an array of another shape or type.
  """
  return np.stack([_read_square(image, side) for image in list_images(images)])


def read_good(
  files: Sequence[str], side: int, problems: list[str]
) -> list[tuple[str, np.ndarray]]:
  """Those files that are images, and the `preprocess` of each; what is wrong
  with the others is added to `problems`."""
  good = []
  for file in files:
    try:
      good.append((file, preprocess(file, side)[0]))
    except UserError as error:
      problems.append(str(error))
  return good


def list_images(images: Any) -> Sequence[Picture]:
  """One picture as a list of one; a sequence or an array of them as it is."""
  one = isinstance(images, str | os.PathLike | Image.Image)
  one = one or hasattr(images, 'read')
  if one or (isinstance(images, np.ndarray) and images.ndim == 3):
    return [images]
  if not len(images):
    raise UserError('there is no image to look at')
  return images


def _read_square(image: Picture, side: int) -> np.ndarray:
  try:
    if isinstance(image, str | os.PathLike):
      path = os.fspath(image)
      return photographs.Photograph(str(image), 0, path).read(side)
    if isinstance(image, Image.Image):
      return photographs.fit(image, side)
    if hasattr(image, 'read') and not isinstance(image, np.ndarray):
      return photographs.square(_read_whole(image), side)
  except photographs.BadImageError as error:
    name = getattr(image, 'filename', '') or getattr(image, 'name', image)
    raise UserError(f'{printable(name)}: {error}') from error
  image = np.asarray(image)
  if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
    raise UserError(
      f'an image is uint8 [H, W, 3], not {image.dtype}{list(image.shape)}'
    )
  if image.shape[:2] == (side, side):
    return image
  return photographs.fit(Image.fromarray(image), side)


def _read_whole(file: IO[bytes]) -> bytes:
  if file.seekable():
    file.seek(0)
  data = file.read()
  if not isinstance(data, bytes):
    raise UserError(f'{file.name}: open the image file with mode "rb"')
  return data
