"""Weight decay (§5): 0.0005, and none."""

from experiments.plan import FULL, SMALL, Experiment


def variants(_):
  yield '0.0005', {}
  yield 'none', {'optimizer.weight_decay': 0.0}


EXPERIMENT = Experiment(
  claim='§5: decay is not merely a regularizer, it lowers the training error',
  variants=variants,
  forms={'full': FULL, 'small': SMALL},
  baseline='0.0005',
  higher=('none',),
)
