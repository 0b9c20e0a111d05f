"""`shapes`: a small synthetic data set, drawn by this file (no photographs).

Ten classes of flat shapes at a random place, size, rotation, colour, texture
and light, on a cluttered 1/f background, so that the whole program can be
tried anywhere without a download. An image is a pure function of (seed, split,
index): any process may draw any image, in any order.

Two rules keep it fair under the training views (paper, section 4.1): a shape
lies whole within every 224x224 crop of its 256x256 image, and its mirror image
is of the same class. One keeps it learnable within a thousand steps: a shape
is lighter than what lies behind it. One keeps it from being a toy: all else
(place, size, angle, hue, texture, clutter) is drawn alike for every class, so
pixels one by one, or the nearest picture, say little
(tests/data/test_shapes.py).

Operations on pixels are those that IEEE 754 rounds exactly, element by element
(no FFT, no sum whose order may vary), so bytes are the same on every machine.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.float32]  # [S, S] or, planar, [3, S, S]
Contour = npt.NDArray[np.float64]  # [vertices, 2] as (x, y), closed

SEED = 2012
NUM_EXAMPLES = {'train': 4000, 'validation': 500, 'test': 1000}

# Once a block this large was freed, glibc keeps freed images for the next ones
# instead of returning them to the kernel: that halves the time of `draw`.
np.empty(1 << 24, np.uint8)

# Lengths are in pixels of an image this wide; `size` scales them all.
_WIDTH = 256
# Rows and columns that all 224x224 crops share.
_COMMON = (_WIDTH - 224, 224)
# Circle around a shape.
_RADIUS = (44, 88)
# Least difference in brightness, 0..255, between a shape and its background,
# before light and noise. Always of one sign: where half of the shapes are the
# darker ones, a network of width 1/4 leaves chance much later.
_CONTRAST = 60


def _polar(degrees: npt.ArrayLike, radii: npt.ArrayLike = 1.0) -> Contour:
  angles = np.radians(degrees)
  return np.stack([np.cos(angles), np.sin(angles)], 1) * np.c_[radii]


def _regular(n: int) -> Contour:
  return _polar(np.arange(n) * 360 / n)


def _mirrored(*half: tuple[float, float]) -> Contour:
  """Closes the right half of a contour with its mirror image in the y axis."""
  right = np.array(half)
  return np.concatenate([right, right[::-1] * [-1, 1]])


def _crescent() -> Contour:
  outer = _polar(np.linspace(55, 305, 48))
  centre = np.array([0.75, 0.0])
  x, y = outer[0] - centre  # the upper tip, where the inner arc ends
  tip = math.degrees(math.atan2(y, x))
  inner = centre + math.hypot(x, y) * _polar(np.linspace(360 - tip, tip, 32))
  return np.concatenate([outer, inner])


def _heart() -> Contour:
  t = np.arange(64) * math.tau / 64
  x = 16 * np.sin(t) ** 3
  y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
  return np.stack([x, y + 2.5], 1) / 17


# Each class as contours within the unit circle; a hole runs the other way.
_SHAPES: dict[str, list[Contour]] = {
  'disc': [_regular(64)],
  'ring': [_regular(64), 0.6 * _regular(64)[::-1]],
  'crescent': [_crescent()],
  'heart': [_heart()],
  'triangle': [_regular(3)],
  'square': [_regular(4)],
  'star': [_polar(np.arange(10) * 36, np.tile([1, 0.42], 5))],
  'cross': [
    _polar(
      np.add.outer(np.arange(4) * 90, [-17, 17, 45]).ravel(),
      np.tile([1, 1, 0.413], 4),
    )
  ],
  'arrow': [_mirrored((0, 1), (0.8, 0.1), (0.27, 0.1), (0.27, -0.95))],
  'hourglass': [_mirrored((0.7, 0.7), (0.12, 0), (0.7, -0.7))],
}
CLASS_NAMES = tuple(_SHAPES)


def label(split: str, index: int) -> int:
  """Class of an example; every run of ten indices has each class once."""
  if not 0 <= index < NUM_EXAMPLES[split]:
    raise IndexError(f'{split} has {NUM_EXAMPLES[split]} examples, not {index}')
  return index % len(CLASS_NAMES)


def draw(
  seed: int, split: str, index: int, size: int = _WIDTH
) -> npt.NDArray[np.uint8]:
  """Draws one image, uint8 [size, size, 3], RGB, from its arguments alone.

  Args:
    seed: of the whole data set.
    split: a key of NUM_EXAMPLES.
    index: of the example in its split; its class is `label(split, index)`.
    size: side in pixels, at best a power of two; the scene stays the same.
  """
  name = CLASS_NAMES[label(split, index)]
  rng = _generator(seed, split, index)
  shape = _place(rng, name)
  behind, colours = _colours(rng)

  canvas = _Canvas(size)
  image = canvas.surface(rng, behind) + canvas.noise(rng, 3, (6, 14))
  for _ in range(2):
    canvas.paint(rng, image, _clutter(rng, (2, 8), (0, 3)))
  canvas.paint(rng, image, shape, colours)
  canvas.paint(rng, image, _clutter(rng, (1, 4), (0, 3)))
  image += canvas.noise(rng, 1, (4, 10))
  return np.rint(image.clip(0, 255)).astype(np.uint8).transpose(1, 2, 0).copy()


def _generator(seed: int, split: str, index: int) -> np.random.Generator:
  key = (list(NUM_EXAMPLES).index(split), index)
  return np.random.Generator(
    np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key))
  )


def _place(rng: np.random.Generator, name: str) -> list[Contour]:
  """A shape squeezed, turned, sized and moved, whole within every crop."""
  squeeze = np.diag([1, rng.uniform(0.75, 1)])
  radius = rng.uniform(*_RADIUS)
  pose = _turn(rng) @ squeeze @ _turn(rng) * radius
  low, high = _COMMON
  centre = rng.uniform(low + radius, high - radius, 2)
  return [contour @ pose.T + centre for contour in _SHAPES[name]]


def _turn(rng: np.random.Generator) -> Contour:
  angle = rng.uniform(0, math.tau)
  cos, sin = math.cos(angle), math.sin(angle)
  return np.array([[cos, -sin], [sin, cos]])


def _clutter(
  rng: np.random.Generator, shards: tuple[int, int], lines: tuple[int, int]
) -> list[Contour]:
  """Small jagged shards and thin lines anywhere: of no class."""
  contours = []
  for _ in range(rng.integers(*shards)):
    radii = rng.uniform(0.3, 1, 7) * rng.uniform(4, 22)
    contours.append(_polar(np.arange(7) * 360 / 7, radii))
  for _ in range(rng.integers(*lines)):
    x, y = rng.uniform(20, 120), rng.uniform(0.6, 2)
    contours.append(np.array([[x, -y], [x, y], [-x, y], [-x, -y]]))
  return [c @ _turn(rng) + rng.uniform(0, _WIDTH, 2) for c in contours]


def _colours(rng: np.random.Generator) -> tuple[Contour, Contour]:
  """Two colours [2, 3] for the background, two lighter ones for a shape."""
  mixed = np.array([[1, 0], [0.5, 0.5], [0, 1]])
  while True:
    dark = rng.uniform(10, 150, [2, 3])
    light = rng.uniform(90, 245, [2, 3])
    for pair in (dark, light):  # a texture is fainter than an outline
      pair[1] += (pair[0] - pair[1]) * 0.4
    brightness = [(mixed @ pair).mean(1) for pair in (dark, light)]
    if brightness[1].min() - brightness[0].max() > _CONTRAST:
      return dark, light


class _Canvas:
  """Draws on images [3, size, size] in coordinates of 0.._WIDTH."""

  def __init__(self, size: int):
    self.size = size
    self.scale = size / _WIDTH
    centres = (np.arange(size, dtype=np.float32) + 0.5) / self.scale
    self.x, self.y = centres, centres[:, None]

  def paint(
    self,
    rng: np.random.Generator,
    image: Pixels,
    contours: list[Contour],
    colours: Contour | None = None,
  ) -> None:
    """Fills contours with a lit, textured surface, in place."""
    if colours is None:
      colours = rng.uniform(20, 235, [2, 3])
    image += self.coverage(contours) * (self.surface(rng, colours) - image)

  def coverage(self, contours: list[Contour]) -> Pixels:
    """Share of each pixel inside: exact along x, four scanlines along y."""
    size, lines = self.size, 4
    start = np.concatenate(contours) * self.scale
    end = np.concatenate([np.roll(c, -1, 0) for c in contours]) * self.scale
    y = (np.arange(size * lines) + 0.5) / lines
    # +1 where an edge crosses a scanline downwards, -1 upwards.
    above = [(ends[:, 1:] <= y).view(np.int8) for ends in (start, end)]
    crossing = above[0] - above[1]  # [edges, lines]
    edge, line = crossing.nonzero()
    (x0, y0), (x1, y1) = start[edge].T, end[edge].T
    x = (x0 + (y[line] - y0) * (x1 - x0) / (y1 - y0)).clip(0, size)
    # All right of a crossing changes sides: the pixel it is in by a part, the
    # next by the rest, and a running sum carries it on.
    column = x.astype(int)
    rest = x - column
    first = (line // lines) * (size + 2) + column
    change = np.bincount(
      np.concatenate([first, first + 1]),
      np.concatenate([1 - rest, rest]) * np.tile(crossing[edge, line], 2),
      minlength=size * (size + 2),
    )
    winding = change.reshape(size, -1).cumsum(1)[:, :size] / lines
    return np.abs(winding).clip(0, 1).astype(np.float32)

  def surface(self, rng: np.random.Generator, colours: Contour) -> Pixels:
    """A texture of two colours, lit from one side; [3, S, S]."""
    a, b = colours.astype(np.float32)[..., None, None]  # [3, 1, 1]
    slope = rng.uniform(-0.3, 0.3, 2).astype(np.float32) / _WIDTH
    light = 1 + slope[0] * (self.x - 128) + slope[1] * (self.y - 128)
    return light * (a + (b - a) * self.texture(rng))

  def texture(self, rng: np.random.Generator) -> Pixels:
    """Stripes, checks, dots, clouds or nothing, from 0 to 1."""
    kind = rng.choice(['plain', 'stripes', 'checks', 'dots', 'clouds'])
    period = rng.uniform(8, 28)
    (c, s), _ = (_turn(rng) / period).astype(np.float32)
    u, v = _wave(c * self.x - s * self.y), _wave(s * self.x + c * self.y)
    match kind:
      case 'plain':
        return np.zeros([1, 1], np.float32)
      case 'stripes':
        height = u
      case 'checks':
        height = u * v
      case 'dots':
        height = u * u + v * v - np.float32(0.4)
      case 'clouds':
        return (self.noise(rng, 1, (0.2, 0.6))[0] + 0.5).clip(0, 1)
    # Edges about one pixel wide.
    return (height * np.float32(period * self.scale / 4) + 0.5).clip(0, 1)

  def noise(
    self,
    rng: np.random.Generator,
    channels: int,
    amplitudes: tuple[float, float],
  ) -> Pixels:
    """1/f noise [channels, S, S]: equal power in each octave, mean zero."""
    amplitude = np.float32(rng.uniform(*amplitudes))
    # The octaves that a larger size adds must not change what is drawn next.
    rng = rng.spawn(1)[0]
    field = np.zeros([channels, 1, 1], np.float32)
    while field.shape[-1] < self.size:
      field = _double(_double(field, 1), 2)
      field += rng.random(field.shape, np.float32) * 2 - 1
    return field[:, : self.size, : self.size] * amplitude


def _wave(phase: Pixels) -> Pixels:
  """Triangle wave of period 1, from -1 to 1."""
  return 4 * np.abs(phase - np.floor(phase) - np.float32(0.5)) - 1


def _double(field: Pixels, axis: int) -> Pixels:
  """Twice as many samples along an axis, linearly interpolated."""
  n = field.shape[axis]
  near = field * np.float32(0.75)
  far = field * np.float32(0.25)
  before = near + far.take(np.r_[0, : n - 1], axis)
  after = near + far.take(np.r_[1:n, n - 1], axis)
  shape = [*field.shape]
  shape[axis] *= 2
  return np.stack([before, after], axis + 1).reshape(shape)
