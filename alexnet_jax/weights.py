r"""Carries a trained network in from other programs' files, and out to them.

  alexnet weights export --format=safetensors \
    --workdir=runs/imagenet2012 --file=alexnet.safetensors
  alexnet weights import --format=caffe \
    --config=configs/caffe_alexnet.py --file=bvlc_alexnet.caffemodel \
    --mean=imagenet_mean.binaryproto --workdir=runs/caffe_alexnet
  alexnet eval --workdir=runs/caffe_alexnet --views=10

An imported network is a run of no steps: `eval` measures it, `train` goes on
with it, `alexnet_jax.load` opens it. formats:

  safetensors  the two towers, with configuration, class names and mean
  grouped      the same with the towers side by side, as programs for one
               device have them (grouped convolutions)
  caffe        .caffemodel: bvlc_alexnet, bvlc_reference_caffenet. Export
               writes the mean beside it, a .binaryproto, and prints what the
               prototxt must say
  hub          a folder as huggingface.co has them, or hf://OWNER/NAME there:
               weights, configuration, class names, a model card made from the
               run, and a program that reads them in PyTorch. `hf upload
               OWNER/NAME FOLDER` puts it there
  torchvision  the state dict of torchvision's alexnet, .safetensors or, where
               PyTorch is installed, .pth; in 32 or 16 bits
"""

import json
import re
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from alexnet_jax.runtime import errors, options

_FORMAT = flags.DEFINE_enum(
  'format',
  None,
  ['safetensors', 'grouped', 'hub', 'caffe', 'torchvision'],
  'Whose file it is: see above.',
  required=True,
)
_FILE = flags.DEFINE_string(
  'file',
  None,
  'The file to read or to write; of a hub the folder.',
  required=True,
)
_WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  'import: folder of the run that is made. export: of the run to take.',
  required=True,
)
_CHECKPOINT = options.checkpoint('export: ')
_CONFIG = config_flags.DEFINE_config_file(
  'config',
  None,
  'import from caffe or torchvision: the configuration of that network, '
  'such as configs/caffe_alexnet.py. Files of ours hold their own.',
)
_CLASSES = flags.DEFINE_string(
  'classes',
  '1000',
  'import from caffe or torchvision: a file with the name of a class on each '
  'line, or how many there are.',
)
_MEAN = flags.DEFINE_string(
  'mean',
  None,
  'import from caffe: the mean image, a .binaryproto, or R,G,B. Default: that '
  'of the published networks. torchvision has its own.',
)
_LICENSE = flags.DEFINE_string(
  'license',
  'other',
  'export to a hub: of the weights, as the hub names it, such as apache-2.0.',
)
flags.register_validator(
  'license',
  re.compile(r'[A-Za-z0-9][\w.-]*').fullmatch,
  'a name of letters, digits, points and hyphens',
)


def main(argv: Sequence[str]) -> None:
  commands = {'import': _import, 'export': _export}
  if len(argv) < 2 or argv[1] not in commands:
    raise errors.UserError(f'say what to do: {" or ".join(commands)}')
  others = ('config', 'classes', 'mean')
  if argv[1] == 'export':
    errors.refuse_flags(others, 'this is for import')
  else:
    errors.refuse_flags(['checkpoint'], 'a file holds one network')
    own = {'torchvision': ['mean'], 'caffe': []}
    unused = own.get(_FORMAT.value, others)
    errors.refuse_flags(unused, f'{_FORMAT.value} has its own')
  if argv[1] == 'import' or _FORMAT.value != 'hub':
    errors.refuse_flags(['license'], 'it is for export to a hub')
  commands[argv[1]]()


def _import() -> None:
  from alexnet_jax.formats import conversion
  from alexnet_jax.training import saved, settings

  network = conversion.read(
    _FILE.value,
    _FORMAT.value,
    config=json.loads(_CONFIG.value.to_json()) if _CONFIG.value else None,
    classes=_CLASSES.value,
    mean=_MEAN.value,
  )
  network.config['pretrained']['source'] = _FILE.value
  saved.write_run(
    _WORKDIR.value,
    network.config,
    settings.configure(network.config),
    network.state(),
    network.class_names,
    network.statistics,
  )
  print(f'{_WORKDIR.value} has the network of {_FILE.value}', flush=True)


def _export() -> None:
  from alexnet_jax import library
  from alexnet_jax.formats import conversion

  model = library.load(_WORKDIR.value, _CHECKPOINT.value)
  if _FORMAT.value == 'hub':
    notes = _export_folder(model.network())
  else:
    notes = conversion.write(_FILE.value, _FORMAT.value, model.network())
  print(f'{_FILE.value} has the network of {model.stage}', flush=True)
  for note in notes:
    print(f'  {note}', flush=True)


def _export_folder(network) -> list[str]:
  from alexnet_jax.formats import hub
  from alexnet_jax.runtime import writers
  from alexnet_jax.runtime.checkpoint import Checkpointer
  from alexnet_jax.training import card, saved

  workdir, meta, rows = _WORKDIR.value, None, []
  if not hub.resolve(workdir).is_file():
    with Checkpointer(f'{workdir}/checkpoints') as checkpointer:
      meta = saved.read_meta(checkpointer, network.step)
    if network.step:
      rows = writers.read_rows(workdir)
  text = card.make_card(network, meta, rows, _LICENSE.value)
  hub.write(_FILE.value, network, text)
  return [f'hf upload OWNER/NAME {_FILE.value}']


if __name__ == '__main__':
  errors.run(main, words=1)
