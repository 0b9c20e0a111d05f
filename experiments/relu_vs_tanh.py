"""Figure 1: epochs of a four-layer net on CIFAR-10 to 25 % training error, the
fewest on one grid of rates and initial scales. Forms but 'cifar' are AlexNet,
to 50 % on validation: of that the paper has no number.
"""

from dataclasses import replace
from itertools import product

from experiments.cifar_18pct import WITHOUT
from experiments.claims import Ratio
from experiments.forms import CIFAR, FORMS, Form
from experiments.plan import Experiment

_EACH = {'evals.every': '1 epoch', 'checkpoint.every': '1 epoch'}
_FLAT = {'schedule.kind': 'staircase', 'schedule.drops': ()}
_BARE = {**CIFAR, **WITHOUT, **_EACH, **_FLAT} | {
  'length': '30 epochs',
  'optimizer.weight_decay': 0.0,
  'evals.split': 'train',
  'schedule.target': 0.25,
}
# Long enough for tanh, at one rate throughout.
_HALF = {'length': '40 epochs', **_EACH, **_FLAT, 'schedule.target': 0.5}
_NET = Form('cifar10_18pct', _BARE, '`18pct` without norm, CIFAR-10 (JPEG)')


def _to_half(name, own=_HALF):
  form, scale = FORMS[name], f'{FORMS[name].scale}, to 50 % of validation'
  return replace(form, overrides={**form.overrides, **own}, scale=scale)


def variants(base):
  for times, init, kind in product((1, 3), (1.0, 3.0), ('relu', 'tanh')):
    rate = times * base.schedule.learning_rate
    fields = {'schedule.learning_rate': rate, 'model.init_scale': init}
    fields['model.activation'] = kind
    yield f'{kind} rate {rate:g} init x{init:g}', fields


EXPERIMENT = Experiment(
  claim='§3.1, figure 1: tanh needs 6 times the epochs of ReLU to 25 %',
  variants=variants,
  forms={
    **{name: _to_half(name) for name in ('full', 'small', 'gpu')},
    'clothing10': _to_half('clothing10', {}),  # older rows
    'cifar': _NET,
  },
  baseline='relu',
  claims={'tanh': Ratio(6.0)},
)
