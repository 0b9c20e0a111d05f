"""The nets of cuda-convnet on CIFAR-10, with the rates and decays of their
files: the errors that its author reports (reference for figure 1 and §3.3).
"""

from experiments.claims import Reported
from experiments.forms import CIFAR, Form
from experiments.plan import Experiment


def variants(_):
  yield '80sec', {}


EXPERIMENT = Experiment(
  claim='cuda-convnet: `80sec` has 26 % test error on CIFAR-10',
  variants=variants,
  forms={
    'cifar': Form('cifar10_80sec', CIFAR, 'CIFAR-10 (JPEG copies), 30 epochs'),
  },
  baseline='80sec',
  claims={'80sec': Reported(26.0)},
)
