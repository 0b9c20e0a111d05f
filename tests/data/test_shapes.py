"""The drawn data set: reproducible, balanced, fair to the views, not a toy."""

import concurrent.futures
import hashlib
import multiprocessing

import numpy as np
import pytest

from alexnet_jax.data import shapes

SPLITS = tuple(shapes.NUM_EXAMPLES)


def _mask(split: str, index: int) -> np.ndarray:
  """Coverage [256, 256] of the shape itself, by its own generator."""
  rng = shapes._generator(shapes.SEED, split, index)
  name = shapes.CLASS_NAMES[shapes.label(split, index)]
  return shapes._Canvas(256).coverage(shapes._place(rng, name))


def _digest(index: int) -> str:
  image = shapes.draw(shapes.SEED, 'train', index)
  return hashlib.sha256(image.tobytes()).hexdigest()


def test_image_depends_on_nothing_but_its_arguments():
  context = multiprocessing.get_context('spawn')
  with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
    forwards = list(pool.map(_digest, range(12)))
  backwards = [_digest(i) for i in reversed(range(12))]
  assert forwards == backwards[::-1]
  assert len(set(forwards)) == 12


def test_bytes_are_pinned():
  images = [shapes.draw(shapes.SEED, split, 7) for split in SPLITS]
  digest = hashlib.sha256(np.stack(images).tobytes()).hexdigest()
  assert digest[:16] == 'da401f284bbfa8f9'


def test_seeds_and_splits_differ():
  images = [shapes.draw(seed, split, 0) for seed in (1, 2) for split in SPLITS]
  assert all(image.shape == (256, 256, 3) for image in images)
  assert all(image.dtype == np.uint8 for image in images)
  assert len({image.tobytes() for image in images}) == len(images)


@pytest.mark.parametrize('size', [64, 128, 512])
def test_other_sizes_show_the_same_scene(size):
  """Means over a 32x32 grid agree to 6 of 255 (RMS), all but fine noise."""

  def means(image):
    block = image.shape[0] // 32
    return image.reshape(32, block, 32, block, 3).mean((1, 3))

  image = shapes.draw(shapes.SEED, 'train', 3, size=size)
  assert image.shape == (size, size, 3)
  apart = means(image) - means(shapes.draw(shapes.SEED, 'train', 3))
  assert np.sqrt((apart**2).mean()) < 6


@pytest.mark.parametrize('split', SPLITS)
def test_labels_are_balanced(split):
  n = shapes.NUM_EXAMPLES[split]
  counts = np.bincount([shapes.label(split, i) for i in range(n)])
  np.testing.assert_array_equal(counts, np.full(10, n / 10))


def test_examples_that_do_not_exist_are_refused():
  for index in (-1, shapes.NUM_EXAMPLES['test']):
    with pytest.raises(IndexError, match='test has 1000 examples'):
      shapes.draw(shapes.SEED, 'test', index)


def test_shape_is_whole_in_every_crop():
  for index in range(200):
    outside = _mask('train', index)
    outside[32:224, 32:224] = 0
    assert outside.max() == 0


def test_shape_stands_out():
  """It covers a fair share, and is lighter than the rest on average."""
  for index in range(100):
    mask = _mask('test', index)
    assert 0.01 < mask.mean() < 0.4
    image = shapes.draw(shapes.SEED, 'test', index).astype(float)
    inside = np.average(image, (0, 1), mask[..., None].repeat(3, -1))
    around = np.average(image, (0, 1), 1 - mask[..., None].repeat(3, -1))
    assert inside.mean() - around.mean() > shapes._CONTRAST / 2


def test_coverage_is_the_area_of_the_polygon():
  """Against the shoelace formula; exact for edges on the scanlines' grid."""
  canvas = shapes._Canvas(64)
  box = np.array([[10, 9], [50, 9], [50, 31], [10, 31]], float)
  pixels = canvas.coverage([box])  # a quarter of the scale
  assert pixels.sum() == pytest.approx(40 * 22 / 16)
  assert pixels[4, 5] == 1 and pixels[0, 0] == 0
  assert pixels[4, 2] == pytest.approx(0.5)  # 10 / 4 = 2.5
  rng = np.random.default_rng(0)
  for name in shapes.CLASS_NAMES:
    contours = shapes._place(rng, name)
    area = sum(
      np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) / 2
      for x, y in (contour.T for contour in contours)
    )
    pixels = shapes._Canvas(256).coverage(contours)
    assert pixels.sum() == pytest.approx(abs(area), rel=5e-3)


@pytest.mark.parametrize('name', shapes.CLASS_NAMES)
def test_mirror_image_is_the_same_class(name):
  """Flipped in the y axis, turned by some angle, a shape is itself."""
  contours = shapes._SHAPES[name]

  def picture(angle, flip):
    turn = np.array(
      [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    )
    posed = [c * [flip, 1] @ turn * 60 + 128 for c in contours]
    return shapes._Canvas(256).coverage(posed)

  flipped = picture(0, -1)
  apart = [
    np.abs(picture(angle, 1) - flipped).sum()
    for angle in np.arange(24) * np.pi / 12
  ]
  assert min(apart) < 0.02 * flipped.sum()


# -- Not a toy ----------------------------------------------------------------


def _pixels(split: str, n: int) -> tuple[np.ndarray, np.ndarray]:
  """The first n images as [n, 32 * 32 * 3], block means, and labels."""
  images = np.stack(
    [
      shapes.draw(shapes.SEED, split, i)
      .reshape(32, 8, 32, 8, 3)
      .mean((1, 3))
      .ravel()
      for i in range(n)
    ]
  )
  return images / 128 - 1, np.arange(n) % 10


def _linear_error(train, test) -> float:
  """Least error over ridge strengths of one-against-all least squares."""
  (x, y), (u, v) = train, test
  mean = x.mean(0)
  x, u = x - mean, u - mean
  spectrum, basis = np.linalg.eigh(x @ x.T)
  targets = np.eye(10)[y] - 0.1
  errors = []
  for ridge in 10.0 ** np.arange(-1, 5):
    dual = basis @ (basis.T @ targets / (spectrum + ridge)[:, None])
    errors.append(np.mean((u @ (x.T @ dual)).argmax(1) != v))
  return min(errors)


def _neighbour_error(train, test) -> float:
  (x, y), (u, v) = train, test
  squares = (x * x).sum(1) - 2 * u @ x.T
  return np.mean(y[squares.argmin(1)] != v)


def _check_not_a_toy(n_train: int, n_test: int) -> None:
  train, test = _pixels('train', n_train), _pixels('test', n_test)
  linear, neighbour = _linear_error(train, test), _neighbour_error(train, test)
  print(f'linear {linear:.1%}, 1-nearest neighbour {neighbour:.1%}')
  assert linear > 0.6
  assert neighbour > 0.6


def test_not_a_toy():
  """On 600 training and 300 test images; all of them in the slow test."""
  _check_not_a_toy(600, 300)


@pytest.mark.slow
def test_not_a_toy_in_full():
  _check_not_a_toy(shapes.NUM_EXAMPLES['train'], shapes.NUM_EXAMPLES['test'])
