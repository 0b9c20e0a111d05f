"""The net `18pct` of cuda-convnet on CIFAR-10: the error that its author
reports, and without the norm. The runs are those of `lrn`.
"""

from experiments import lrn
from experiments.claims import Reported
from experiments.plan import Experiment

EXPERIMENT = Experiment(
  claim='cuda-convnet: `18pct` has 18 % test error on CIFAR-10',
  variants=lrn.variants,
  forms={'cifar': lrn.EXPERIMENT.forms['cifar']},
  baseline='with',
  claims={'with': Reported(18.0)},
)
