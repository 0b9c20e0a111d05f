"""Two towers on two devices learn `shapes`, the data set drawn on first use.

  command   python -m alexnet_jax.main --config=configs/default.py
  hardware  2 CPU cores are enough
  time      5 to 7 minutes there, the drawing included
  expected  about 7 % top-1 error on the test split (chance is 90 %)

Every field there is stands here, with the value of the paper's text and where
it comes from, except the lines marked *small*. Every other file in this
folder is this one with a few overrides.
"""

import os

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Every field, commented."""
  config = ConfigDict()

  # Order, crops, flips, colours, dropout and initial weights all follow it.
  config.seed = 0
  # Images per step over all devices (§5: 128).
  config.batch_size = 32  # *small*
  # How long to train (§5: about 90 cycles). Lengths here are '90 epochs' or
  # '500 steps'; an epoch is as many images as the training split has.
  config.length = '7 epochs'  # *small*
  # What the network computes in: 'float32' or 'bfloat16'. Parameters,
  # velocity, response norm sums, logits and loss are float32 in either case;
  # sums of gradients over devices are in this.
  config.dtype = 'float32'
  # How accelerators multiply float32: 'highest' is float32, 'default' is what
  # the hardware likes best (TF32 on GPUs, bfloat16 passes on TPUs).
  config.matmul_precision = 'highest'
  # Repeat to the bit on GPUs, too, at some cost in speed; CPUs and TPUs do.
  config.deterministic = False
  # Between two progress lines and rows of training metrics.
  config.log_every = '20 steps'

  config.data = data = ConfigDict()
  # A data set made by `python -m alexnet_jax.prepare`.
  data.name = 'shapes'  # *small*
  # Where data sets live: a folder, or gs://BUCKET/FOLDER.
  data.dir = os.environ.get('ALEXNET_DATA_DIR') or 'data'
  # Worker processes that read and decode; 0: threads of this process.
  data.workers = 0
  # Batches kept ready, per worker.
  data.prefetch = 4
  # 'device' keeps the training split on each device, where it fits, and cuts
  # batches from it there: the same order, the same numbers. 'none' reads them
  # while training.
  data.cache = 'none'
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

  config.model = model = ConfigDict()
  # 'alexnet', or a CIFAR-10 net of models/cifar.py: '80sec', '18pct',
  # 'conv-local-13pct', which bring tables of their own.
  model.name = 'alexnet'
  # Towers of the network, 1 or 2 (§3.2). Where they run is config.mesh.
  model.towers = 2
  # Every layer's kernels and units, times this.
  model.width = 0.25  # *small*
  # 'relu' (§3.1) or 'tanh'.
  model.activation = 'relu'
  # Share of units of fc6 and fc7 dropped in training (§4.2).
  model.dropout = 0.5
  # 'paper': outputs are halved at test time (§4.2); 'inverted': doubled in
  # training, with which this network, started as §5 says, does not learn.
  model.dropout_form = 'paper'
  # The table of §3.5. Convolutions there are: conv1 and any of conv2 to conv6,
  # in order. The paper's has five; a sixth was in its pre-trained networks.
  model.convs = ('conv1', 'conv2', 'conv3', 'conv4', 'conv5')
  # Layers that read the maps of both towers, the rest read their own (§3.2);
  # fc8 reads both.
  model.talk = ('conv3', 'fc6', 'fc7')
  # Kernels and units of one tower at width 1 (§3.5).
  model.features = ConfigDict()
  model.features.conv1 = 48
  model.features.conv2 = 128
  model.features.conv3 = 192
  model.features.conv4 = 192
  model.features.conv5 = 128
  model.features.conv6 = 128
  model.features.fc6 = 2048
  model.features.fc7 = 2048
  # Side of a kernel, pixels between windows, and zeros on each side.
  model.kernel = ConfigDict()
  model.kernel.conv1 = 11
  model.kernel.conv2 = 5
  model.kernel.conv3 = 3
  model.kernel.conv4 = 3
  model.kernel.conv5 = 3
  model.kernel.conv6 = 3
  model.stride = ConfigDict()
  model.stride.conv1 = 4
  model.stride.conv2 = 1
  model.stride.conv3 = 1
  model.stride.conv4 = 1
  model.stride.conv5 = 1
  model.stride.conv6 = 1
  model.pad = ConfigDict()
  model.pad.conv1 = 0
  model.pad.conv2 = 2
  model.pad.conv3 = 1
  model.pad.conv4 = 1
  model.pad.conv5 = 1
  model.pad.conv6 = 1
  # What follows a convolution, in this order: 'act', the activation function;
  # 'norm', response normalization across maps (model.lrn); 'map_norm', that
  # within each map (model.map_norm); 'batch_norm' (model.batch_norm); 'pool'
  # (model.pool).
  model.then = ConfigDict()
  model.then.conv1 = ('act', 'norm', 'pool')
  model.then.conv2 = ('act', 'norm', 'pool')
  model.then.conv3 = ('act',)
  model.then.conv4 = ('act',)
  model.then.conv5 = ('act', 'pool')
  model.then.conv6 = ('act',)
  # Positions of kernels and pools: 'up', the last window may hang over the
  # edge (the authors' program: how 224 pixels give conv1 55), or 'down'.
  model.rounding = 'up'
  # Local response normalization (§3.3).
  model.lrn = ConfigDict()
  model.lrn.enabled = True
  model.lrn.size = 5
  model.lrn.k = 2.0
  model.lrn.alpha = 1e-4
  model.lrn.beta = 0.75
  # What alpha multiplies: the 'sum' of squares (the text) or their 'mean'
  # (the authors' program, Caffe, PyTorch).
  model.lrn.alpha_over = 'sum'
  # Neighbours may be in the other tower, as in Caffe's copy on one device.
  model.lrn.across_towers = False
  # Response normalization within each map, over size x size pixels, whose
  # mean square alpha multiplies: in the authors' program only.
  model.map_norm = ConfigDict()
  model.map_norm.size = 5
  model.map_norm.k = 1.0
  model.map_norm.alpha = 1e-3
  model.map_norm.beta = 0.75
  # Batch normalization, of 2015: over the batch, on all devices, and the places
  # of a map. What a step leaves of the running averages that evaluation uses,
  # and what is added to a variance.
  model.batch_norm = ConfigDict()
  model.batch_norm.momentum = 0.9
  model.batch_norm.epsilon = 1e-5
  # Overlapping pooling (§3.4).
  model.pool = ConfigDict()
  model.pool.window = 3
  model.pool.stride = 2
  # Standard deviation of the initial weights at width 1; at another width,
  # all but conv1's are multiplied by width ** -0.5. The text says 0.01
  # everywhere (§5), with which less signal reaches fc7 and `shapes` is learnt
  # later; 0.03 in conv3 to conv5 is what the authors' program did.
  model.init_std = ConfigDict()
  model.init_std.conv1 = 0.01
  model.init_std.conv2 = 0.01
  model.init_std.conv3 = 0.03
  model.init_std.conv4 = 0.03
  model.init_std.conv5 = 0.03
  model.init_std.conv6 = 0.03
  model.init_std.fc6 = 0.01
  model.init_std.fc7 = 0.01
  model.init_std.fc8 = 0.01
  # Times every one of them, whatever the network.
  model.init_scale = 1.0
  # Initial biases (§5).
  model.init_bias = ConfigDict()
  model.init_bias.conv1 = 0.0
  model.init_bias.conv2 = 1.0
  model.init_bias.conv3 = 0.0
  model.init_bias.conv4 = 1.0
  model.init_bias.conv5 = 1.0
  model.init_bias.conv6 = 1.0
  model.init_bias.fc6 = 1.0
  model.init_bias.fc7 = 1.0
  model.init_bias.fc8 = 0.0

  config.pretrained = pretrained = ConfigDict()
  # What a run begins with: the workdir of another, or a file of
  # `python -m alexnet_jax.weights export`; '': the initial weights above.
  pretrained.source = ''
  # Of a workdir: 'best', 'last' or the number of a step.
  pretrained.checkpoint = 'best'
  # Layers that begin anew all the same; the others must be of the same shape.
  pretrained.fresh = ('fc8',)

  config.optimizer = optimizer = ConfigDict()
  # v <- momentum v - decay rate w - rate gradient; w <- w + v (§5).
  optimizer.momentum = 0.9
  optimizer.weight_decay = 5e-4
  # (pattern, multiplier): the first pattern that is found in a parameter's
  # name, such as 'conv1/kernel', decides.
  optimizer.rate_multipliers = (('', 1.0),)
  # Decay on weights only.
  optimizer.decay_multipliers = (('bias', 0.0), ('', 1.0))

  config.schedule = schedule = ConfigDict()
  # 'staircase': rates by epoch; 'plateau': divide the rate when the top-1
  # error on validation stops falling (§5); 'dexp': the 2012 program's own, in
  # `parts` of `span` epochs from `rate` down to `rate / factor`.
  schedule.kind = 'staircase'  # *small*
  schedule.rate = 0.01
  # staircase: the rate is divided by `factor` at the end of these epochs.
  schedule.drops = (5.0, 6.5)  # *small*
  # plateau: epochs without a better error before a drop, and how many drops
  # (§5: three); when that would be one more, training stops.
  schedule.patience = 5.0
  schedule.max_drops = 3
  schedule.factor = 10.0
  schedule.parts = 4
  schedule.span = 95.0
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
