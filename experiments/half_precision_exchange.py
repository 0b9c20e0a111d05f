"""What towers send each other halved to 16 bits: run #170-quant."""

from experiments.plan import FORMS, Experiment


def variants(_):
  yield '32 bits', {}
  yield '16 bits', {'mesh.exchange_dtype': 'float16'}


EXPERIMENT = Experiment(
  claim='the diary: exchanges of 16 bits leave the top-1 error as it was',
  variants=variants,
  forms=FORMS,
  baseline='32 bits',
  diary={'16 bits': -0.004},  # #170-quant less #170: 40.524 - 40.528
)
