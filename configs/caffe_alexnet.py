r"""Caffe's AlexNet, bvlc_alexnet, for weights of its format.

  command   alexnet weights import --format=caffe \
              --config=configs/caffe_alexnet.py \
              --file=bvlc_alexnet.caffemodel --workdir=runs/caffe_alexnet
            alexnet eval --workdir=runs/caffe_alexnet
  hardware  any
  time      of a forward pass
  expected  42.9 % top-1 and 19.8 % top-5 error, one view (Caffe's report, with
            its warped 256x256 pictures; not run here)

The network of the paper as one device computes it: normalization looks across
the towers' border, starts from 1 and divides alpha by n.
"""

from ml_collections import ConfigDict

from alexnet_jax.models import table
from configs import imagenet2012


def get_config() -> ConfigDict:
  """The paper's experiment with Caffe's network on its 227-pixel views."""
  config = imagenet2012.get_config()
  config.model = table.caffe_alexnet()
  config.augment.crop_size = 227
  return config
