"""The configuration that a network was trained with, also as the --config of an
evaluation that names none: `--config=THIS_FILE:WORKDIR`."""

import contextlib
import json

from ml_collections import ConfigDict

from alexnet_jax.formats import hub, safetensors
from alexnet_jax.runtime import files


def get_config(source: str) -> ConfigDict:
  """Of a run's newest checkpoint, or of a file of weights. Starts no backend,
  and verifies nothing: that is for who reads the network.

  Raises:
    UserError: there is none.
  """
  path = hub.resolve(source)
  if path.is_file():
    return ConfigDict(safetensors.read_config(path))
  folder = path / 'checkpoints'
  found = list(folder.iterdir()) if folder.exists() else []
  steps = sorted(int(x.name) for x in found if x.name.isdecimal())
  for step in reversed(steps):
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
      text = (folder / str(step) / 'meta.json').read_text()
      return ConfigDict(json.loads(text)['meta']['config'])
  raise files.missing_run(source)
