"""Run #170: #145 with automatic rates. Not in the paper.

  command   alexnet train --config=configs/krizhevsky_170.py
  hardware  two GPUs or TPU cores, a tower each; one runs both towers
  time      not known; not run here
  expected  40.528 % top-1 and 18.048 % top-5 error on validation over ten views
            (the run's own); one view: 42.341 and 19.583

Its sibling #169 (40.596 and 18.112) has a factor of 500.
"""

from ml_collections import ConfigDict

from alexnet_jax.training.schedules import dexp
from configs import krizhevsky_145


def get_config() -> ConfigDict:
  """#145 with four parts of 95 epochs, 0.01 to 0.00004."""
  config = krizhevsky_145.get_config()
  automatic(config, factor=250.0, color_until=68, frozen=74)
  return config


def automatic(
  config: ConfigDict, factor: float, color_until: int, frozen: int
) -> None:
  """Gives #145 the rates of runs #155 to #175.

  Args:
    config: to be changed.
    factor: the first rate over the last.
    color_until: the epoch at which colour noise ended, by hand.
    frozen: the epoch at which conv1 was frozen, by hand.
  """
  config.length = '95 epochs'
  config.augment.color_until = f'{color_until} epochs'
  config.schedule.kind = 'dexp'
  config.schedule.factor = factor
  biases = dexp(0.02, 10, 2, config.schedule.span)
  stop = ((float(frozen), 0.0),)
  config.schedule.rules = (
    ('conv1/bias', (*biases, *stop)),
    ('conv1', stop),
    ('bias', biases),
  )
