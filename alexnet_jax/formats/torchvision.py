"""torchvision's `alexnet` (Krizhevsky's one-tower network of 2014): its state
dict, as safetensors, or as `.pth` where PyTorch is installed.
"""

import importlib.util
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from alexnet_jax.formats import names, safetensors
from alexnet_jax.formats.names import Arrays, Layout
from alexnet_jax.runtime import files
from alexnet_jax.runtime.errors import UserError

# It sees images of 0 to 1, minus this mean, over these deviations.
MEAN = tuple(255 * x for x in (0.485, 0.456, 0.406))
LAYOUT = Layout(
  names={
    **{'conv1': 'features.0', 'conv2': 'features.3', 'conv3': 'features.6'},
    **{'conv4': 'features.8', 'conv5': 'features.10', 'fc6': 'classifier.1'},
    **{'fc7': 'classifier.4', 'fc8': 'classifier.6'},
  },
  parts={'kernel': '.weight', 'bias': '.bias'},
  divisors=(255 * 0.229, 255 * 0.224, 255 * 0.225),
)


def read_weights(path: epath.Path, wanted: Mapping[str, Any]) -> Arrays:
  """The state dict.

  Args:
    path: a safetensors file, or a `.pth` of `torch.save`.
    wanted: anything with shapes by torchvision's names.

  Raises:
    UserError: it is damaged, or of another network; it is a `.pth` and PyTorch
      is not installed.
  """
  if path.suffix not in ('.pth', '.pt'):
    return safetensors.read_arrays(path, wanted)
  torch = _import_torch(path)
  try:
    # Numbers only: PyTorch refuses whatever else a pickle asks for.
    state = torch.load(str(path), map_location='cpu', weights_only=True)
    keys = names.unwrapped(state)
    arrays = {name: state[key].numpy() for name, key in keys.items()}
  except Exception as error:  # damaged bytes may be anything
    reason = str(error).partition('\n')[0][:200]
    raise UserError(f'{path} is not a state dict: {reason}') from error
  names.check(path, {name: x.shape for name, x in arrays.items()}, dict(wanted))
  if any(x.dtype not in (np.float32, np.float16) for x in arrays.values()):
    raise UserError(f'{path} is not in float32: convert it first')
  return {name: x.astype(np.float32) for name, x in arrays.items()}


def write_weights(path: epath.Path, arrays: Arrays) -> None:
  """A state dict, by the suffix of `path`."""
  if path.suffix not in ('.pth', '.pt'):
    safetensors.write_arrays(path, arrays)
    return
  torch = _import_torch(path)
  state = {name: torch.from_numpy(np.array(x)) for name, x in arrays.items()}
  buffer = io.BytesIO()
  torch.save(state, buffer)
  with files.explained(path):
    files.write_atomically(path, buffer.getvalue())


def _import_torch(path: epath.Path) -> Any:
  if importlib.util.find_spec('torch') is None:
    raise UserError(
      f'{path} is a pickle, which only PyTorch can look into safely, and it is '
      'not installed. Where it is, make a safetensors file of it: python -c '
      '"import torch, safetensors.torch as s; '
      f"s.save_file(torch.load('{path}', weights_only=True), "
      "'alexnet.safetensors')\""
    )
  import torch

  return torch
