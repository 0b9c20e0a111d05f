"""Statistics against NumPy's own mean, covariance and eigen-decomposition."""

import numpy as np
import pytest
from etils import epath

from alexnet_jax.data.stats import Statistics, Sums


def _images(count: int = 12, size: int = 16) -> np.ndarray:
  rng = np.random.default_rng(0)
  grey = rng.integers(0, 200, (count, size, size, 1))
  return (grey + rng.integers(0, 56, (count, size, size, 3))).astype(np.uint8)


def test_statistics_equal_numpys():
  images = _images()
  statistics = Sums.of(images).statistics()
  pixels = images.reshape(-1, 3).astype(np.float64)
  assert statistics.count == 12
  # Ours are rounded once; NumPy's float64 sums err by less than 1e-12.
  np.testing.assert_allclose(
    statistics.mean_image, images.mean(0, dtype=np.float64), rtol=1e-12
  )
  np.testing.assert_allclose(statistics.rgb_mean, pixels.mean(0), rtol=1e-12)
  np.testing.assert_allclose(
    statistics.rgb_covariance, np.cov(pixels.T, bias=True), rtol=1e-11
  )


def test_eigenvectors_are_columns_in_descending_order_with_fixed_sign():
  statistics = Sums.of(_images()).statistics()
  values, vectors = statistics.eigenvalues, statistics.eigenvectors
  assert values[0] > values[1] > values[2] > 0
  for i in range(3):
    np.testing.assert_allclose(
      statistics.rgb_covariance @ vectors[:, i],
      values[i] * vectors[:, i],
      atol=1e-10 * values[0],
    )
    assert np.linalg.norm(vectors[:, i]) == pytest.approx(1, abs=1e-12)
    assert vectors[np.abs(vectors[:, i]).argmax(), i] > 0


def test_any_grouping_gives_the_same_bits():
  images = _images()
  whole = Sums.of(images).statistics()
  parts = sum((Sums.of(images[i : i + 5]) for i in (10, 0, 5)), Sums())
  for name, value in vars(parts.statistics()).items():
    np.testing.assert_array_equal(value, getattr(whole, name))


def test_sums_of_two_million_white_images_do_not_overflow():
  sums = Sums.of([np.full((256, 256, 3), 255, np.uint8)])
  for _ in range(21):
    sums += sums
  statistics = sums.statistics()
  assert statistics.count == 2**21
  assert (statistics.mean_image == 255).all()
  assert (statistics.rgb_covariance == 0).all()


def test_save_and_load(tmp_path):
  statistics = Sums.of(_images()).statistics()
  path = epath.Path(tmp_path / 'statistics.npz')
  statistics.save(path)
  for name, value in vars(Statistics.load(path)).items():
    np.testing.assert_array_equal(value, getattr(statistics, name))
