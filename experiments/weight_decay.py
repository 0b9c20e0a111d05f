"""Weight decay (§5): 0.0005, and none."""

from experiments.claims import Higher
from experiments.plan import Experiment


def variants(_):
  yield '0.0005', {'views': 1}
  yield 'none', {'views': 1, 'optimizer.weight_decay': 0.0}


EXPERIMENT = Experiment(
  claim='§5: decay is not merely a regularizer, it lowers the training error',
  variants=variants,
  baseline='0.0005',
  claims={'none': Higher(split='train')},
)
