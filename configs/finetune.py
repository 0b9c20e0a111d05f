"""A trained network on other pictures: a new fc8, lower rates below it.

  command   alexnet train \\
              --config=configs/finetune.py:runs/default --config.data.name=mine
  hardware  2 CPU cores will do; any GPU is far faster
  time      as configs/folder.py, by the width of the network
  expected  as docs/finetuning.md has it, for one network and little data

Behind the colon stands what to begin with: the workdir of a run, such as an
imported one, a file or folder of `weights export`, or hf://OWNER/NAME. Network
and views are those it was trained with. The classes are those of the data set.
"""

from ml_collections import ConfigDict

from alexnet_jax.training import as_trained
from configs import folder

# What a run without a source says it cannot read.
_MISSING = 'SOURCE, which stands behind a colon: configs/finetune.py:SOURCE'


def get_config(source: str = '') -> ConfigDict:
  """Of a network that is already there; fc8 learns 10 times as fast."""
  config = folder.get_config()
  config.pretrained.source = source or _MISSING
  if source:
    own = as_trained.get_config(source)
    config.model, config.augment = own.model, own.augment
    config.mesh.towers = min(config.mesh.towers, config.model.towers)
  config.optimizer.learning_rate_multipliers = (('fc8', 10.0), ('', 1.0))
  config.schedule.learning_rate = 0.001
  return config.lock()
