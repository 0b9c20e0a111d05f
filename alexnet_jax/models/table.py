"""The network as a table, one row a layer (§3.5).

`alexnet()` and its siblings give `config.model`: what a person reads and
overrides. `models.rows` checks it, and makes of it what layers get.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from alexnet_jax.runtime.errors import UserError

ACTIVATIONS = ('relu', 'tanh')  # §3.1, and what it is compared with
# The steps that may follow a convolution, and a fully connected layer.
AFTER_CONV = ('act', 'norm', 'map_norm', 'batch_norm', 'pool', 'avg_pool')
AFTER_DENSE = ('act', 'dropout')


# -- the tables that a configuration begins with


def alexnet() -> ConfigDict:
  """The network of the paper: two towers at full width."""
  model = ConfigDict()
  model.name = 'alexnet'
  # The layers there are, in order. conv6, of the authors' pre-trained
  # networks, has a row below and is left out here.
  model.layers = (
    *('conv1', 'conv2', 'conv3', 'conv4', 'conv5'),
    *('fc6', 'fc7', 'fc8'),
  )
  # Maps and units of one tower; sizes in pixels. `reads`: the image, the maps
  # of its own tower, or those of both (§3.2). `then`: what follows, in this
  # order (§3.5). std and bias: the initial weights and biases (§5); the text
  # has std 0.01 everywhere, with which less signal reaches fc7; 0.03 in conv3
  # to conv5 is what the authors' program has.
  # fmt: off
  #                   maps size stride pad reads    then             std   bias
  model.conv1 = conv(   48,  11,    4,   0, 'image', 'act norm pool', 0.01, 0.0)
  model.conv2 = conv(  128,   5,    1,   2, 'own',   'act norm pool', 0.01, 1.0)
  model.conv3 = conv(  192,   3,    1,   1, 'both',  'act',           0.03, 0.0)
  model.conv4 = conv(  192,   3,    1,   1, 'own',   'act',           0.03, 1.0)
  model.conv5 = conv(  128,   3,    1,   1, 'own',   'act pool',      0.03, 1.0)
  model.conv6 = conv(  128,   3,    1,   1, 'both',  'act',           0.03, 1.0)
  model.fc6   = dense(2048,                 'both',  'act dropout',   0.01, 1.0)
  model.fc7   = dense(2048,                 'both',  'act dropout',   0.01, 1.0)
  model.fc8   = logits(                     'both',                   0.01, 0.0)
  # fmt: on
  # Towers of the network, 1 or 2 (§3.2). Where they run is config.mesh.
  model.towers = 2
  # Every layer's maps and units, times this.
  model.width = 1.0
  # Every initial std, times this. At another width, all but conv1's are
  # multiplied by width ** -0.5 besides: a layer's fan-in shrinks with the
  # width, and the signal that reaches fc7 is to stay the same.
  model.init_scale = 1.0
  # The step 'act': 'relu' (§3.1) or 'tanh'.
  model.activation = 'relu'
  # The step 'dropout': the share of units dropped in training (§4.2).
  model.dropout = 0.5
  # 'paper': outputs are halved at test time (§4.2); 'inverted': doubled in
  # training, with which this network, started as §5 says, does not learn.
  model.dropout_form = 'paper'
  # The step 'norm': local response normalization (§3.3).
  model.lrn = lrn = ConfigDict()
  lrn.enabled = True
  lrn.size = 5
  lrn.k = 2.0
  lrn.alpha = 1e-4
  lrn.beta = 0.75
  # What alpha multiplies: the 'sum' of squares (the text) or their 'mean'
  # (the authors' program, Caffe, PyTorch).
  lrn.alpha_over = 'sum'
  # Neighbours may be in the other tower, as in Caffe's copy on one device.
  lrn.across_towers = False
  # The step 'pool': overlapping pooling (§3.4).
  model.pool = ConfigDict({'window': 3, 'stride': 2})
  # Positions of kernels and pools: 'up', the last window may hang over the
  # edge (the authors' program: how 224 pixels give conv1 55), or 'down'.
  model.rounding = 'up'
  # The step 'map_norm': response normalization within each map, over size x
  # size pixels, whose mean square alpha multiplies. Only the authors' program
  # has it.
  model.map_norm = ConfigDict(
    {'size': 5, 'k': 1.0, 'alpha': 1e-3, 'beta': 0.75}
  )
  # The step 'batch_norm', of 2015: over the batch, on all devices, and the
  # places of a map. What a step leaves of the running averages that evaluation
  # uses, and what is added to a variance.
  model.batch_norm = ConfigDict({'momentum': 0.9, 'epsilon': 1e-5})
  return model.lock()


def alexnet_quarter() -> ConfigDict:
  """The paper's network at a quarter of its width."""
  model = alexnet()
  model.width = 0.25
  return model


def caffe_alexnet() -> ConfigDict:
  """Caffe's `bvlc_alexnet`: the towers of both devices on one."""
  model = alexnet()
  model.dropout_form = 'inverted'
  model.lrn.k = 1.0
  model.lrn.alpha_over = 'mean'
  model.lrn.across_towers = True
  return model


def caffenet() -> ConfigDict:
  """Caffe's `bvlc_reference_caffenet`: pooling before normalization."""
  model = caffe_alexnet()
  model.conv1.then = model.conv2.then = ('act', 'pool', 'norm')
  return model


def torchvision() -> ConfigDict:
  """torchvision's `alexnet`: one tower of other widths, without §3.3."""
  model = alexnet()
  model.towers = 1
  model.conv1.update(features=64, pad=2)
  model.conv2.features = 192
  model.conv3.features = 384
  model.conv4.features = 256
  model.conv5.features = 256
  model.fc6.features = model.fc7.features = 4096
  model.rounding = 'down'
  model.lrn.enabled = False
  model.dropout_form = 'inverted'
  return model


def cifar10_80sec() -> ConfigDict:
  """`layers-80sec` of the authors' earlier program, cuda-convnet."""
  model = _cifar10('80sec')
  model.layers = ('conv1', 'conv2', 'conv3', 'fc64', 'fc10')
  # fmt: off
  model.conv1 = conv(32, 5, 1, 2, 'image', 'act pool',     1e-4, 0.0)
  model.conv2 = conv(32, 5, 1, 2, 'own',   'act avg_pool', 0.01, 0.0)
  model.conv3 = conv(64, 5, 1, 2, 'own',   'act avg_pool', 0.01, 0.0)
  model.fc64  = dense(64,         'own',   'act',          0.1,  0.0)
  model.fc10  = logits(           'both',                  0.1,  0.0)
  # fmt: on
  return model.lock()


def cifar10_18pct() -> ConfigDict:
  """`layers-18pct` of cuda-convnet: §3.3's "four-layer" net, with norm."""
  model = _cifar10('18pct')
  model.layers = ('conv1', 'conv2', 'conv3', 'fc10')
  # fmt: off
  model.conv1 = conv(32, 5, 1, 2, 'image', 'act pool map_norm',     1e-4, 0.0)
  model.conv2 = conv(32, 5, 1, 2, 'own',   'act avg_pool map_norm', 0.01, 0.0)
  model.conv3 = conv(64, 5, 1, 2, 'own',   'act avg_pool',          0.01, 0.0)
  model.fc10  = logits(           'both',                           0.01, 0.0)
  # fmt: on
  # Of the file, where alpha is divided by the 9 places of a window.
  model.map_norm = ConfigDict(
    {'size': 3, 'k': 1.0, 'alpha': 5e-5, 'beta': 0.75}
  )
  return model.lock()


def cifar10_conv_local_13pct() -> ConfigDict:
  """`layers-conv-local-13pct` of cuda-convnet: two locally connected layers."""
  model = _cifar10('conv-local-13pct')
  model.layers = ('conv1', 'conv2', 'local3', 'local4', 'fc10')
  # fmt: off
  model.conv1  = conv(64, 5, 1, 2, 'image', 'act pool', 1e-4, 0.0)
  model.conv2  = conv(64, 5, 1, 2, 'own',   'act pool', 0.01, 0.0)
  model.local3 = conv(32, 3, 1, 1, 'own',   'act',      0.04, 0.0)
  model.local4 = conv(32, 3, 1, 1, 'own',   'act',      0.04, 0.0)
  model.fc10   = logits(           'both',              0.01, 0.0)
  # fmt: on
  return model.lock()


def _cifar10(name: str) -> ConfigDict:
  """What the CIFAR-10 nets share: one tower, overlapping pools, no dropout."""
  return ConfigDict(
    {
      'name': name,
      'towers': 1,
      'width': 1.0,
      'init_scale': 1.0,
      'activation': 'relu',
      'pool': {'window': 3, 'stride': 2},
    }
  )


def conv(
  features: int,
  kernel: int,
  stride: int,
  pad: int,
  reads: str,
  then: str,
  init_std: float,
  init_bias: float,
) -> ConfigDict:
  """A row of a convolution; `then` has its steps with spaces between."""
  return ConfigDict(
    {
      'features': features,
      'kernel': kernel,
      'stride': stride,
      'pad': pad,
      'reads': reads,
      'then': tuple(then.split()),
      'init_std': init_std,
      'init_bias': init_bias,
    }
  )


def dense(
  features: int, reads: str, then: str, init_std: float, init_bias: float
) -> ConfigDict:
  """A row of a fully connected layer; `then` as in `conv`."""
  row = logits(reads, init_std, init_bias)
  row.features, row.then = features, tuple(then.split())
  return row


def logits(reads: str, init_std: float, init_bias: float) -> ConfigDict:
  """The last layer: a unit for each class of the data set."""
  return ConfigDict(
    {'reads': reads, 'init_std': init_std, 'init_bias': init_bias}
  )


# Networks by name, and the tables by the name that they hold themselves.
ARCHITECTURES: dict[str, Callable[[], ConfigDict]] = {
  'alexnet': alexnet,
  'alexnet_quarter': alexnet_quarter,
  'caffe_alexnet': caffe_alexnet,
  'caffenet': caffenet,
  'torchvision': torchvision,
}
TABLES: dict[str, Callable[[], ConfigDict]] = {
  'alexnet': alexnet,
  '80sec': cifar10_80sec,
  '18pct': cifar10_18pct,
  'conv-local-13pct': cifar10_conv_local_13pct,
}


def get_architecture(name: str) -> ConfigDict:
  """The `config.model` of a name.

  Raises:
    UserError: there is no such name.
  """
  if name not in ARCHITECTURES:
    raise UserError(
      f'no architecture {name!r}: there are {", ".join(ARCHITECTURES)}'
    )
  return ARCHITECTURES[name]()
