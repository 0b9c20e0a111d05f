"""A user's mistake is one message, never a traceback."""

import sys
from collections.abc import Callable, Sequence

from absl import app


class UserError(ValueError):
  """Something the user can mend. The message says what was wrong, where, and
  what to do."""


def run(main: Callable[[Sequence[str]], int | None], **kwargs) -> None:
  """`absl.app.run(main)`, with a `UserError` as one message and exit code 2.

  Args:
    main: the program, called with the arguments that are not flags; its value
      is the exit code.
    **kwargs: passed on to `absl.app.run`.
  """

  def guarded(argv: Sequence[str]) -> int | None:
    try:
      if len(argv) > 1:
        raise UserError(
          f'unexpected arguments {" ".join(argv[1:])!r}: '
          'every option starts with -- (see --help)'
        )
      return main(argv)
    except UserError as error:
      print(f'error: {error}', file=sys.stderr)
      return 2

  app.run(guarded, **kwargs)
