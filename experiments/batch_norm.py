"""Batch normalization (2015) where response normalization is, after conv1 and
conv2: with dropout and without. Statistics are over the batch on all devices.
"""

from experiments.plan import Experiment

_THEN = ('act', 'batch_norm', 'pool')
_BATCH = {
  'model.conv1.then': _THEN,
  'model.conv2.then': _THEN,
  # No decay on scales, as on biases.
  'optimizer.decay_multipliers': (('bias|scale', 0.0), ('', 1.0)),
}
_WHOLE = {'model.dropout': 0.0}


def variants(_):
  yield 'response', {}
  yield 'batch', _BATCH
  yield 'response, no dropout', _WHOLE
  yield 'batch, no dropout', {**_BATCH, **_WHOLE}


EXPERIMENT = Experiment(
  claim='not in the paper: what batch normalization does in place of §3.3',
  variants=variants,
  baseline='response',
)
