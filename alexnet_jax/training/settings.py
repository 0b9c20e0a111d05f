"""A configuration, checked once and cut into the parts that rooms take.

`configure` is the way of every value from a file or a flag into the program:
below it, functions take the part that they need.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Annotated, Any

from flax import traverse_util
from ml_collections import ConfigDict

from alexnet_jax.data.photographs import DECODERS
from alexnet_jax.models.networks import read_table
from alexnet_jax.models.rows import Table
from alexnet_jax.models.towers import MeshShape
from alexnet_jax.runtime.checks import MANY, Checked, Range, check, choice
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training.optimizer import Rule
from alexnet_jax.training.schedules import Plan
from alexnet_jax.training.views import Augment


@dataclasses.dataclass(frozen=True)
class Data(Checked, part='data'):
  """`config.data`, whose fields these are."""

  name: str
  dir: str
  workers: Annotated[int, Range(-1, 1000)]
  prefetch: Annotated[int, Range(1, 1000)]
  cache: Annotated[str, choice('none', 'device', 'mesh')]
  max_bad_records: Annotated[int, Range(0, 2**31 - 1)]
  decoder: Annotated[str, choice(*DECODERS)] = DECODERS[0]


@dataclasses.dataclass(frozen=True)
class Pretrained(Checked, part='pretrained'):
  """`config.pretrained`, whose fields these are."""

  source: str
  checkpoint: str
  fresh: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Evals(Checked, part='evals'):
  """`config.evals`, whose fields these are."""

  split: str
  every: str
  batch_size: Annotated[int, Range(0, MANY)]
  final_split: str


@dataclasses.dataclass(frozen=True)
class Saving(Checked, part='checkpoint'):
  """`config.checkpoint`, whose fields these are."""

  every: str
  keep: int


@dataclasses.dataclass(frozen=True)
class Settings(Checked):
  """The whole configuration, checked; configs/default.py has every field."""

  seed: Annotated[int, Range(0, 2**31 - 1)]
  batch_size: Annotated[int, Range(1, MANY)]
  accumulate: Annotated[int, Range(1, MANY)]
  length: str
  dtype: Annotated[str, choice('float32', 'bfloat16')]
  # Of `jax.default_matmul_precision`.
  matmul_precision: Annotated[str, choice('default', 'high', 'highest')]
  deterministic: bool
  label_smoothing: Annotated[float, Range(0, 0.999)]
  log_every: str
  data: Data
  augment: Augment
  model: Table
  pretrained: Pretrained
  optimizer: Rule
  schedule: Plan
  mesh: MeshShape
  evals: Evals
  checkpoint: Saving

  def __post_init__(self):
    super().__post_init__()
    if self.model.name != 'alexnet':
      # One tower, which no device shares with another.
      check('mesh.parallelism', self.mesh.parallelism, choice('towers'))
    if self.mesh.parallelism == 'owt' and not self.model.denses:
      raise UserError(
        "config.mesh.parallelism='owt' spreads the fully connected layers "
        'before the last, and config.model.layers has none'
      )

  @property
  def eval_batch_size(self) -> int:
    """Images in a step of an evaluation."""
    return self.evals.batch_size or self.batch_size


_PARTS = {
  'data': Data,
  'augment': Augment,
  'pretrained': Pretrained,
  'optimizer': Rule,
  'schedule': Plan,
  'mesh': MeshShape,
  'evals': Evals,
  'checkpoint': Saving,
}


def configure(config: ConfigDict | Mapping[str, Any]) -> Settings:
  """Checks a configuration, or what a checkpoint keeps of one.

  Raises:
    UserError: the first field that has no such value.
  """
  if isinstance(config, ConfigDict):
    config = config.to_dict()
  parts = {
    name: kind(**{field: _frozen(x) for field, x in config[name].items()})
    for name, kind in _PARTS.items()
  }
  parts['model'] = read_table(config['model'])
  rest = {name: x for name, x in config.items() if name not in parts}
  return Settings(**parts, **rest)


def _frozen(value: Any) -> Any:
  """JSON's lists as the tuples they were."""
  if isinstance(value, list | tuple):
    return tuple(map(_frozen, value))
  return value


def flat(tree: Mapping[str, Any]) -> dict[str, Any]:
  """{'a': {'b': (1,)}} as {'a.b': [1]}, as JSON has it."""
  plain = json.loads(json.dumps(tree))
  return traverse_util.flatten_dict(plain, sep='.')
