"""A user's mistake is one message, never a traceback."""

import re
import sys
import traceback
from collections.abc import Callable, Sequence

from absl import app, flags

ANY = sys.maxsize  # as many words as one likes


class UserError(ValueError):
  """Something the user can mend. The message says what was wrong, where, and
  what to do."""


def run(
  main: Callable[[Sequence[str]], int | None], words: int = 0, **kwargs
) -> None:
  """`absl.app.run(main)`, with a `UserError` as one message and exit code 2.

  So is anything that flags or the configuration file they name raise.

  Args:
    main: the program, called with the arguments that are not flags; its value
      is the exit code.
    words: how many of those it takes at most, after the program's name.
    **kwargs: passed on to `absl.app.run`.
  """

  def guarded(argv: Sequence[str]) -> int | None:
    try:
      if unexpected := argv[1 + words :]:
        raise UserError(
          f'unexpected arguments {" ".join(unexpected)!r}: '
          'every option starts with -- (see --help)'
        )
      return main(argv)
    except UserError as error:
      return refuse(all_of(error))

  def parse(argv: Sequence[str]) -> Sequence[str]:
    try:
      return flags.FLAGS(argv)
    except Exception as error:  # a configuration file is a program
      sys.exit(refuse(_explain(error)))

  app.run(guarded, flags_parser=parse, **kwargs)


def all_of(error: BaseException) -> str:
  """The messages of all `UserError`s that led to this one, the first one first.

  A disk that is full is found by a log, and then by the save that was under
  way when the log failed: `raise` alone would tell of the save.
  """
  messages: list[str] = []
  link: BaseException | None = error
  while link:
    if isinstance(link, UserError) and str(link) not in messages:
      messages.insert(0, str(link))
    # What one is raised `from`, it has in its own words.
    if isinstance(link.__cause__, UserError):
      link = link.__cause__
    link = link.__context__
  return '\nand then: '.join(messages)


def refuse(message: str) -> int:
  """Prints a user's mistake; returns the exit code."""
  print(f'error: {message}', file=sys.stderr)
  return 2


def _explain(error: BaseException) -> str:
  """What is wrong with the flags, or where in the configuration file."""
  place, cause = '', error
  link: BaseException | None = error
  while link:
    for frame in traceback.extract_tb(link.__traceback__):
      if frame.name in ('<module>', 'get_config'):
        place = f'{frame.filename}, line {frame.lineno}: '
        cause = link
    link = link.__context__
  # A locked configuration wraps a KeyError, whose text is quoted, in an
  # AttributeError, and lists every field there is before the nearest.
  while cause.args and isinstance(cause.args[0], Exception):
    cause = cause.args[0]
  text = str(cause)
  if isinstance(cause, KeyError):
    text = str(cause.args[0])
    place = place or 'the configuration has no such field: '
  text = re.sub(' Other fields present: "{.*}"', '', text, flags=re.DOTALL)
  return place + text
