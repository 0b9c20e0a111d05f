"""Colour in the first layer (figure 3, §6.1): the kernels of one tower are
largely colour-agnostic, the other's colour-specific, whatever the seed.

Read is how far the towers differ in the share of conv1's kernels that is
outside the grey axis, in points. Towers that talk everywhere are beside it.
"""

from experiments.no_talk import EVERYWHERE
from experiments.plan import FORMS, Experiment


def variants(_):
  yield 'conv3', {}
  yield 'everywhere', EVERYWHERE


EXPERIMENT = Experiment(
  claim='figure 3, §6.1: in every run one tower learns colour, one does not',
  variants=variants,
  forms=FORMS,
  baseline='conv3',
  read='colour',
)
