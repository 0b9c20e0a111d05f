"""Five networks of different seeds, their softmax averaged (§6.1, table 2).

The baseline is the mean of those networks alone, over the same ten views.
"""

from experiments.claims import Difference
from experiments.plan import Experiment


def variants(_):
  yield 'one', {}
  yield 'five', {'networks': 5}


EXPERIMENT = Experiment(
  claim='§6.1, table 2: five networks averaged have 38.1 %, one 40.7 %',
  variants=variants,
  baseline='one',
  claims={'five': Difference(-2.6, networks=5)},
)
