"""Builders of TFDS, as its catalogue has them (they must live in a module)."""

import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

COUNTS = {'train': 24, 'test': 6}
LABELS = ('aeroplane', 'bird', 'cat')


def pixels(split: str, index: int) -> np.ndarray:
  """uint8 [32, 32, 3] of an example, whose label is index % 3."""
  seed = 1000 * (split == 'test') + index
  return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)


def png(array: np.ndarray) -> io.BytesIO:
  buffer = io.BytesIO()
  Image.fromarray(array).save(buffer, 'PNG')
  buffer.seek(0)
  return buffer


class TinyCifar(tfds.core.GeneratorBasedBuilder):
  """As tfds:cifar10: PNGs of 32x32, a text, and no validation split."""

  VERSION = tfds.core.Version('3.0.2')

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {
          'id': tfds.features.Text(),
          'image': tfds.features.Image(shape=(32, 32, 3)),
          'label': tfds.features.ClassLabel(names=LABELS),
        }
      ),
      supervised_keys=('image', 'label'),
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    return {split: self._examples(split) for split in COUNTS}

  def _examples(self, split):
    for index in range(COUNTS[split]):
      example = {
        'id': f'{split}_{index}',
        'image': png(pixels(split, index)),  # of an array TFDS needs TensorFlow
        'label': index % 3,
      }
      yield index, example

  _generate_examples = _examples


class TinyNumbers(TinyCifar):
  """No photographs."""

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {'id': tfds.features.Text(), 'label': tfds.features.Scalar(np.int64)}
      ),
    )

  def _examples(self, split):
    yield 0, {'id': split, 'label': 0}
