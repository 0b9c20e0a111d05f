"""Run #150: two towers that do not talk before fc8. Not in the paper.

  command   alexnet train --config=configs/krizhevsky_150.py
  hardware  two GPUs or TPU cores, a tower each; one runs both towers
  time      not known; not run here
  expected  41.828 % top-1 and 19.330 % top-5 error on validation over ten views
            (the run's own), 1.2 and 1.1 more than #145's

Its data and rates are those of `krizhevsky_145.py`.
"""

from ml_collections import ConfigDict

from configs import krizhevsky_145


def get_config() -> ConfigDict:
  """#145 with layers that read their own tower, two of them widened."""
  config = krizhevsky_145.get_config()
  for layer in ('conv3', 'fc6', 'fc7'):
    config.model[layer].reads = 'own'
  config.model.conv2.features = 160
  config.model.fc6.features = 4096
  return config
