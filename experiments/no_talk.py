"""Towers that do not talk (#150, not in the paper), or elsewhere (§3.2)."""

from experiments.claims import Difference
from experiments.plan import Experiment

SILENT = {f'model.{name}.reads': 'own' for name in ('conv3', 'fc6', 'fc7')}
EVERYWHERE = {f'model.conv{i}.reads': 'both' for i in (2, 4, 5)}


def variants(_):
  yield 'conv3', {}
  wider = {'model.conv2.features': 160, 'model.fc6.features': 4096}
  yield 'none (#150)', {**SILENT, **wider}
  yield 'none', SILENT
  yield 'conv2', {'model.conv2.reads': 'both', 'model.conv3.reads': 'own'}
  yield 'everywhere', EVERYWHERE


EXPERIMENT = Experiment(
  claim='the diary: without talk before fc8 the top-1 error is 1.2 points more',
  variants=variants,
  baseline='conv3',
  # #150 less #145: 41.828 - 40.664
  claims={'none (#150)': Difference(diary=1.164)},
)
