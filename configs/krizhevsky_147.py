"""Run #147: #145 with pools that do not overlap.

  command   alexnet train --config=configs/krizhevsky_147.py
  hardware  two GPUs or TPU cores, a tower each; one runs both towers
  time      not known; not run here
  expected  41.058 % top-1 and 18.510 % top-5 error on validation over ten views
            (the run's own), 0.4 and 0.3 more than #145's (§3.4)

Its data and rates are those of `krizhevsky_145.py`.
"""

from ml_collections import ConfigDict

from configs import krizhevsky_145


def get_config() -> ConfigDict:
  """#145 with pools 2/2; two pads keep the maps that fc6 reads at 6x6."""
  config = krizhevsky_145.get_config()
  config.model.pool.window = 2
  config.model.conv2.pad = 1
  config.model.conv5.pad = 0
  return config
