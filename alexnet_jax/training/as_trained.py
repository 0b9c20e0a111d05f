"""The configuration that a run has, as the --config of an evaluation that
names none: `--config=THIS_FILE:WORKDIR`."""

import contextlib
import json

from ml_collections import ConfigDict

from alexnet_jax.runtime import files


def get_config(workdir: str) -> ConfigDict:
  """Of the newest checkpoint there is. Starts no backend, and verifies nothing:
  that is for who reads the network.

  Raises:
    UserError: there is none.
  """
  folder = files.folder(workdir) / 'checkpoints'
  found = [x for x in folder.iterdir()] if folder.exists() else []
  steps = sorted(int(x.name) for x in found if x.name.isdecimal())
  for step in reversed(steps):
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
      text = (folder / str(step) / 'meta.json').read_text()
      return ConfigDict(json.loads(text)['meta']['config'])
  raise files.missing_run(workdir)
