"""Depth (§7): each convolution but the first removed, with what follows it.

Without conv3 the towers talk before conv4.
"""

from typing import Any

from experiments.claims import Difference
from experiments.plan import Experiment


def variants(base):
  yield 'five', {}
  for name in ('conv2', 'conv3', 'conv4', 'conv5'):
    layers = tuple(other for other in base.model.layers if other != name)
    without: dict[str, Any] = {'model.layers': layers}
    if name == 'conv3':
      without['model.conv4.reads'] = 'both'
    yield f'without {name}', without


EXPERIMENT = Experiment(
  claim='§7: removing any middle layer costs about 2 points of top-1 error',
  variants=variants,
  baseline='five',
  claims={f'without conv{i}': Difference(2.0) for i in (3, 4)},
)
