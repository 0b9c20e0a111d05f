r"""Run #145 of the 2012 program: the paper's network, as it ran.

  command   alexnet prepare --source=imagenet2012 --input=TARS
            alexnet train --config=configs/krizhevsky_145.py
            alexnet eval --workdir=runs/krizhevsky_145 --views=10
  hardware  two GPUs or TPU cores, a tower each; one runs both towers
  time      the authors' took 5 to 6 days on two GTX 580; not run here
  expected  40.664 % top-1 and 18.210 % top-5 error on validation over ten views
            (the run's own; the paper's 40.7 and 18.2)

docs/as-it-ran.md has what differs from the paper's text. An epoch of the
diary is taken as so many times through the training set.
"""

from ml_collections import ConfigDict

from configs import imagenet2012


def get_config() -> ConfigDict:
  """Each override is a row of docs/as-it-ran.md."""
  config = imagenet2012.get_config()
  config.model.lrn.alpha_over = 'mean'
  config.model.conv1.then = ('norm', 'pool', 'act')
  config.model.conv2.then = ('act', 'norm', 'map_norm', 'pool')
  config.augment.share = 32
  config.augment.color_divisor = 1.1
  config.augment.color_until = '67 epochs'
  config.length = '91 epochs'
  config.schedule.kind = 'staircase'
  config.schedule.drops = (25.0, 51.0, 79.0)
  config.schedule.rules = (
    ('conv1/bias', ((0.0, 0.02), (72.0, 0.0))),
    ('conv1', ((67.0, 1e-5), (72.0, 0.0))),
    ('bias', ((0.0, 0.02),)),
  )
  return config
