r"""Run #146: a sixth convolution, trained on a larger ImageNet, then tuned.

  command   alexnet train --config=configs/krizhevsky_145.py \
              --config.data.name=imagenet2011 --workdir=runs/imagenet2011 \
              --config.model.layers="('conv1','conv2','conv3','conv4','conv5',\
                'conv6','fc6','fc7','fc8')"
            alexnet train --config=configs/krizhevsky_146.py \
              --config.pretrained.source=runs/imagenet2011
  hardware  two GPUs or TPU cores, a tower each; one runs both towers
  time      not known; not run here
  expected  38.990 % top-1 and 16.622 % top-5 error on validation over ten views
            (the run's own; the paper's "1 CNN*", 39.0 and 16.6)

This file is the tuning. Of the first stage's rates we know nothing: the command
takes #145's. fc8 is new. It had its higher rate "from batch 300", taken as 300
steps of 128 here, and before the rate of the others. The rates of biases are
taken to be #145's, but conv1 is frozen whole.
"""

from ml_collections import ConfigDict

from configs import krizhevsky_145

BATCH_300 = 300 * 128 / 1_281_167  # in epochs


def get_config() -> ConfigDict:
  """#145 with conv6 after pool5, and the rates of the tuning."""
  config = krizhevsky_145.get_config()
  config.model.layers = (
    *('conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'conv6'),
    *('fc6', 'fc7', 'fc8'),
  )
  config.pretrained.source = 'runs/imagenet2011'
  config.augment.color_until = '38 epochs'
  config.length = '54 epochs'
  config.schedule.learning_rate = 1e-3
  config.schedule.drops = (22.0, 42.0)
  config.schedule.rules = (
    ('conv1/bias', ((0.0, 0.02), (7.0, 0.0))),
    ('conv1', ((0.0, 1e-4), (5.0, 1e-5), (7.0, 0.0))),
    ('bias', ((0.0, 0.02),)),
    ('fc8', ((BATCH_300, 1e-2), (9.0, 1e-3), (22.0, 1e-4), (42.0, 1e-5))),
  )
  return config
