"""A network to use in another program: `load`, `create_model`, `preprocess`.

docs/api.md has examples. Everything runs on one device, whatever mesh the
network was trained on.
"""

import collections
import dataclasses
import functools
import json
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import nnx
from jax import export

from alexnet_jax.data import imagenet, photographs
from alexnet_jax.data.given import Picture, list_images, preprocess
from alexnet_jax.data.stats import of_mean
from alexnet_jax.formats.names import Network, flatten
from alexnet_jax.models.table import get_architecture
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.runtime.fingerprints import fingerprint
from alexnet_jax.training import pretrained
from alexnet_jax.training.evaluation import mean_log_softmax
from alexnet_jax.training.views import (
  PREPROCESSING,
  Augment,
  make_constants,
  test_views,
)

BATCH = 32  # images at a time where a list of any length may come

# §4.1's; of a network that has seen nothing there is no mean to subtract.
_PAPER_VIEWS = Augment(
  crop_size=224,
  random_crop=True,
  random_flip=True,
  share=1,
  color=0.1,
  color_units='std',
  color_until='',
  color_divisor=1.0,
  mean='none',
  scale=1.0,
)


class Model:
  """A trained network on one device.

  Attributes:
    config: the configuration it was trained with, for reading.
    table: its layers.
    augment: how its views are made.
    params: `nnx.State`; tower parameters have a leading axis of towers.
    class_names: by the number of the output.
    statistics: of the images it was trained on.
    side: of the squares that photographs are brought to, pixels.
    step: training steps done.
    average: the parameters are the average over them (`config.optimizer.ema`).
  """

  def __init__(self, network: Network):
    self.config = ml_collections.ConfigDict(network.config)
    self.table = network.table
    self.augment = Augment(**network.config['augment'])
    self.params = network.state()
    self.class_names, self.step = network.class_names, network.step
    self.average = network.average
    self.statistics = network.statistics
    self.side = len(self.statistics.mean_image)
    self._constants = make_constants(self.augment, self.statistics)
    self._graphdef = network.abstract()[0]
    self._logits = self._jit(lambda model, x: model(x))
    # Ordered: jit returns a plain dict's names sorted.
    self._layers = self._jit(
      lambda model, x: collections.OrderedDict(model.activations(x))
    )
    self._log_mean = self._jit(
      lambda model, x, views: mean_log_softmax(model, self._views(x, views))
    )
    self._layer = self._jit(self._features)

  @property
  def mean(self) -> np.ndarray:
    """What is subtracted from a view: float32 [crop, crop, 3] or [3]."""
    return self._constants.mean

  @functools.cached_property
  def readable_names(self) -> tuple[str, ...]:
    """`class_names` for people: with words for ImageNet's synsets."""
    return imagenet.readable(self.class_names)

  @functools.cached_property
  def short_names(self) -> tuple[str, ...]:
    """Those without the synsets that no other class needs, for pictures."""
    return imagenet.shortened(self.readable_names)

  @property
  def stage(self) -> str:
    """Which of a run's networks it is, in words."""
    return f'step {self.step:,}{", averaged" if self.average else ""}'

  @property
  def scale(self) -> float:
    """What a view is multiplied by once the mean is subtracted."""
    return float(self._constants.scale)

  def pixels_to_logits(self, images: jax.typing.ArrayLike) -> jax.Array:
    """Logits of float32 [N, crop, crop, 3], pixels of 0 to 255."""
    views = (jnp.asarray(images) - self.mean) * self._constants.scale
    return self._logits(self.params, views)

  def stablehlo(self) -> bytes:
    """`pixels_to_logits` of any batch, for CPUs, GPUs and TPUs, as
    `jax.export.deserialize` reads it."""
    crop = self.augment.crop_size
    (batch,) = export.symbolic_shape('batch')
    images = jax.ShapeDtypeStruct((batch, crop, crop, 3), jnp.float32)
    exported = export.export(
      jax.jit(self.pixels_to_logits), platforms=('cpu', 'cuda', 'tpu')
    )(images)
    return bytes(exported.serialize())

  def network(self) -> Network:
    """What a file would hold, on the host."""
    return Network(
      json.loads(self.config.to_json()),
      {name: np.asarray(x) for name, x in flatten(self.params).items()},
      self.class_names,
      self.statistics,
      self.step,
      self.average,
    )

  def about(self, layer: str) -> dict[str, Any]:
    """What features of a layer are of, as files of them say."""
    params = sorted(flatten(self.params).items())
    names, arrays = zip(*params, strict=True)
    return {
      'layer': layer,
      'step': self.step,
      **({'average': True} if self.average else {}),
      'network': fingerprint(names, *map(np.asarray, arrays)),
      'preprocessing': {
        **{name: getattr(self.augment, name) for name in PREPROCESSING},
        'picture_size': self.side,
        'fingerprint': fingerprint(self.mean),
      },
    }

  def _jit(self, function):
    """Compiles a function of the module, an array and one static choice."""

    def call(params, array, **choice):
      with jax.default_matmul_precision(self.config.matmul_precision):
        return function(nnx.merge(self._graphdef, params), array, **choice)

    return jax.jit(call, static_argnames=('views', 'layer'))

  def __call__(self, views: jax.typing.ArrayLike) -> jax.Array:
    """Logits.

    Args:
      views: float32 [..., crop, crop, 3], as `preprocess` cuts them.

    Returns:
      float32 [..., classes].
    """
    views = jnp.asarray(views)
    flat = views.reshape(-1, *views.shape[-3:])
    logits = self._logits(self.params, flat)
    return logits.reshape(*views.shape[:-3], -1)

  def preprocess(
    self, images: Picture | Sequence[Picture], views: int = 1
  ) -> jax.Array:
    """Views as this network was trained on: cropped, the mean subtracted.

    Args:
      images: what `preprocess` of this module takes.
      views: 1, the centre; 2, it and its mirror image; 10, the four corners
        and the centre, then their mirror images (§4.1).

    Returns:
      float32 [views, N, crop, crop, 3].
    """
    return self._views(preprocess(images, self.side), views)

  def activations(self, views: jax.typing.ArrayLike) -> dict[str, jax.Array]:
    """Every layer's output by name, conv1 to fc8, in order.

    Args:
      views: float32 [N, crop, crop, 3].

    Returns:
      Arrays [N, height, width, maps] and [N, units], tower after tower on the
      last axis; fc8 has the logits [N, classes].
    """
    out = self._layers(self.params, jnp.asarray(views))
    return {name: _join_towers(xs) for name, xs in out.items()}

  def predict(
    self, images: Picture | Sequence[Picture], views: int = 1
  ) -> np.ndarray:
    """Probabilities float32 [N, classes], the mean over `views` (§4.1).

    Args:
      images: what `preprocess` of this module takes, any number of them.
      views: 1, 2 or 10, as `preprocess` of this model has it.
    """
    return np.exp(self.log_probabilities(images, views))

  def log_probabilities(
    self, images: Picture | Sequence[Picture], views: int = 1
  ) -> np.ndarray:
    """Logarithms of what `predict` gives, however small that is."""
    return self._in_batches(self._log_mean, images, views=views)

  def features(
    self, images: Picture | Sequence[Picture], layer: str = 'fc7'
  ) -> np.ndarray:
    """One layer's output for the central view: float32 [N, units].

    Args:
      images: what `preprocess` of this module takes, any number of them.
      layer: a name of `activations`; maps are flattened.

    Raises:
      UserError: the network has no such layer.
    """
    return self._in_batches(self._layer, images, layer=layer)

  def _views(self, images: Any, views: int) -> jax.Array:
    return test_views(self._constants, images, self.augment.crop_size, views)

  def _features(self, model: Any, images: jax.Array, layer: str):
    out = model.activations(self._views(images, 1)[0])
    if layer not in out:
      raise UserError(f'no layer {layer!r}: there are {", ".join(out)}')
    return _join_towers(out[layer]).reshape(len(images), -1)

  def _in_batches(self, run, images, **choice) -> np.ndarray:
    """`run(params, uint8 [n, S, S, 3])` over any number of images."""
    images = list_images(images)
    parts = []
    for start in range(0, len(images), BATCH):
      part = preprocess(images[start : start + BATCH], self.side)
      missing = BATCH - len(part) if start else 0  # one program for all
      padded = np.pad(part, [(0, missing), (0, 0), (0, 0), (0, 0)])
      parts.append(np.asarray(run(self.params, padded, **choice))[: len(part)])
    return np.concatenate(parts)


def load(source: str | os.PathLike, checkpoint: int | str = 'best') -> Model:
  """The network that a run has trained, or that a file holds.

  Args:
    source: workdir of a run, a file of `weights export
      --format=safetensors|grouped`, a folder of `--format=hub`, or one at
      huggingface.co: 'hf://OWNER/NAME', or with '@REVISION' behind it. The data
      set need not be there.
    checkpoint: of a run, as `pretrained.read` has it.

  Raises:
    UserError: there is no such file or checkpoint, or it is damaged.
  """
  return Model(pretrained.read(source, checkpoint))


def create_model(name: str, num_classes: int = 1000, seed: int = 0) -> Model:
  """A network that has learnt nothing, with the initial weights of §5.

  Args:
    name: 'alexnet', or another of `models.table.ARCHITECTURES`.
    num_classes: outputs of fc8, named by their numbers.
    seed: of the weights.

  Returns:
    A model for 224-pixel views; it subtracts no mean.

  Raises:
    UserError: there is no such name.
  """
  config = {
    'model': get_architecture(name).to_dict(),
    'augment': dataclasses.asdict(_PAPER_VIEWS),
    'dtype': 'float32',
    'matmul_precision': 'highest',
    'seed': seed,
  }
  classes = tuple(map(str, range(num_classes)))
  nothing = of_mean(np.zeros((photographs.SIZE, photographs.SIZE, 3)))
  network = Network(config, {}, classes, nothing)
  params = jax.jit(lambda: nnx.state(network.make()))()
  return Model(dataclasses.replace(network, params=flatten(params)))


def _join_towers(xs: list[jax.Array] | jax.Array) -> jax.Array:
  return jnp.concatenate(xs, -1) if isinstance(xs, list) else xs
