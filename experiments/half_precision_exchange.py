"""What towers send each other halved to 16 bits: run #170-quant."""

from dataclasses import replace

from experiments.claims import Equivalent
from experiments.forms import FORMS, GPU
from experiments.plan import Experiment

# What is sent is not 32 bits where layers are of 16.
_SINGLE = {'dtype': 'float32', 'matmul_precision': 'highest'}


def variants(_):
  yield '32 bits', {}
  yield '16 bits', {'mesh.exchange_dtype': 'float16'}


EXPERIMENT = Experiment(
  claim='the diary: exchanges of 16 bits leave the top-1 error as it was',
  variants=variants,
  baseline='32 bits',
  # #170-quant less #170: 40.524 - 40.528
  claims={'16 bits': Equivalent(diary=-0.004)},
  forms={
    **FORMS,
    'gpu': replace(GPU, overrides={**GPU.overrides, **_SINGLE}),
  },
)
