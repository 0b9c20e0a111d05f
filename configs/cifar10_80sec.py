r"""The net `80sec` of cuda-convnet, 26 % test error there, on CIFAR-10.

  command   alexnet prepare --source=folder --input=CIFAR \
              --name=cifar10 --size=32 --validation_share=0.05
            alexnet train --config=configs/cifar10_80sec.py
  hardware  2 CPU cores, or a GPU
  time      1 to 1.5 minutes on an H100 that ten other runs shared
  expected  26 % test error (cuda-convnet's); 22.5 % on JPEG copies, three seeds
            (docs/results.md)

CIFAR is a tree of the 32x32 pictures, `train/ test/<class>/*`. The 24x24
variant: --config.augment.crop_size=24 --config.augment.random_crop=True
--config.augment.random_flip=True, then `alexnet eval
--workdir=runs/cifar10_80sec --split=test --views=9`.
"""

from ml_collections import ConfigDict

from alexnet_jax.models import table
from configs import default


def get_config() -> ConfigDict:
  """Rates and decays of the file `layers-80sec`; the schedule is ours."""
  config = default.get_config()
  config.data.name = 'cifar10'
  config.batch_size = 128
  config.length = '30 epochs'
  config.log_every = '50 steps'
  config.evals.batch_size = 500
  config.augment.crop_size = 32
  config.augment.random_crop = False
  config.augment.random_flip = False
  config.augment.color = 0.0
  config.model = table.cifar10_80sec()
  config.mesh.towers = 1
  config.optimizer.weight_decay = 0.004
  config.optimizer.decay_multipliers = (
    ('bias', 0.0),
    ('conv', 1.0),
    ('fc', 7.5),
  )
  config.optimizer.learning_rate_multipliers = (('bias', 2.0), ('', 1.0))
  config.schedule.learning_rate = 0.001
  config.schedule.drops = (24.0, 27.0)
  return config
