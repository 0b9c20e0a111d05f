"""The full-width network from scratch on a few thousand pictures of your own.

  command   alexnet prepare --source=folder --input=PICTURES \\
              --name=mine
            alexnet train --config=configs/folder.py \\
              --config.data.name=mine
  hardware  2 CPU cores will do; any GPU is far faster
  time      3 to 4 minutes an epoch of 3,000 pictures on 2 CPU cores
  expected  20.2 % test error on 3,068 photographs of clothes in 10 classes
            (docs/results.md)
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
  """The paper's network and rate, a schedule for a small set of pictures."""
  config = default.get_config()
  config.data.name = 'mine'
  config.model.width = 1.0
  config.batch_size = 64
  config.length = '24 epochs'
  config.evals.final_split = ''  # 'test' where your pictures have one
  config.schedule.drops = (18.0, 22.0)
  return config
