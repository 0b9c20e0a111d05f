"""One tower in place of two (§3.2), with nearly as many parameters.

The one tower is #145-half: conv5, fc6 and fc7 have the width of both.
"""

from experiments.claims import Difference
from experiments.plan import Experiment


def variants(_):
  yield 'two', {}
  yield (
    'one',
    {
      'model.towers': 1,
      'mesh.towers': 1,
      'model.conv5.features': 256,
      'model.fc6.features': 4096,
      'model.fc7.features': 4096,
    },
  )


EXPERIMENT = Experiment(
  claim='§3.2: two towers lower the top-1 error by 1.7 points (ILSVRC-2010)',
  variants=variants,
  baseline='two',
  # #145-half less #145-2010: 39.168 - 37.473
  claims={'one': Difference(1.7, diary=1.695)},
)
