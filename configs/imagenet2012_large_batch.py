r"""AlexNet with batch normalization on 4,096 to 65,536 images a step, by LARS.

  command   python -m alexnet_jax.main \
              --config=configs/imagenet2012_large_batch.py:8192
  hardware  which mesh for which batch: docs/clusters.md
  time      not run here
  expected  as published, top-1 error (not run here): 41.3 % at 65,536 in 95
            epochs (Jia et al. 2018)

Behind the colon stands the batch, 8192 if nothing does. You, Gitman and
Ginsburg (2017) introduced LARS for this: with warm-up alone their AlexNet had
46.9 % top-1 error at 4,096 images and 55.2 % at 8,192, 42.4 % at 256.

The rows are those of Ginsburg's own files (github.com/borisgin/nvcaffe,
models/alexnet_bn), LARS on in each: 100 epochs, a rate that falls as the square
of what is left, normalization after pool1 and pool2, in place of LRN, and after
conv3 and conv4. After pool5 it is Jia et al.'s, who went to 65,536 with it.
From them, too, is that biases and scales have no decay.

Ours: the rates of 4,096 and 65,536, for which no file is there; a warm-up that
rises evenly from 0 (theirs: as a square, from 1); conv3 to conv5's initial
weights; and that biases and scales, which LARS leaves alone here, have a rate
of their own, 0.02 at a peak of 10.
"""

from ml_collections import ConfigDict

from alexnet_jax.runtime.errors import UserError
from configs import imagenet2012

# By batch: the peak rate, and the epochs in which it is reached.
_ROWS = {
  4096: (6.0, 4.0),
  8192: (10.0, 4.0),
  16384: (24.0, 5.0),
  32768: (32.0, 10.0),
  65536: (45.0, 10.0),
}


def get_config(batch: str = '8192') -> ConfigDict:
  """The row of a batch."""
  rows = {str(size): row for size, row in _ROWS.items()}
  if batch not in rows:
    raise UserError(
      f'configs/imagenet2012_large_batch.py:{batch}: the batches are '
      + ', '.join(rows)
    )
  config = imagenet2012.get_config()
  config.batch_size = int(batch)
  config.length = '100 epochs'
  config.evals.batch_size = 1024
  config.model.batch_norm.epsilon = 1e-4
  for row in (config.model.conv1, config.model.conv2, config.model.conv5):
    row.then = ('act', 'pool', 'batch_norm')
  for row in (config.model.conv3, config.model.conv4):
    row.then = ('act', 'batch_norm')
  config.augment.color = 0.0
  config.optimizer.kind = 'lars'
  config.optimizer.trust = 0.001
  config.optimizer.decay_multipliers = (('bias|scale', 0.0), ('', 1.0))
  config.optimizer.learning_rate_multipliers = (
    ('bias|scale', 0.002),
    ('', 1.0),
  )
  config.schedule.kind = 'polynomial'
  config.schedule.learning_rate, config.schedule.warmup = rows[batch]
  config.log_every = '20 steps'
  config.checkpoint.every = '1 epoch'
  return config.lock()
