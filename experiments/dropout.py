"""Dropout (§4.2): with it and without, and how it overfits."""

from experiments.claims import Higher
from experiments.plan import Experiment


def variants(_):
  yield 'half', {}
  yield 'none', {'model.dropout': 0.0}


EXPERIMENT = Experiment(
  claim='§4.2: without dropout the network overfits substantially',
  variants=variants,
  baseline='half',
  claims={'none': Higher()},
)
