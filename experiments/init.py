"""Initial weights (§5): 0.01 everywhere, or 0.03 in conv3 to conv5 as in the
authors' program; raw pixels, or divided by a standard deviation.

The outcome that counts is the share of runs that stay at chance.
"""

from experiments.claims import Stalls
from experiments.plan import Experiment

_TEXT = {f'model.conv{i}.init_std': 0.01 for i in (3, 4, 5)}
_UNIT = {'augment.scale': 1 / 58.0}  # about torchvision's, in pixel units


def variants(_):
  yield 'program', {}
  yield 'text', _TEXT
  yield 'program, unit-scaled', _UNIT
  yield 'text, unit-scaled', {**_TEXT, **_UNIT}


EXPERIMENT = Experiment(
  claim='a known trap: 0.01 everywhere and unit-scaled input stall at chance',
  variants=variants,
  baseline='program',
  claims={'text, unit-scaled': Stalls()},
)
