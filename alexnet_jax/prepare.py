"""Writes photographs as a data set that training reads (once, on the host).

  alexnet prepare --source=shapes
  alexnet prepare --source=folder --input=my_pictures --name=mine
  alexnet prepare --source=imagenet2012 --input=folder_of_tars
  alexnet prepare --source=tfds:cifar10 --size=32
  alexnet prepare --source=hf:OWNER/NAME --name=mine
  alexnet prepare --source='webdataset:pets-{000..007}.tar' --name=mine

Each photograph is turned upright, its shorter side brought to 256 (--size) and
the central square kept; the mean and the colour covariance of the training
split are measured on the way.
"""

import os

from absl import flags

from alexnet_jax.runtime import errors

_SOURCE = flags.DEFINE_string(
  'source',
  None,
  'imagenet2012: the official ILSVRC2012_img_train.tar and _val.tar, read as '
  'they are. imagenet_v2: a set of ImageNet-V2, unpacked, as a test split. '
  'folder: pictures as train/ validation/ test/<class>/*, or as '
  '<class>/* with a held-out share; what is not used is named. shapes: the '
  'embedded synthetic data set. tfds:NAME, such as tfds:cifar10 or '
  'tfds:imagenette/320px-v2: what a builder of TFDS has prepared, in '
  'TFRecord or ArrayRecord files. hf:PATH_OR_NAME: a folder of Parquet files, '
  'as the library datasets writes them, or OWNER/NAME of its hub. '
  'webdataset:SHARDS: tars of key.jpg with key.cls or key.json.',
  required=True,
)
_INPUT = flags.DEFINE_string(
  'input',
  None,
  'Folder that holds the two tars, or the tree of pictures. tfds: folder of '
  'TFDS; default: $TFDS_DATA_DIR, else ~/tensorflow_datasets.',
)
_NAME = flags.DEFINE_string(
  'name',
  None,
  'Name of the data set, as in config.data.name. Default: the source, or its '
  'NAME; '
  'required for a folder, hf and webdataset.',
)
_DATA_DIR = flags.DEFINE_string(
  'data_dir',
  os.environ.get('ALEXNET_DATA_DIR') or 'data',
  'Folder of all data sets, or gs://BUCKET/FOLDER. Default: $ALEXNET_DATA_DIR, '
  'else data/.',
)
_ENCODING = flags.DEFINE_enum(
  'encoding',
  'raw',
  ['raw', 'jpeg'],
  'raw: 197 kB an image, 262 GB for ImageNet, read at thousands of images/s '
  'per core. jpeg: quality 90, 4:4:4, about 30 kB, read 3.4 times slower.',
)
_SIZE = flags.DEFINE_integer(
  'size',
  256,
  'Side of the square images, pixels: 32 keeps those of CIFAR as they are.',
  lower_bound=8,
  upper_bound=4096,
)
_VALIDATION_SHARE = flags.DEFINE_float(
  'validation_share',
  0.1,
  'folder, tfds, hf, webdataset: share of each class of the training pictures '
  'to hold out for validation where there is none.',
)
_TEST_SHARE = flags.DEFINE_float(
  'test_share', 0.0, 'Likewise, for a test split where there is none.'
)
_SKIP_BAD = flags.DEFINE_bool(
  'skip_bad',
  False,
  'Leave out files that cannot be decoded, and list them, instead of stopping '
  'at the first. A class that this leaves empty is named in a warning.',
)
_OVERWRITE = flags.DEFINE_bool(
  'overwrite', False, 'Replace a data set of this name.'
)
_WORKERS = flags.DEFINE_integer(
  'workers',
  None,
  'Processes that decode. Default: one per core.',
  lower_bound=1,
)


def main(_) -> None:
  unused = {
    'shapes': ('input', 'validation_share', 'test_share'),
    'imagenet2012': ('validation_share', 'test_share'),
    'imagenet_v2': ('validation_share', 'test_share'),
    'hf': ('input',),
    'webdataset': ('input',),
  }
  source = _SOURCE.value.partition(':')[0]
  errors.refuse_flags(unused.get(source, ()), f'{source} has its own')
  # Worker processes import this module again: what is heavy stays in here.
  from alexnet_jax.data import preparation

  preparation.prepare(
    _SOURCE.value,
    data_dir=_DATA_DIR.value,
    name=_NAME.value,
    input_dir=_INPUT.value,
    encoding=_ENCODING.value,
    size=_SIZE.value,
    validation_share=_VALIDATION_SHARE.value,
    test_share=_TEST_SHARE.value,
    skip_bad=_SKIP_BAD.value,
    overwrite=_OVERWRITE.value,
    num_workers=_WORKERS.value,
  )


if __name__ == '__main__':
  errors.run(main)
