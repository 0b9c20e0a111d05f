"""Networks by name, for who has no configuration file at hand."""

from typing import Any

import ml_collections

from alexnet_jax.models import table
from alexnet_jax.runtime.errors import UserError

# `config.model` of configs/imagenet2012.py but for `table.SINCE`;
# configs/default.py explains it.
_PAPER = {
  'name': 'alexnet',
  'init_scale': 1.0,
  'towers': 2,
  'width': 1.0,
  'activation': 'relu',
  'dropout': 0.5,
  'dropout_form': 'paper',
  'lrn': {
    'enabled': True,
    'size': 5,
    'k': 2.0,
    'alpha': 1e-4,
    'beta': 0.75,
    'alpha_over': 'sum',
  },
  'pool': {'window': 3, 'stride': 2},
  'init_std': {
    **{
      f'conv{i}': std for i, std in enumerate((0.01, 0.01, 0.03, 0.03, 0.03), 1)
    },
    **{f'fc{i}': 0.01 for i in (6, 7, 8)},
  },
  'init_bias': {
    **{f'conv{i}': float(i in (2, 4, 5)) for i in range(1, 6)},
    **{f'fc{i}': float(i in (6, 7)) for i in (6, 7, 8)},
  },
}

_CAFFE = {
  'dropout_form': 'inverted',
  'lrn.k': 1.0,
  'lrn.alpha_over': 'mean',
  'lrn.across_towers': True,
}
_POOL_FIRST = ('act', 'pool', 'norm')

# What differs from the paper.
ARCHITECTURES: dict[str, dict[str, Any]] = {
  'alexnet': {},
  'alexnet_quarter': {'width': 0.25},
  'caffe_alexnet': _CAFFE,
  'caffenet': {
    **_CAFFE,
    'then.conv1': _POOL_FIRST,
    'then.conv2': _POOL_FIRST,
  },
  'torchvision': {
    'towers': 1,
    'features.conv1': 64,
    'features.conv2': 192,
    'features.conv3': 384,
    'features.conv4': 256,
    'features.conv5': 256,
    'features.fc6': 4096,
    'features.fc7': 4096,
    'pad.conv1': 2,
    'rounding': 'down',
    'lrn.enabled': False,
    'dropout_form': 'inverted',
  },
}


def architecture(name: str) -> ml_collections.ConfigDict:
  """The `config.model` of a name.

  Raises:
    UserError: there is no such name.
  """
  if name not in ARCHITECTURES:
    raise UserError(
      f'no architecture {name!r}: there are {", ".join(ARCHITECTURES)}'
    )
  config = table.completed(ml_collections.ConfigDict(_PAPER))
  config.update_from_flattened_dict(ARCHITECTURES[name])
  return config
