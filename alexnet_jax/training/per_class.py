"""Errors and confusions class by class: measured on the devices, as a table."""

import csv
import dataclasses
import io
import json
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from alexnet_jax.runtime.errors import printable
from alexnet_jax.runtime.files import explained, write_atomically
from alexnet_jax.runtime.metrics import Metrics

_SHOWN = 30  # classes on the terminal


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PerClass:
  """`Metrics` of each class, and what it was taken for."""

  classes: Metrics  # of arrays [C]
  confusions: jax.Array  # int32 [C, C]: how often i was taken for j

  @classmethod
  def of(
    cls, logits: jax.Array, labels: jax.Array, mask: jax.Array
  ) -> 'PerClass':
    """Measures a batch, as `Metrics.of` does."""
    each = jax.vmap(lambda *one: Metrics.of(*(x[None] for x in one)))(
      logits, labels, mask
    )  # of arrays [B]
    own = jax.nn.one_hot(labels, logits.shape[1], dtype=jnp.int32)  # [B, C]
    said = jax.nn.one_hot(logits.argmax(1), logits.shape[1], dtype=jnp.float32)
    counted = (own * each.count[:, None]).astype(jnp.float32)
    return cls(
      jax.tree.map(lambda x: (own.astype(x.dtype) * x[:, None]).sum(0), each),
      (counted.T @ said).astype(jnp.int32),  # exact: sums of 0 and 1
    )

  @property
  def count(self) -> jax.Array:
    return self.classes.count.sum()

  def __add__(self, other: 'PerClass') -> 'PerClass':
    return jax.tree.map(operator.add, self, other)

  def compute(self) -> dict[str, Any]:
    """As `Metrics.compute`, and 'per_class': this, on the host."""
    host = jax.device_get(self)
    total = jax.tree.map(np.sum, host.classes)
    return {**total.compute(), 'per_class': host}


def make_table(found: PerClass, names: Sequence[str]) -> list[dict[str, Any]]:
  """A row for each class that has pictures, the largest error first.

  Args:
    found: on the host.
    names: of the classes.

  Returns:
    Errors are fractions of 1, 'stderr' the standard error of 'top1_error';
    'taken_for' has {class: pictures} of the wrong ones, the most first.
  """
  rows = []
  sums = found.classes
  for k in np.flatnonzero(np.asarray(sums.count)).tolist():
    count = int(sums.count[k])
    error = int(sums.top1_errors[k]) / count
    others = np.array(found.confusions[k])
    others[k] = 0
    order = np.argsort(-others, kind='stable').tolist()
    rows.append(
      {
        'class': names[k],
        'pictures': count,
        'top1_error': error,
        'stderr': (error * (1 - error) / count) ** 0.5,
        'top5_error': int(sums.top5_errors[k]) / count,
        'loss': float(sums.loss[k]) / count,
        'taken_for': {names[j]: int(others[j]) for j in order if others[j]},
      }
    )
  return sorted(rows, key=lambda row: -row['top1_error'])


def write(
  path: epath.Path, rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any]
) -> None:
  """Prints a table, and writes it to PATH.csv and PATH.json.

  Args:
    path: without an ending.
    rows: of `make_table`.
    about: of what it is, for the JSON.
  """
  print('top-1 error  top-5 error  pictures  class: most often taken for')
  for row in rows[:_SHOWN]:
    print(
      f'{row["top1_error"]:6.1%} ±{row["stderr"]:5.1%}'
      f'{row["top5_error"]:11.1%}{row["pictures"]:10,}  '
      f'{printable(row["class"])}: '
      f'{_say(row["taken_for"], 3) or "–"}'
    )
  if len(rows) > _SHOWN:
    print(f'and {len(rows) - _SHOWN:,} classes with smaller errors')
  buffer = io.StringIO()
  writer = csv.DictWriter(buffer, list(rows[0]), lineterminator='\n')
  writer.writeheader()
  for row in rows:
    writer.writerow({**row, 'taken_for': _say(row['taken_for'])})
  files = {
    '.csv': buffer.getvalue(),
    '.json': json.dumps({**about, 'classes': list(rows)}, indent=1),
  }
  for ending, text in files.items():
    file = path.with_name(path.name + ending)
    with explained(file):
      write_atomically(file, text)
    print(f'{file} written', flush=True)


def _say(taken_for: Mapping[str, int], most: int | None = None) -> str:
  some = list(taken_for.items())[:most]
  return ', '.join(f'{printable(name)} {count:,}' for name, count in some)
