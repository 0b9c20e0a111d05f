"""A network as a folder that model hubs know, on a disk or at huggingface.co.

It has model.safetensors, config.json and preprocessor_config.json, the model
card README.md, and alexnet_torch.py, which reads them in PyTorch.
"""

import contextlib
import json
import os
from pathlib import Path

from etils import epath

from alexnet_jax.formats import safetensors
from alexnet_jax.formats.names import Network
from alexnet_jax.runtime import files, hub
from alexnet_jax.runtime.errors import UserError

SCHEME = 'hf://'
WEIGHTS = 'model.safetensors'
TORCH = 'alexnet_torch.py'
_VIEWS = 'preprocessor_config.json'
# What the program for PyTorch does not do.
_NOT_IN_TORCH = ('map_norm', 'avg_pool')


def resolve(source: str | os.PathLike) -> epath.Path:
  """Where a network is: of a folder of the hub's form its file, else `source`.

  Args:
    source: 'hf://OWNER/NAME', which is fetched, or '...@REVISION'; a folder, a
      file or the workdir of a run.

  Raises:
    UserError: it cannot be fetched, or its weights are missing.
  """
  text = os.fspath(source)
  path = files.source(_fetch(text) if text.startswith(SCHEME) else text)
  found = path / WEIGHTS
  run = (path / 'checkpoints').exists()  # whose network that may not be
  if (path / _VIEWS).exists() and not run and not found.exists():
    raise UserError(f'{source} has no {WEIGHTS}: fetch or export it again')
  return found if found.exists() and not run else path


def _fetch(source: str) -> str:
  """The folder in the hub's cache."""
  name, _, revision = source.removeprefix(SCHEME).partition('@')
  if name.count('/') != 1:
    raise UserError(f'{source}: write it as {SCHEME}OWNER/NAME')
  folder = hub.fetch(source, name, revision, WEIGHTS, 'model')
  if not (Path(folder) / WEIGHTS).exists():
    raise UserError(f'{source} has no {WEIGHTS}: it is not of alexnet_jax')
  return folder


def in_torch(network: Network) -> bool:
  """Whether `alexnet_torch.py` is this network."""
  table = network.config['model']
  rows = [table[name] for name in table['layers']]
  steps = {step for row in rows for step in row.get('then', ())}
  return table['name'] == 'alexnet' and not steps & set(_NOT_IN_TORCH)


def write(folder: epath.PathLike, network: Network, card: str) -> None:
  """Writes the folder, its weights last; nothing where they cannot be.

  Args:
    folder: made if missing.
    network: with its statistics and class names.
    card: README.md.

  Raises:
    UserError: there is something in the folder, or it cannot be written.
  """
  path = files.folder(folder)
  if path.exists() and any(path.iterdir()):
    raise UserError(f'{path} is not empty: choose another --file')
  augment, statistics = network.config['augment'], network.statistics
  about = {
    'library_name': 'alexnet_jax',
    'architectures': ['AlexNet'],
    'id2label': {str(i): x for i, x in enumerate(network.class_names)},
    'class_names': network.class_names,
    'model': network.config['model'],
  }
  views = {
    'picture_size': len(statistics.mean_image),
    'crop_size': augment['crop_size'],
    'mean': augment['mean'],
    'rgb_mean': statistics.rgb_mean.tolist(),
    'scale': augment['scale'],
  }
  texts = {
    'README.md': card,
    'config.json': json.dumps(about, indent=2, ensure_ascii=False),
    _VIEWS: json.dumps(views, indent=2),
  }
  if in_torch(network):
    texts[TORCH] = Path(__file__).with_name(TORCH).read_text()
  try:
    with files.explained(path):
      files.make_folder(path)
      for name, text in texts.items():
        files.write_atomically(path / name, text)
    safetensors.write(path / WEIGHTS, network)
  except UserError:
    for name in texts:
      with contextlib.suppress(OSError):
        (path / name).unlink()
    raise
