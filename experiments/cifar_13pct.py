"""The net `conv-local-13pct` of cuda-convnet on crops of CIFAR-10, nine views
averaged: the error that its author reports.
"""

from experiments.claims import Reported
from experiments.forms import CIFAR, Form
from experiments.plan import Experiment


def variants(_):
  yield '13pct', {}


EXPERIMENT = Experiment(
  claim='cuda-convnet: `conv-local-13pct` has 13 % test error on CIFAR-10',
  variants=variants,
  forms={
    'cifar': Form(
      'cifar10_conv_local_13pct',
      CIFAR,
      'CIFAR-10 (JPEG copies), crops of 24 pixels, 120 epochs',
      views=9,
    ),
  },
  baseline='13pct',
  claims={'13pct': Reported(13.0)},
)
