"""The scales at which experiments are run."""

import dataclasses
from collections.abc import Mapping
from typing import Any

Overrides = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Form:
  """A scale at which an experiment is run.

  Attributes:
    config: file of configs/, without '.py'.
    overrides: of that configuration, for every variant.
    scale: what it is, for tables.
    views: of the last evaluation.
    target: percent, of an experiment that counts epochs to it.
  """

  config: str
  overrides: Overrides
  scale: str
  views: int = 1
  target: float = 25.0


FULL = Form(
  'imagenet2012',
  {},
  'ImageNet, the network of the paper',
  views=10,
  target=50.0,
)
_QUARTER = {
  'augment.crop_size': 128,
  'model.width': 0.25,
  'evals.final_split': 'test',
  'mesh.data': 1,
}
# Rate and length were chosen on validation: docs/experiments.md.
SMALL = Form(
  'folder',
  {
    **_QUARTER,
    'data.name': 'imagenette_146',
    'length': '16 epochs',
    'schedule.drops': (12.0, 15.0),
    'checkpoint.keep': 1,
  },
  'Imagenette (8,994 photographs, 10 classes), width 1/4, 128 pixels',
  views=10,
  target=50.0,
)
GPU = Form(
  'folder',
  {
    'data.name': 'imagenette',
    'data.cache': 'device',
    'evals.final_split': 'test',
    'batch_size': 128,
    'dtype': 'bfloat16',
    'matmul_precision': 'default',
    'length': '90 epochs',
    'schedule.drops': (60.0, 80.0),
    # An evaluation and its checkpoint take longer than an epoch.
    'evals.every': '10 epochs',
    'checkpoint.every': '10 epochs',
    'checkpoint.keep': 1,
  },
  'Imagenette (8,994 photographs, 10 classes), the network of the paper',
  views=10,
  target=50.0,
)
# Whose rows stand until Imagenette's do.
_CLOTHING = Form(
  'folder',
  {**_QUARTER, 'data.name': 'clothing10_146'},
  'clothing10 (3,068 photographs, 10 classes), width 1/4, 128 pixels',
  views=10,
  target=50.0,
)
FORMS = {'full': FULL, 'small': SMALL, 'gpu': GPU, 'clothing10': _CLOTHING}
# An evaluation and its checkpoint take longer than an epoch on a GPU.
CIFAR = {
  'data.cache': 'device',
  'evals.every': '10 epochs',
  'checkpoint.every': '10 epochs',
  'checkpoint.keep': 1,
}
