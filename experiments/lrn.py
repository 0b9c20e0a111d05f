"""Response normalization (§3.3): with it and without.

The outcome is the error without it, less the error with it; the paper says
1.4 and 1.2 points top-1 and top-5. On CIFAR-10: `cifar_18pct`.
"""

from experiments.claims import Difference
from experiments.plan import Experiment


def variants(_):
  yield 'with', {}
  yield 'without', {'model.lrn.enabled': False}


EXPERIMENT = Experiment(
  claim='§3.3: response normalization lowers the top-1 error by 1.4 points',
  variants=variants,
  baseline='with',
  # #148 less #145: 42.034 - 40.664
  claims={'without': Difference(1.4, diary=1.37)},
)
