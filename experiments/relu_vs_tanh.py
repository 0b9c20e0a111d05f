"""Figure 1: epochs of a four-layer net on CIFAR-10 to 25 % training error.

ReLU and tanh have the same grid of rates and initial scales; the fewest epochs
on it count. A run ends at 25 %. 'alexnet' is the switch in AlexNet itself.
"""

import itertools

from experiments.plan import CIFAR, SMALL, Experiment, Form

_BARE = {
  **CIFAR,
  'length': '30 epochs',
  'model.lrn.enabled': False,
  'optimizer.weight_decay': 0.0,
  'evals.split': 'train',
  'schedule.drops': (),
  'schedule.target': 0.25,
}
_NET = Form('cifar10_18pct', _BARE, '`18pct` without norm, CIFAR-10 (JPEG)')


def variants(base):
  for times, init in itertools.product((1, 3), (1.0, 3.0)):
    rate = times * base.schedule.rate
    fields = {'schedule.rate': rate, 'model.init_scale': init}
    for kind in ('relu', 'tanh'):
      name = f'{kind} rate {rate:g} init x{init:g}'
      yield name, {'model.activation': kind, **fields}


EXPERIMENT = Experiment(
  claim='§3.1, figure 1: tanh needs 6 times the epochs of ReLU to 25 %',
  variants=variants,
  forms={'full': _NET, 'small': _NET, 'alexnet': SMALL},
  baseline='relu',
  paper={'tanh': 6.0},
  read='epochs',
)
