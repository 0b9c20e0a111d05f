"""Run #148: #145 without response normalization of either kind.

  command   alexnet train --config=configs/krizhevsky_148.py
  hardware  two GPUs or TPU cores, a tower each; one runs both towers
  time      not known; not run here
  expected  42.034 % top-1 and 19.362 % top-5 error on validation over ten views
            (the run's own), 1.4 and 1.2 more than #145's (§3.3)

Its data and rates are those of `krizhevsky_145.py`.
"""

from ml_collections import ConfigDict

from configs import krizhevsky_145


def get_config() -> ConfigDict:
  """#145 with no norm after conv1 and conv2."""
  config = krizhevsky_145.get_config()
  config.model.lrn.enabled = False
  config.model.conv2.then = ('act', 'pool')
  return config
