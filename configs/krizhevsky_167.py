"""Run #167: #170 with no norm after conv2, and lower rates at the end.

  command   alexnet train --config=configs/krizhevsky_167.py
  hardware  two GPUs or TPU cores, a tower each; one runs both towers
  time      not known; not run here
  expected  40.488 % top-1 and 18.118 % top-5 error on validation over ten views
            (the run's own), no worse than with the norms. Not in the paper

Its data are those of `krizhevsky_145.py`.
"""

from ml_collections import ConfigDict

from configs import krizhevsky_145, krizhevsky_170


def get_config() -> ConfigDict:
  """#145 with neither norm after conv2, 0.01 to 0.00001."""
  config = krizhevsky_145.get_config()
  config.model.conv2.then = ('act', 'pool')
  krizhevsky_170.automatic(config, factor=1000.0, color_until=63, frozen=73)
  return config
