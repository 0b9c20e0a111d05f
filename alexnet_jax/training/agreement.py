"""What a trained network and what is asked of it must have alike: the views of
pictures, and the classes."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training.settings import flat
from alexnet_jax.training.views import PREPROCESSING

VIEWS = tuple(f'augment.{name}' for name in PREPROCESSING)


def check_overrides(
  source: object,
  own: Mapping[str, Any],
  overrides: Mapping[str, Any],
  fixed: tuple[str, ...] = VIEWS,
) -> None:
  """Refuses other values of fields, named as `fixed` begins, than those that
  the network of `source` was trained with."""
  before = flat(own)
  for field, value in flat(overrides).items():
    if field.startswith(fixed) and before.get(field) != value:
      raise UserError(
        f'config.{field}={value!r}, but the network of {source} was trained '
        f'with {before.get(field)!r}: leave this out'
      )


def with_views(
  source: object,
  own: Mapping[str, Any],
  config: ConfigDict,
  overrides: Mapping[str, Any],
) -> ConfigDict:
  """`config` with the views of pictures that the network of `source` was
  trained with, by its own configuration. Says what it takes.

  Raises:
    UserError: the user gave another by name, in `overrides`.
  """
  check_overrides(source, own, overrides)
  config, before = config.copy_and_resolve_references(), config.augment
  try:
    config.augment.update(
      {name: own['augment'][name] for name in PREPROCESSING}
    )
  except (KeyError, TypeError) as error:  # of a damaged file
    raise UserError(f'{source} does not say its views: {error}') from error
  for name in PREPROCESSING:
    if config.augment[name] != before[name]:
      logging.warning(
        'augment.%s is %r here, as the network of %s was trained, not %r',
        *(name, config.augment[name], source, before[name]),
      )
  return config


def check_classes(
  source: object, theirs: Sequence[str], ours: Sequence[str], trained: bool
) -> None:
  """Refuses a network whose outputs mean other classes than the data set's.

  An imported network may have numbers in place of names, for other programs'
  files hold none. Then only how many there are is compared, with a warning.

  Args:
    source: of the network, for the message.
    theirs: the classes of its outputs, in order.
    ours: the data set's.
    trained: it was trained here, so that its names are those of a data set.

  Raises:
    UserError: they differ.
  """
  theirs, ours = list(theirs), list(ours)
  if theirs == ours:
    return
  if not trained and theirs == list(map(str, range(len(ours)))):
    logging.warning(
      'the classes of %s have no names: they are taken in the order of the '
      'data set',
      source,
    )
    return
  pairs = itertools.zip_longest(theirs, ours)
  first = next(i for i, (a, b) in enumerate(pairs) if a != b)

  def show(names: list[str]) -> str:
    some = ', '.join(map(repr, names[first : first + 3]))
    more = ', ...' if names[first + 3 :] else ''
    return f'{some or "none"}{more} ({len(names)} classes in all)'

  raise UserError(
    f'the data set has other classes than {source}: from number {first} on '
    f'{show(ours)} here, and {show(theirs)} in {source}. Prepare the data set '
    'with the same classes, or choose another --workdir'
  )
