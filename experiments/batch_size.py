"""Twice the batch with twice the rate: run #170 at 256, not in the paper."""

from experiments.claims import Equivalent
from experiments.plan import Experiment


def variants(base):
  yield 'once', {}
  yield (
    'twice',
    {
      'batch_size': 2 * base.batch_size,
      'schedule.learning_rate': 2 * base.schedule.learning_rate,
    },
  )


EXPERIMENT = Experiment(
  claim='the diary: a batch of 256 with twice the rate equals 128',
  variants=variants,
  baseline='once',
  # centre: 42.27 - 42.341
  claims={'twice': Equivalent(diary=-0.07)},
)
