"""Towers that do not talk (#150, not in the paper), or elsewhere (§3.2)."""

from experiments.plan import FULL, SMALL, Experiment


def variants(_):
  yield 'conv3', {}
  silent = {'model.features.conv2': 160, 'model.features.fc6': 4096}
  yield 'none (#150)', {'model.talk': (), **silent}
  yield 'none', {'model.talk': ()}
  yield 'conv2', {'model.talk': ('conv2', 'fc6', 'fc7')}
  convs = ('conv2', 'conv3', 'conv4', 'conv5')
  yield 'everywhere', {'model.talk': (*convs, 'fc6', 'fc7')}


EXPERIMENT = Experiment(
  claim='the diary: without talk before fc8 the top-1 error is 1.2 points more',
  variants=variants,
  forms={'full': FULL, 'small': SMALL},
  baseline='conv3',
  diary={'none (#150)': 1.164},  # #150 less #145: 41.828 - 40.664
)
