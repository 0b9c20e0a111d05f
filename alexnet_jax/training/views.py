"""Views of photographs on the device (§4.1, the test's ten of §4.1, §2's mean).

Pure functions of the images, the statistics and one key per example, so that
a view does not depend on where or when it is drawn. `vmap` and `shard_map`
may be around them.
"""

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.data.stats import Statistics
from alexnet_jax.kernels.crops import crops
from alexnet_jax.runtime.checks import MANY, Checked, Range, choice
from alexnet_jax.runtime.errors import UserError

# The fields of `config.augment` that are part of a trained network, as its
# weights are: what it sees of a picture when it is tested.
PREPROCESSING = ('crop_size', 'mean', 'scale')


@dataclasses.dataclass(frozen=True)
class Augment(Checked, part='augment'):
  """How views are made: `config.augment`, whose fields these are."""

  crop_size: int
  random_crop: bool
  random_flip: bool
  share: Annotated[int, Range(1, MANY)]
  color: Annotated[float, Range(0, 1000)]
  color_units: Annotated[str, choice('std', 'eigenvalue')]
  color_until: str
  color_divisor: Annotated[float, Range(0.001, 1000)]
  mean: Annotated[str, choice('image', 'rgb', 'none')]
  scale: Annotated[float, Range(0, 1000)]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Constants:
  """What views need of the training set, as `make_constants` makes it.

  Attributes:
    mean: float32 [crop, crop, 3] or [3], subtracted from a view.
    components: float32 [3, 3]; row i is what a multiple of 1 of component i
      adds to R, G and B.
    divisor: float32 [], divides a training view.
    scale: float32 [], multiplies a view in the end.
  """

  mean: Any
  components: Any
  divisor: Any
  scale: Any

  def without_color(self) -> 'Constants':
    """Of training views without noise, and of the sizes of those with it."""
    return dataclasses.replace(
      self, components=np.zeros((3, 3), np.float32), divisor=np.float32(1)
    )


def make_constants(augment: Augment, statistics: Statistics) -> Constants:
  """The arrays that views need of the training set.

  Raises:
    UserError: the crop is too large.
  """
  size = statistics.mean_image.shape[0]
  crop = augment.crop_size
  if not 0 < crop <= size:
    raise UserError(f'config.augment.crop_size={crop} is not in 1..{size}')
  low = (size - crop) // 2
  means = {
    'image': statistics.mean_image[low : low + crop, low : low + crop],
    'rgb': statistics.rgb_mean,
    'none': np.zeros(3),
  }
  # Rounding may leave a tiny negative eigenvalue where colours are flat.
  variances = np.maximum(statistics.eigenvalues, 0)
  units = {'std': np.sqrt(variances), 'eigenvalue': variances}
  components = statistics.eigenvectors * units[augment.color_units]
  return Constants(
    mean=means[augment.mean].astype(np.float32),
    components=components.T.astype(np.float32),
    divisor=np.float32(augment.color_divisor if augment.color else 1),
    scale=np.float32(augment.scale),
  )


def training_views(
  augment: Augment,
  constants: Constants,
  images: jax.Array,
  keys: jax.Array,
  places: jax.Array | None = None,
) -> jax.Array:
  """A random view of each image.

  Args:
    augment: how they are made.
    constants: of `make_constants`.
    images: uint8 [B, size, size, 3].
    keys: [B] typed keys, one per example.
    places: [B] typed keys; images whose keys are the same are cut and flipped
      alike. None: `keys`.

  Returns:
    float32 [B, crop, crop, 3].
  """
  crop = augment.crop_size
  room = images.shape[1] - crop

  def draw(place):
    crop_key, flip_key = jax.random.split(place, 3)[:2]
    if augment.random_crop:  # offsets 0..room, both included
      corner = jax.random.randint(crop_key, (2,), 0, room + 1)
    else:
      corner = jnp.full((2,), room // 2)
    return corner, augment.random_flip and jax.random.bernoulli(flip_key)

  def noisy(x, key):  # uint8 [crop, crop, 3]
    x = x.astype(jnp.float32) - constants.mean
    if augment.color:
      color_key = jax.random.split(key, 3)[2]
      multiples = augment.color * jax.random.normal(color_key, (3,))
      x += (multiples[:, None] * constants.components).sum(0)
    return x * (constants.scale / constants.divisor)

  corners, mirrored = jax.vmap(draw)(keys if places is None else places)
  cuts = crops(images, corners, mirrored, crop)
  return jax.vmap(noisy)(cuts, keys)


def test_views(
  constants: Constants, images: jax.Array, crop: int, views: int
) -> jax.Array:
  """The views that a prediction is averaged over (§4.1).

  Args:
    constants: of `make_constants`.
    images: uint8 [B, size, size, 3].
    crop: side of a view, pixels.
    views: 1, the centre; 2, it and its mirror image; 9, the corners, the
      middles of the sides and the centre (cuda-convnet's for CIFAR-10); 10,
      the four corners and the centre, then their mirror images.

  Returns:
    float32 [views, B, crop, crop, 3].

  Raises:
    UserError: another number of views.
  """
  room = images.shape[1] - crop
  centre = (room // 2, room // 2)
  corners = [(0, 0), (0, room), (room, 0), (room, room)]
  thirds = (0, room // 2, room)
  nine = [(y, x) for y in thirds for x in thirds]
  places = {1: [centre], 2: [centre], 9: nine, 10: [*corners, centre]}
  if views not in places:
    raise UserError(f'views is one of {sorted(places)}, not {views}')
  cuts = [images[:, y : y + crop, x : x + crop] for y, x in places[views]]
  if views in (2, 10):
    cuts += [cut[:, :, ::-1] for cut in cuts]
  views_of = jnp.stack(cuts).astype(jnp.float32) - constants.mean
  return views_of * constants.scale
