"""Colour in the first layer (figure 3, §6.1): the kernels of one tower are
largely colour-agnostic, the other's colour-specific, whatever the seed.

Read is how far the towers differ in the share of conv1's kernels that is
outside the grey axis, in points. Towers that talk everywhere are beside it.
"""

from experiments.claims import Apart
from experiments.no_talk import EVERYWHERE, SILENT
from experiments.plan import Experiment


def variants(_):
  yield 'conv3', {}
  yield 'none', SILENT
  yield 'everywhere', EVERYWHERE


EXPERIMENT = Experiment(
  claim='figure 3, §6.1: in every run one tower learns colour, one does not',
  variants=variants,
  baseline='conv3',
  claims={'conv3': Apart(), 'none': Apart()},
)
