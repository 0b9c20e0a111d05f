"""Statistics of the training images: mean image and RGB covariance (§2, §4.1).

They come from exact integer sums, so they depend neither on the order of the
images nor on how many processes summed them.
"""

import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from etils import epath

from alexnet_jax.runtime.files import write_atomically


@dataclasses.dataclass(frozen=True)
class Statistics:
  """Statistics of the training split, in pixel units (0 to 255), RGB order."""

  count: int  # images
  mean_image: npt.NDArray[np.float64]  # [S, S, 3]
  rgb_mean: npt.NDArray[np.float64]  # [3]
  rgb_covariance: npt.NDArray[np.float64]  # [3, 3], over all pixels of all
  eigenvalues: npt.NDArray[np.float64]  # [3], descending, squared pixel units
  eigenvectors: npt.NDArray[np.float64]  # [3, 3], column i for eigenvalue i

  def save(self, path: epath.Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **dataclasses.asdict(self))
    write_atomically(path, buffer.getvalue())

  @classmethod
  def load(cls, path: epath.Path) -> 'Statistics':
    with path.open('rb') as file, np.load(file) as arrays:
      return cls(count=int(arrays['count']), **_without(arrays, 'count'))


def of_mean(mean_image: npt.NDArray[np.floating]) -> Statistics:
  """What is known of images of which only the mean [S, S, 3] is.

  There is no colour noise then: its components are zero.
  """
  return Statistics(
    count=0,
    mean_image=mean_image.astype(np.float64),
    rgb_mean=mean_image.mean((0, 1), dtype=np.float64),
    rgb_covariance=np.zeros((3, 3)),
    eigenvalues=np.zeros(3),
    eigenvectors=np.eye(3),
  )


@dataclasses.dataclass
class Sums:
  """Integer sums over images of one size S."""

  count: int = 0
  pixels: npt.NDArray[np.integer] | int = 0  # [S, S, 3]
  products: npt.NDArray[np.int64] | int = 0  # [3, 3], sum of rgb rgb^T

  @classmethod
  def of(cls, images: Sequence[npt.NDArray[np.uint8]]) -> 'Sums':
    """Sums of uint8 [S, S, 3] images, fewer than 2^24: uint32 holds them."""
    # float64 has the fast matrix product, and is exact here whatever the order
    # of the additions: 255^2 S^2 < 2^53 up to S = 372,000.
    rgbs = (image.reshape(-1, 3).astype(np.float64) for image in images)
    return cls(
      count=len(images),
      pixels=np.sum(images, 0, dtype=np.uint32),
      products=sum((rgb.T @ rgb).astype(np.int64) for rgb in rgbs),
    )

  def __add__(self, other: 'Sums') -> 'Sums':
    # int64 lasts for 2 x 10^9 images of 256 x 256.
    return Sums(
      self.count + other.count,
      np.add(self.pixels, other.pixels, dtype=np.int64),
      np.add(self.products, other.products, dtype=np.int64),
    )

  def statistics(self) -> Statistics:
    """Means, covariance (divided by N, the number of pixels) and its
    eigen-decomposition; each eigenvector's largest component is positive."""
    pixels = np.asarray(self.pixels)
    n = self.count * pixels.shape[0] * pixels.shape[1]
    # Python integers: exact until the one division, no cancellation.
    total = pixels.sum((0, 1), dtype=np.int64).astype(object)  # [3]
    products = np.asarray(self.products).astype(object)
    covariance = (n * products - np.outer(total, total)) / n**2
    covariance = covariance.astype(np.float64)
    eigenvalues, eigenvectors = np.linalg.eigh(covariance)
    eigenvalues, eigenvectors = eigenvalues[::-1], eigenvectors[:, ::-1]
    largest = np.abs(eigenvectors).argmax(0)
    eigenvectors = eigenvectors * np.sign(eigenvectors[largest, range(3)])
    return Statistics(
      count=self.count,
      mean_image=pixels / self.count,
      rgb_mean=(total / n).astype(np.float64),
      rgb_covariance=covariance,
      eigenvalues=eigenvalues,
      eigenvectors=eigenvectors,
    )


def _without(arrays: Any, key: str) -> dict[str, np.ndarray]:
  return {name: arrays[name] for name in arrays if name != key}
