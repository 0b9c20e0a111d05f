"""Augmentation (§4.1): without PCA colour, and without crops and flips."""

from experiments.claims import Difference, Higher
from experiments.plan import Experiment

_STILL = {'augment.random_crop': False, 'augment.random_flip': False}


def variants(_):
  yield 'all', {}
  yield 'no colour', {'augment.color': 0.0}
  yield 'no crops or flips', _STILL


EXPERIMENT = Experiment(
  claim='§4.1: colour noise lowers the top-1 error by over 1 point; without '
  'crops and flips the network overfits substantially',
  variants=variants,
  baseline='all',
  claims={'no colour': Difference(1.0), 'no crops or flips': Higher()},
)
