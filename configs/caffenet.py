r"""CaffeNet, bvlc_reference_caffenet: Caffe's AlexNet, pooled first.

  command   alexnet weights import --format=caffe \
              --config=configs/caffenet.py \
              --file=bvlc_reference_caffenet.caffemodel --workdir=runs/caffenet
            alexnet eval --workdir=runs/caffenet
  hardware  any
  time      of a forward pass
  expected  42.6 % top-1 and 19.6 % top-5 error, one view (Caffe's report, with
            its warped 256x256 pictures; not run here)
"""

from ml_collections import ConfigDict

from alexnet_jax.models import table
from configs import caffe_alexnet


def get_config() -> ConfigDict:
  """caffe_alexnet.py with pooling before normalization."""
  config = caffe_alexnet.get_config()
  config.model = table.caffenet()
  return config
