"""Durations such as '90 epochs', and whether an event is due at a step."""

import dataclasses
import math
import re
from fractions import Fraction

from alexnet_jax.runtime.errors import UserError


@dataclasses.dataclass(frozen=True)
class Duration:
  """A length of training, and the cadence of events that length apart.

  Arithmetic is exact, and nothing is measured in seconds: the steps at which
  a run logs, evaluates and saves do not depend on where it was interrupted.
  """

  length: Fraction  # in steps; zero is never
  in_epochs: bool = False  # as it was written

  @classmethod
  def parse(cls, text: str, batch_size: int, num_examples: int) -> 'Duration':
    """Reads '90 epochs', '0.5 epochs', '20 steps', or 'never' ('' as well).

    Args:
      text: the duration; an epoch is `num_examples` examples exactly, so
        that a batch may lie across the border of two.
      batch_size: examples in a step, over all devices.
      num_examples: examples in the training split.

    Raises:
      UserError: the text is none of these.
    """
    if text in ('', 'never'):
      return cls(Fraction(0))
    match = re.fullmatch(
      r'(\d{1,18})\s*steps?|(\d{1,18}(?:\.\d{1,18})?)\s*epochs?',
      str(text).strip(),
    )
    if match is None:
      raise UserError(
        f'{text!r} is not a duration: write a number with a unit, such as '
        "'90 epochs', '0.5 epochs' or '20 steps', or 'never'"
      )
    steps, epochs = match.groups()
    if steps is not None:
      return cls(Fraction(steps))
    return cls(Fraction(epochs) * num_examples / batch_size, in_epochs=True)

  @property
  def steps(self) -> int:
    """The first step at which this duration has passed; 0 for never."""
    return math.ceil(self.length)

  def falls_between(self, before: Fraction, after: Fraction) -> bool:
    """Whether a multiple of this duration is passed on the way.

    Args:
      before: in steps from the beginning, itself left out.
      after: likewise, itself included.
    """
    return bool(self.length) and after // self.length > before // self.length
