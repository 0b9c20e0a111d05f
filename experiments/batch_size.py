"""Twice the batch with twice the rate: run #170 at 256, not in the paper."""

import dataclasses

from experiments.plan import FULL, SMALL, Experiment


def variants(base):
  yield 'once', {}
  yield (
    'twice',
    {'batch_size': 2 * base.batch_size, 'schedule.learning_rate': 0.02},
  )


EXPERIMENT = Experiment(
  claim='the diary: a batch of 256 with twice the rate equals 128',
  variants=variants,
  forms={'full': dataclasses.replace(FULL, views=1), 'small': SMALL},
  baseline='once',
  diary={'twice': -0.07},  # centre crop: 42.27 - 42.341
)
