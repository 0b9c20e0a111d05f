"""The net `conv-local-13pct` of cuda-convnet on 24x24 crops of CIFAR-10.

  command   alexnet train \\
              --config=configs/cifar10_conv_local_13pct.py
            (the data as configs/cifar10_80sec.py has it); then `alexnet eval`
            --workdir=runs/cifar10_conv_local_13pct --checkpoint=last
            --split=test --views=9
  hardware  2 CPU cores, or a GPU
  time      5 minutes on an H100 that ten other runs shared
  expected  13 % test error, most likely over the nine crops (cuda-convnet's);
            15.8 % on JPEG copies, one seed (docs/results.md)
"""

from ml_collections import ConfigDict

from alexnet_jax.models import table
from configs import cifar10_80sec


def get_config() -> ConfigDict:
  """Rates and decays of the file; crops of its methodology; epochs ours."""
  config = cifar10_80sec.get_config()
  config.model = table.cifar10_conv_local_13pct()
  config.augment.crop_size = 24
  config.augment.random_crop = True
  config.augment.random_flip = True
  config.length = '120 epochs'
  config.schedule.drops = (100.0, 110.0)
  config.optimizer.decay_multipliers = (
    ('bias', 0.0),
    ('conv', 0.0),
    ('', 1.0),
  )
  return config
