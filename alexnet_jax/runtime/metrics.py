"""Loss and errors as sums with counts, which merge over batches and devices."""

import dataclasses
import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Metrics:
  """Sums over some examples. A pytree, so that `jax.lax.psum` merges it over
  devices as `+` does over batches."""

  loss: jax.Array  # float32 [], sum of cross-entropies in nats
  top1_errors: jax.Array  # int32 []
  top5_errors: jax.Array  # int32 []
  count: jax.Array  # int32 []

  @classmethod
  def of(
    cls, logits: jax.Array, labels: jax.Array, mask: jax.Array | None = None
  ) -> 'Metrics':
    """Measures a batch.

    An example is a top-k error unless its label is among the k largest
    logits, equal ones in the order of their classes (as `argmax` has it); an
    example with a NaN is an error.

    Args:
      logits: [B, C], or log-probabilities.
      labels: int [B].
      mask: bool [B], False for the padding of a batch. None counts all.
    """
    logits = logits.astype(jnp.float32)
    mask = jnp.ones(labels.shape, bool) if mask is None else mask
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    label_logits = jnp.take_along_axis(logits, labels[:, None], axis=1)
    classes = jnp.arange(logits.shape[1], dtype=labels.dtype)
    ahead = (logits > label_logits) | (
      (logits == label_logits) & (classes < labels[:, None])
    )
    rank = ahead.sum(axis=1, dtype=jnp.int32)  # [B]
    nan = jnp.isnan(logits).any(axis=1)

    def errors(k: int) -> jax.Array:
      wrong = (rank >= k) | nan
      return (mask & wrong).sum(dtype=jnp.int32)

    return cls(
      loss=jnp.where(mask, losses, 0.0).sum(),
      top1_errors=errors(1),
      top5_errors=errors(5),
      count=mask.sum(dtype=jnp.int32),
    )

  def __add__(self, other: 'Metrics') -> 'Metrics':
    return jax.tree.map(operator.add, self, other)

  def as_json(self) -> dict[str, Any]:
    """For a file; reads the devices."""
    sums = dataclasses.asdict(jax.device_get(self))
    return {name: value.item() for name, value in sums.items()}

  @classmethod
  def of_json(cls, fields: dict[str, Any]) -> 'Metrics':
    """What `as_json` was made of, to the bit, on the host.

    Raises:
      TypeError, ValueError: nothing that it gives.
    """
    sums: dict[str, Any] = {
      name: (np.float32 if name == 'loss' else np.int32)(x)
      for name, x in fields.items()
    }
    return cls(**sums)

  def compute(self) -> dict[str, float]:
    """Means over the examples: the loss in nats, the errors in 0..1."""
    sums = jax.device_get(self)
    count = int(sums.count)
    return {
      'loss': float(sums.loss) / count,
      'top1_error': int(sums.top1_errors) / count,
      'top5_error': int(sums.top5_errors) / count,
    }


def standard_error(share: float, count: int) -> float:
  """Of a share that was counted among `count` independent examples."""
  return math.sqrt(share * (1 - share) / count)


def format_error(share: float, count: int) -> str:
  """An error with its standard error, whose first two digits say how many
  digits count: '7.80 ± 0.85%'."""
  spread = 100 * standard_error(share, count)
  if not spread:  # the formula knows nothing of a share of 0 or 1
    return f'{share:.0%} ({round(share * count)} of {count:,})'
  digits = max(0, 1 - math.floor(math.log10(spread)))
  return f'{100 * share:.{digits}f} ± {spread:.{digits}f}%'


def prefix(split: str) -> str:
  """Of the names of an evaluation's metrics: 'train' is that of the batches
  that steps are made of, as the network was before each."""
  return 'train_split' if split == 'train' else split
