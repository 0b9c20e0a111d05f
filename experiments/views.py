"""Views at test time (§4.1, §6.1): one network, averaged over 1, 2 and 10."""

from experiments.plan import FORMS, Experiment


def variants(_):
  for views in (10, 2, 1):
    yield f'{views}', {'views': views}


EXPERIMENT = Experiment(
  claim='§4.1: 39.0 % with the centre, 37.5 % over ten views (ILSVRC-2010)',
  variants=variants,
  forms=FORMS,
  baseline='10',
  paper={'1': 1.5},
  diary={'1': 1.55},  # #145-2010: 39.025 - 37.473
)
