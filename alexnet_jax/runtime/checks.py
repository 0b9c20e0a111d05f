"""Parts of the configuration as dataclasses that check themselves, and refuse
in the user's own terms."""

import typing
from typing import Any, NamedTuple

from alexnet_jax.runtime.errors import UserError

FLOAT32 = 3e38  # about the largest
MANY = 1_000_000


class Range(NamedTuple):
  """Of a number: `Annotated[int, Range(0, 10)]`. NaN is in none."""

  least: float
  most: float


class Choice(NamedTuple):
  """Of a name: `Annotated[str, choice('up', 'down')]`."""

  names: tuple[str, ...]


def choice(*names: str) -> Choice:
  """One of these names."""
  return Choice(names)


class Checked:
  """A frozen dataclass whose annotated fields are checked when it is made.

  Subclasses say which part of the configuration they are: `class Pool(Checked,
  part='model.pool')`, or `part='model.{name}'`, {name} being a field.
  """

  _part = ''

  def __init_subclass__(cls, part: str = '', **kwargs: Any):
    super().__init_subclass__(**kwargs)
    cls._part = part

  @property
  def part(self) -> str:
    """Of the configuration; '' for the whole."""
    return self._part.format_map(vars(self))

  def __post_init__(self) -> None:
    """Raises `UserError` for the first field that has no such value."""
    hints = typing.get_type_hints(type(self), include_extras=True)
    for name, hint in hints.items():
      for rule in getattr(hint, '__metadata__', ()):
        check(f'{self.part}.{name}'.lstrip('.'), getattr(self, name), rule)


def check(field: str, value: Any, rule: Range | Choice) -> None:
  """Refuses a value of a field.

  Args:
    field: as the user writes it, without 'config.': 'model.lrn.size'.
    value: of the field.
    rule: what it may be.

  Raises:
    UserError: it is not.
  """
  if isinstance(rule, Choice) and value not in rule.names:
    raise UserError(
      f'config.{field} is one of {sorted(rule.names)}, not {value!r}'
    )
  if isinstance(rule, Range) and not rule.least <= value <= rule.most:
    raise UserError(
      f'config.{field}={value} is not in {rule.least} to {rule.most}'
    )
