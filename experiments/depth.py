"""Depth (§7): each convolution but the first removed, with what follows it.

Without conv3 the towers talk before conv4.
"""

from experiments.plan import FULL, SMALL, Experiment


def variants(base):
  yield 'five', {}
  for name in base.model.convs[1:]:
    convs = tuple(other for other in base.model.convs if other != name)
    talk = ('conv4' if name == 'conv3' else 'conv3', 'fc6', 'fc7')
    yield f'without {name}', {'model.convs': convs, 'model.talk': talk}


EXPERIMENT = Experiment(
  claim='§7: removing any middle layer costs about 2 points of top-1 error',
  variants=variants,
  forms={'full': FULL, 'small': SMALL},
  baseline='five',
  paper={'without conv3': 2.0, 'without conv4': 2.0},
)
