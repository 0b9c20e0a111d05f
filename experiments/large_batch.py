"""Large batches, of 2017: 128 images a step against 2,048, with LARS and
without, the rate rising over two epochs and not. As many epochs for all.

Of each kind of 2,048 one rate of a grid is compared: the best on validation, at
the seeds that all rates have. Without LARS it ends at 16 times the rate of 128.
"""

from experiments.claims import Equivalent, Higher
from experiments.forms import CIFAR, FORMS, Form
from experiments.plan import Experiment

_TIMES = 16
_LARS = {
  'optimizer.kind': 'lars',
  # Biases, which LARS leaves alone.
  'optimizer.learning_rate_multipliers': (('bias', 0.002), ('', 1.0)),
}


def variants(base):
  # The test split stays shut: rates are chosen here.
  small = {'evals.batch_size': 128, 'evals.final_split': ''}
  large = {
    **small,
    'batch_size': 128 * _TIMES,
    'accumulate': _TIMES,  # in the memory of 128
  }
  yield '128', {**small, 'batch_size': 128}
  for epochs, rising in ((0.0, ''), (2.0, ',warm-up')):
    warm = {**large, 'schedule.warmup': epochs}
    for times in (4, 8, 16):
      plain = {'schedule.learning_rate': base.schedule.learning_rate * times}
      yield f'2,048{rising} rate x{times}', {**warm, **plain}
    for rate in (2.0, 4.0, 8.0, 16.0):
      lars = {**_LARS, 'schedule.learning_rate': rate}
      yield f'2,048,LARS{rising} rate {rate:g}', {**warm, **lars}


EXPERIMENT = Experiment(
  claim='You et al. 2017: a large batch costs accuracy, and with LARS none',
  variants=variants,
  forms={**FORMS, 'cifar': Form('cifar10_80sec', CIFAR, '`80sec`, CIFAR-10')},
  baseline='128',
  claims={
    '2,048': Higher(split='validation', grid=True),
    '2,048,warm-up': Higher(split='validation', grid=True),
    '2,048,LARS,warm-up': Equivalent(split='validation', grid=True),
  },
)
