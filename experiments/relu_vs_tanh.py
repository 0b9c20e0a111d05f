"""Figure 1: how many epochs a four-layer net on CIFAR-10 needs to 25 %
training error, with ReLU and with tanh, nothing else to slow it.

Each activation has the same grid of rates and of scales of the initial
weights; the fewest epochs on it count. A run ends at 25 %.
"""

import itertools

from experiments.plan import CIFAR, SMALL, Experiment, Form

_BARE = {
  **CIFAR,
  'model.lrn.enabled': False,
  'optimizer.weight_decay': 0.0,
  'evals.split': 'train',
  'schedule.drops': (),
  'schedule.target': 0.25,
}
_LAYERS = '`18pct` without norm on CIFAR-10 (JPEG copies)'


def variants():
  for rate, init in itertools.product((0.001, 0.003), (1.0, 3.0)):
    for activation in ('relu', 'tanh'):
      yield (
        f'{activation} rate {rate} init x{init:g}',
        {
          'model.activation': activation,
          'schedule.rate': rate,
          'model.init_scale': init,
        },
      )


EXPERIMENT = Experiment(
  claim='§3.1, figure 1: tanh needs 6 times the epochs of ReLU to 25 %',
  variants=variants,
  forms={
    'full': Form('cifar10_18pct', {**_BARE, 'length': '200 epochs'}, _LAYERS),
    'small': Form('cifar10_18pct', {**_BARE, 'length': '30 epochs'}, _LAYERS),
    'alexnet': SMALL,
  },
  baseline='relu',
  paper={'tanh': 6.0},
  read='epochs',
)
