"""Large batches, of 2017: 128 images a step against 2,048, with LARS and
without, the rate rising over two epochs and not. As many epochs for all.

Without LARS the rate is 16 times that of 128; with it, untuned, it lies between
those that Ginsburg's files have for 1,024 and 8,192 images (2 and 10).
"""

from experiments.claims import Equivalent, Higher
from experiments.forms import CIFAR, FORMS, Form
from experiments.plan import Experiment

_TIMES = 16
_LARS = {
  'optimizer.kind': 'lars',
  'schedule.learning_rate': 4.0,
  # Biases, which LARS leaves alone.
  'optimizer.learning_rate_multipliers': (('bias', 0.002), ('', 1.0)),
}
_SLOWLY = {'schedule.warmup': 2.0}


def variants(base):
  # The test split stays shut: nobody has chosen a rate yet.
  small = {'evals.batch_size': 128, 'evals.final_split': ''}
  large = {
    **small,
    'batch_size': 128 * _TIMES,
    'accumulate': _TIMES,  # in the memory of 128
    'schedule.learning_rate': base.schedule.learning_rate * _TIMES,
  }
  yield '128', {**small, 'batch_size': 128}
  yield '2,048', large
  yield '2,048, warm-up', {**large, **_SLOWLY}
  yield '2,048, LARS', {**large, **_LARS}
  yield '2,048, LARS, warm-up', {**large, **_LARS, **_SLOWLY}


EXPERIMENT = Experiment(
  claim='You et al. 2017: a large batch costs accuracy, and with LARS none',
  variants=variants,
  forms={**FORMS, 'cifar': Form('cifar10_80sec', CIFAR, '`80sec`, CIFAR-10')},
  baseline='128',
  claims={
    '2,048': Higher(split='validation'),
    '2,048, warm-up': Higher(split='validation'),
    '2,048, LARS, warm-up': Equivalent(split='validation'),
  },
)
