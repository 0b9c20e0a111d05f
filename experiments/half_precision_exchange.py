"""What towers send each other halved to 16 bits: run #170-quant."""

from experiments.claims import Equivalent
from experiments.plan import Experiment


def variants(_):
  yield '32 bits', {}
  yield '16 bits', {'mesh.exchange_dtype': 'float16'}


EXPERIMENT = Experiment(
  claim='the diary: exchanges of 16 bits leave the top-1 error as it was',
  variants=variants,
  baseline='32 bits',
  # #170-quant less #170: 40.524 - 40.528
  claims={'16 bits': Equivalent(diary=-0.004)},
)
