r"""torchvision's alexnet: Krizhevsky's network of 2014, with one tower.

  command   alexnet weights import --format=torchvision \
              --config=configs/torchvision.py \
              --file=alexnet-owt-7be5be79.pth --workdir=runs/torchvision
            alexnet eval --workdir=runs/torchvision
  hardware  any
  time      of a forward pass
  expected  43.5 % top-1 and 20.9 % top-5 error, one view (torchvision's report;
            not run here)

64, 192, 384, 256 and 256 kernels, no normalization, and one mean colour. It is
for imported weights. To train it from scratch was not tried: its initial
weights and rate are those of the paper's network.
"""

from ml_collections import ConfigDict

from alexnet_jax.models import table
from configs import imagenet2012


def get_config() -> ConfigDict:
  """The paper's experiment with torchvision's network."""
  config = imagenet2012.get_config()
  config.model = table.torchvision()
  config.augment.mean = 'rgb'
  config.mesh.towers = 1
  return config
