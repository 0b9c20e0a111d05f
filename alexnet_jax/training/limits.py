"""Refuses a configuration whose numbers make no sense, before anything runs:
further in, they would be a traceback, a loop without end or all of memory."""

import itertools
import math
import re
from typing import Any

import ml_collections

from alexnet_jax.runtime.errors import UserError

_MANY = 1_000_000
_FLOAT32 = 3e38

# The least and the most that a field may be. NaN is in none of these.
_LIMITS = {
  'seed': (0, 2**31 - 1),
  'batch_size': (1, _MANY),
  'data.workers': (0, 1000),
  'data.prefetch': (1, 1000),
  'data.max_bad_records': (0, 2**31 - 1),
  'augment.color': (0, 1000),
  'augment.color_divisor': (0.001, 1000),
  'augment.share': (1, _MANY),
  'augment.scale': (0, 1000),
  'model.width': (0.001, 100),
  'model.dropout': (0, 1),
  'model.init_scale': (0, 1000),
  'model.lrn.size': (1, 100),
  'model.lrn.k': (0, _FLOAT32),
  'model.lrn.alpha': (0, _FLOAT32),
  'model.lrn.beta': (0, 1000),
  'model.map_norm.size': (1, 100),
  'model.map_norm.k': (0, _FLOAT32),
  'model.map_norm.alpha': (0, _FLOAT32),
  'model.map_norm.beta': (0, 1000),
  'model.batch_norm.momentum': (0, 1),
  'model.batch_norm.epsilon': (1e-12, 1000),
  'model.pool.window': (1, 15),
  'model.pool.stride': (1, 15),
  'optimizer.momentum': (0, 1),
  'optimizer.weight_decay': (0, _FLOAT32),
  'schedule.rate': (0, _FLOAT32),
  'schedule.patience': (0, _MANY),
  'schedule.max_drops': (0, 1000),
  'schedule.factor': (1, _MANY),
  'schedule.parts': (1, _MANY),
  'schedule.span': (0, _MANY),
  'schedule.target': (0, 1),
  'mesh.data': (-1, _MANY),
  'evals.batch_size': (0, _MANY),
}
_PRECISIONS = ('default', 'high', 'highest')  # of jax.default_matmul_precision


def check(config: ml_collections.ConfigDict) -> None:
  """Looks at numbers only; what names stand for is told where they are used.

  Raises:
    UserError: the first field that is out of its limits.
  """
  limits = _LIMITS | {
    f'model.{table}.{layer}': (least, most)
    for table, least, most in (
      *(('init_std', 0, 1000), ('init_bias', -1000, 1000)),
      *(('features', 1, 1_000_000), ('kernel', 1, 100)),
      *(('stride', 1, 100), ('pad', 0, 100)),
    )
    for layer in config.model[table]
  }
  for field, (least, most) in limits.items():
    value = config
    for part in field.split('.'):
      value = value[part]
    if not least <= value <= most:
      raise UserError(f'config.{field}={value} is not in {least} to {most}')
  drops = config.schedule.drops
  if not all(isinstance(x, int | float) and math.isfinite(x) for x in drops):
    raise UserError(f'config.schedule.drops={drops} are not epochs')
  for table in ('rate_multipliers', 'decay_multipliers'):
    rules = config.optimizer[table]
    try:
      fine = all(re.compile(text) and abs(by) < 1000 for text, by in rules)
    except (TypeError, ValueError, re.error):
      fine = False
    if not fine:
      raise UserError(
        f'config.optimizer.{table}={rules} are not pairs of a pattern and a '
        'multiplier'
      )
  for rule in config.schedule.rules:
    if not _is_rule(rule):
      raise UserError(
        f'config.schedule.rules: {rule!r} is not a pattern and its points, '
        "such as ('conv1', ((67.0, 1e-5), (72.0, 0.0))), whose epochs rise"
      )
  if config.matmul_precision not in _PRECISIONS:
    raise UserError(
      f'config.matmul_precision is one of {_PRECISIONS}, not '
      f'{config.matmul_precision!r}'
    )


def _is_rule(rule: Any) -> bool:
  """Whether it is a pattern and one or more rising (epoch, rate)."""
  try:
    pattern, points = rule
    re.compile(pattern)
    epochs = [float(epoch) for epoch, _ in points]
    fine = all(0 <= rate <= _FLOAT32 for _, rate in points)
  except (TypeError, ValueError, re.error):
    return False
  rising = all(a < b for a, b in itertools.pairwise([-1.0, *epochs, math.inf]))
  return fine and bool(epochs) and rising
