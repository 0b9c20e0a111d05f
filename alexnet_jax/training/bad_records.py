"""How many damaged training records a run has gone on past."""

from collections.abc import Callable, Sequence

import jax
import numpy as np
from absl import logging

from alexnet_jax.runtime import distributed
from alexnet_jax.runtime.errors import UserError


class BadRecords:
  """The records that others stood in for, distinct ones of all processes.

  Each process meets those among its own rows. All of them call `unite` after
  the same steps, so that all know the same set and go on or stop alike.
  """

  def __init__(self, limit: int, files: Callable[[Sequence[int]], list[str]]):
    """None so far.

    Args:
      limit: `config.data.max_bad_records`.
      files: the names of the files of training pictures.
    """
    self.indices: set[int] = set()
    self._limit, self._files = limit, files
    self._met: set[int] = set()  # here, since the last union

  def meet(self, replaced: np.ndarray) -> None:
    """Notes those of a batch of this process, int32 [n]; -1 stands for none.

    Raises:
      UserError: as `unite`, at once in a run of one process.
    """
    self._met |= set(replaced[replaced >= 0].tolist())
    if jax.process_count() == 1:
      self.unite()

  def unite(self) -> None:
    """Adds what any process has met, and warns of what is new.

    Raises:
      UserError: they are more than the limit, in every process.
    """
    met = distributed.union(self._met) if self._limit else set()
    new = sorted(met - self.indices)
    self.indices.update(new)
    self._met.clear()
    if len(self.indices) > self._limit:
      raise UserError(
        f'examples {sorted(self.indices)} of train are damaged, more than '
        f'config.data.max_bad_records={self._limit} '
        f'({self._call(sorted(self.indices))}): raise it, or prepare the data '
        'set anew with --overwrite'
      )
    if new:
      logging.warning(
        'examples %s of train are damaged (%s): the next good ones stand in',
        *(new, self._call(new)),
      )

  def _call(self, indices: Sequence[int]) -> str:
    try:
      return ', '.join(self._files(indices))
    except (
      UserError
    ) as error:  # no reason to stop, where one bad record is none
      return str(error)
