"""Response normalization (§3.3): with it and without.

The outcome is the error without it, less the error with it; the paper says
1.4 and 1.2 points top-1 and top-5, and 13 % against 11 % on CIFAR-10.
"""

from experiments.claims import Difference
from experiments.forms import CIFAR, FORMS, Form
from experiments.plan import Experiment

WITHOUT = {  # of `18pct`, whose norm is within maps
  'model.conv1.then': ('act', 'pool'),
  'model.conv2.then': ('act', 'avg_pool'),
}


def variants(base):
  yield 'with', {}
  alexnet = base.model.name == 'alexnet'
  yield 'without', {'model.lrn.enabled': False} if alexnet else WITHOUT


EXPERIMENT = Experiment(
  claim='§3.3: response normalization lowers the top-1 error by 1.4 points',
  variants=variants,
  forms={
    **FORMS,
    'cifar': Form('cifar10_18pct', CIFAR, '`18pct`, CIFAR-10 (JPEG copies)'),
  },
  baseline='with',
  # #148 less #145: 42.034 - 40.664
  claims={'without': Difference(1.4, diary=1.37)},
)
