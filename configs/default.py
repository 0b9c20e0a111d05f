"""Two towers on two devices learn `shapes`, the data set drawn on first use.

  command   alexnet train --config=configs/default.py
  hardware  2 CPU cores are enough
  time      5 to 7 minutes there, the drawing included
  expected  7.8 to 13.5 % top-1 test error, on three machines (chance is 90 %)

Every field stands here, those of the network in alexnet_jax/models/table.py,
with the value of the paper's text and where it comes from, except the lines
marked *small*. Every other file in this folder is this one with a few
overrides.
"""

import os

from ml_collections import ConfigDict

from alexnet_jax.models import table


def get_config() -> ConfigDict:
  """Every field, commented."""
  config = ConfigDict()

  # Order, crops, flips, colours, dropout and initial weights all follow it.
  config.seed = 0
  # Images per step over all devices (§5: 128).
  config.batch_size = 32  # *small*
  # Parts in which each device takes its share of a batch, one after the other:
  # the same step in less memory (batch normalization aside, which averages
  # over a part, and whose running averages each part moves).
  config.accumulate = 1
  # How long to train (§5: about 90 cycles). Lengths here are '90 epochs' or
  # '500 steps'; an epoch is as many images as the training split has.
  config.length = '7 epochs'  # *small*
  # What the network computes in: 'float32' or 'bfloat16'. Parameters,
  # velocity, response norm sums, logits and loss are float32 in either case;
  # sums of gradients over devices are in this.
  config.dtype = 'float32'
  # How accelerators multiply float32: 'highest' is float32, 'default' is what
  # the hardware likes best (TF32 on GPUs, bfloat16 passes on TPUs), 'high' is
  # TF32 or three such passes.
  config.matmul_precision = 'highest'
  # Repeat to the bit on GPUs, too, at some cost in speed; CPUs and TPUs do.
  config.deterministic = False
  # The share of a label that the loss of training spreads over all classes
  # (Szegedy et al. 2016, section 7); the paper has none.
  config.label_smoothing = 0.0
  # Between two progress lines and rows of training metrics.
  config.log_every = '20 steps'

  config.data = data = ConfigDict()
  # A data set made by `alexnet prepare`.
  data.name = 'shapes'  # *small*
  # Where data sets live: a folder, or gs://BUCKET/FOLDER.
  data.dir = os.environ.get('ALEXNET_DATA_DIR') or 'data'
  # Worker processes that read and decode, at most one a core; 0: threads of
  # this process; -1: as many of either as fit the machine.
  data.workers = -1
  # Batches kept ready, per worker.
  data.prefetch = 4
  # 'device' keeps the training split on each device, where it fits, and cuts
  # batches from it there: the same order, the same numbers. 'mesh' keeps a
  # part on each device of the axis 'data', and they send each other what a
  # batch wants. 'none' reads them while training.
  data.cache = 'none'
  # What decodes JPEG records: 'pillow', or 'simplejpeg', which has to be
  # installed and takes less time. A run keeps the one it began with.
  data.decoder = 'pillow'
  # Damaged training records to go on with, over all processes: the next good
  # one in the order of storage stands in for each. In evaluation every one is
  # an error.
  data.max_bad_records = 0

  config.augment = augment = ConfigDict()
  # Side of the views that the network sees (§4.1).
  augment.crop_size = 224
  # Training views: a random crop, else the central one (§4.1).
  augment.random_crop = True
  # Mirror half of them (§4.1).
  augment.random_flip = True
  # Images of a batch, one after the other, that are cut and mirrored alike.
  augment.share = 1
  # Width of the random multiples of the principal components of RGB that are
  # added to an image (§4.1: 0.1); 0 switches it off.
  augment.color = 0.1
  # What a multiple of 1 stands for: 'std', a component's standard deviation,
  # or 'eigenvalue', its variance, as the text literally says: noise far
  # larger than the image.
  augment.color_units = 'std'
  # When it ends, such as '67 epochs'; '': never.
  augment.color_until = ''
  # While there is noise, training views are divided by this.
  augment.color_divisor = 1.0
  # What is subtracted (§2): 'image', the training set's mean image (its
  # central crop, wherever the view was cut), 'rgb', its mean colour, 'none'.
  augment.mean = 'image'
  # Multiplies a view after that. The paper's is 1: pixels of 0 to 255. At
  # 1 / 58, about what ports divide by, the initial weights of §5 are too small.
  augment.scale = 1.0

  # The network, a row a layer: models/table.py has and explains every field,
  # such as config.model.conv2.features. Tables of other networks stand there,
  # too: config.model = table.cifar10_80sec().
  config.model = table.alexnet()
  config.model.width = 0.25  # *small*

  config.pretrained = pretrained = ConfigDict()
  # What a run begins with: the workdir of another, a file or folder of
  # `alexnet weights export`, or hf://OWNER/NAME; '': the initial
  # weights above. Its crop_size, mean and scale take the place of those above.
  pretrained.source = ''
  # Of a workdir: as --checkpoint, such as 'best', 'last', the number of a step.
  pretrained.checkpoint = 'best'
  # Layers that begin anew all the same; the others must be of the same shape.
  pretrained.fresh = ('fc8',)

  config.optimizer = optimizer = ConfigDict()
  # 'momentum': v <- momentum v - decay rate w - rate gradient; w <- w + v (§5).
  # 'lars', none of the paper's, for large batches: times a layer's own rate,
  # trust |w| / (|gradient| + decay |w|), where there is decay.
  # 'adamw', nor this: `momentum` and `beta2` are its two betas.
  optimizer.kind = 'momentum'
  optimizer.momentum = 0.9
  optimizer.beta2 = 0.999
  optimizer.epsilon = 1e-8
  optimizer.trust = 0.001
  optimizer.weight_decay = 5e-4
  # (pattern, multiplier): the first pattern that is found in a parameter's
  # name, such as 'conv1/kernel', decides.
  optimizer.learning_rate_multipliers = (('', 1.0),)
  # Decay on weights only.
  optimizer.decay_multipliers = (('bias', 0.0), ('', 1.0))
  # Also keep a running average of the parameters, of which each step replaces
  # the share 1 - ema, such as 0.999; 0: none. It is evaluated beside them, as
  # the split's name with `_ema`, and never trained on; --checkpoint=best-ema
  # (last-ema, STEP-ema) takes it, wherever a checkpoint is asked for.
  optimizer.ema = 0.0

  config.schedule = schedule = ConfigDict()
  # 'staircase': rates by epoch; 'plateau': divide the rate when the top-1
  # error on validation stops falling (§5); 'dexp': the 2012 program's own, in
  # `parts` of `span` epochs from `learning_rate` down to it / `factor`;
  # 'cosine': half a cosine down to 0 at the end of training; 'polynomial': the
  # share of training that is left, to the `power`.
  schedule.kind = 'staircase'  # *small*
  schedule.learning_rate = 0.01
  # Epochs in which it rises evenly from 0 first.
  schedule.warmup = 0.0
  # staircase: the rate is divided by `factor` at the end of these epochs.
  schedule.drops = (5.0, 6.5)  # *small*
  # plateau: epochs without a better error before a drop, and how many drops
  # (§5: three); when that would be one more, training stops.
  schedule.patience = 5.0
  schedule.max_drops = 3
  schedule.factor = 10.0
  schedule.parts = 4
  schedule.span = 95.0
  schedule.power = 2.0
  # Rates of their own, (pattern, ((epoch, rate), ...)): the first pattern that
  # is found in a parameter's name, such as 'conv1/kernel', gives it the rate
  # of the last point that has come, the schedule's before the first. At 0 it
  # stands still.
  schedule.rules = ()
  # Training ends, too, at an evaluation whose top-1 error is at most this, as
  # figure 1 counts the epochs to 0.25; 0: never.
  schedule.target = 0.0

  config.mesh = mesh = ConfigDict()
  # Devices the batch is spread over; -1: what is left (on CPUs 1).
  mesh.data = -1
  # Devices the towers are spread over: 1 or model.towers. On a machine with
  # one accelerator both towers run there.
  mesh.towers = 2
  # What the second axis is used for. 'towers': a tower on each device (§3.2).
  # 'owt': Krizhevsky's "One weird trick" of 2014: the convolutions of both on
  # each device, on its share of the images; then the fully connected layers
  # as with 'towers'. The same network, computed in another order.
  mesh.parallelism = 'towers'
  # What towers send each other, forward and back: 'float32', 'float16' or
  # 'bfloat16', which halve it.
  mesh.exchange_dtype = 'float32'

  config.evals = evals = ConfigDict()
  # Errors on this split, one central view each, named after it; 'train' is
  # 'train_split' in the logs, for 'train' is the steps' own batches.
  evals.split = 'validation'
  evals.every = '1 epoch'
  # Images per step; 0: batch_size.
  evals.batch_size = 0
  # Errors on this split, too, at the end of training; '': none.
  evals.final_split = 'test'

  config.checkpoint = checkpoint = ConfigDict()
  # Also saved after each evaluation and at the end.
  checkpoint.every = '1 epoch'
  # The newest kept; the best one on validation is kept besides.
  checkpoint.keep = 3

  return config.lock()
