"""Views at test time (§4.1, §6.1): one network, averaged over 1, 2 and 10."""

from experiments.claims import Difference
from experiments.plan import Experiment


def variants(_):
  for views in (10, 2, 1):
    yield f'{views}', {'views': views}


EXPERIMENT = Experiment(
  claim='§4.1: 39.0 % with the centre, 37.5 % over ten views (ILSVRC-2010)',
  variants=variants,
  baseline='10',
  # #145-2010: 39.025 - 37.473
  claims={'1': Difference(1.5, diary=1.55)},
)
