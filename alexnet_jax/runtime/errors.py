"""A user's mistake is one message, never a traceback."""

import contextlib
import io
import logging as std_logging
import os
import re
import select
import sys
import traceback
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TextIO

from absl import app, flags, logging

from alexnet_jax.runtime import options

ANY = sys.maxsize  # as many words as one likes
HUNG_UP, INTERRUPTED = 141, 130  # a shell's exit codes for SIGPIPE, SIGINT
_PACKAGE = os.path.dirname(os.path.dirname(__file__)) + os.sep


class UserError(ValueError):
  """Something the user can mend. The message says what was wrong, where, and
  what to do."""


@contextlib.contextmanager
def of_memory() -> Iterator[None]:
  """Says what to do where a device has too little memory.

  Raises:
    UserError: in place of XLA's error, which names no setting.
  """
  try:
    yield
  except Exception as error:  # JAX's, which is not loaded here to be named
    found = re.search('RESOURCE_EXHAUSTED.*', str(error))
    if not found or not type(error).__module__.startswith('jax'):
      raise  # buckets use the word, too
    raise UserError(
      'the device has too little memory. Take fewer images at a time '
      '(config.batch_size, config.evals.batch_size; with config.accumulate=N a '
      'step takes its images in N parts, one after the other), or stop what '
      f'else uses the device (nvidia-smi). {found.group()}'
    ) from error


def run(
  main: Callable[[Sequence[str]], int | None],
  words: int = 0,
  synonyms: Mapping[str, str] | None = None,
) -> None:
  """`absl.app.run(main)`, with a `UserError` as one message and exit code 2.

  So is anything that flags or the configuration file they name raise, a device
  that JAX_PLATFORMS asks for and the machine lacks, and one with too little
  memory. Ctrl-C, where the program does not make more of it, is a word. Text
  that the terminal has no letters for is escaped. Where nobody reads the output
  any more (`| head`), the program ends without a word. `~` is the home folder
  in --flag=~/FOLDER, too, where most shells leave it as it is.

  Args:
    main: the program, called with the arguments that are not flags; its value
      is the exit code.
    words: how many of those it takes at most, after the program's name.
    synonyms: what users may call fields of the configuration, for the message
      on an option that there is not.
  """

  def guarded(argv: Sequence[str]) -> int | None:
    logging.set_verbosity(logging.WARNING)  # libraries tell much
    try:
      if unexpected := argv[1 + words :]:
        raise UserError(
          f'unexpected arguments {" ".join(unexpected)!r}: '
          'every option starts with -- (see --help)'
        )
      with of_memory():
        return main(argv)
    except UserError as error:
      return refuse(all_of(error))
    except KeyboardInterrupt:
      print('stopped', file=sys.stderr)
      return INTERRUPTED
    except Exception as error:  # JAX's, of several kinds; others are raised
      if not _is_of_a_backend(error):
        raise
      platforms = os.environ.get('JAX_PLATFORMS', '')
      reason = str(error).partition('\n')[0] or 'there is none of these here'
      return refuse(
        f'JAX finds no device to compute on (JAX_PLATFORMS={platforms}): '
        f'{reason}'
      )

  def parse(argv: Sequence[str]) -> Sequence[str]:
    try:
      return flags.FLAGS([*argv[:1], *map(_at_home, argv[1:])])
    except Exception as error:  # a configuration file is a program
      unknown = options.explain(argv, error, synonyms or {})
      sys.exit(refuse(unknown or _explain(error)))

  logging.get_absl_handler().setFormatter(_Plain())
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors='backslashreplace')
  with hanging_up():
    app.run(guarded, flags_parser=parse)


class _Plain(std_logging.Formatter):
  """'warning: ...', where absl has the time, the thread and the file before."""

  def format(self, record: std_logging.LogRecord) -> str:
    return f'{record.levelname.lower()}: {super().format(record)}'


def printable(text: object) -> str:
  """Text on one line: line breaks, control characters and bytes that are no
  text are escaped."""
  return ''.join(
    c.encode('unicode_escape').decode()
    if unicodedata.category(c) in ('Cc', 'Cs', 'Zl', 'Zp')
    else c
    for c in str(text)
  )


def parse_no_flags() -> None:
  """Lets libraries read absl's flags in a program that has not parsed any."""
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()


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


def refuse_flags(names: Iterable[str], why: str) -> None:
  """Refuses flags that the user gave and that nothing would look at.

  Args:
    names: of the flags.
    why: they are not used, for the message.
  """
  if given := [f'--{name}' for name in names if flags.FLAGS[name].present]:
    raise UserError(f'{" ".join(given)} would not be used: {why}')


def _at_home(word: str) -> str:
  """--flag=~/folder with the home folder in it."""
  flag, equals, value = word.partition('=')
  if flag.startswith('--') and value.startswith('~'):
    return flag + equals + os.path.expanduser(value)
  return word


@contextlib.contextmanager
def hanging_up() -> Iterator[None]:
  """Ends the program where nobody reads what it prints any more."""
  try:
    try:
      yield
    finally:
      sys.stdout.flush()
  except BrokenPipeError:
    closed = [s for s in (sys.stdout, sys.stderr) if _is_closed(s)]
    if not closed:
      raise
    for stream in closed:  # what is still to be written goes nowhere
      os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(HUNG_UP)


def _is_closed(stream: TextIO) -> bool:
  poll = select.poll()
  poll.register(stream, select.POLLOUT)
  return any(events & select.POLLERR for _, events in poll.poll(0))


def _is_of_a_backend(error: Exception) -> bool:
  """Whether JAX found none of the devices that it was asked for."""
  frames = traceback.extract_tb(error.__traceback__)
  return any(
    frame.name == 'backends' and frame.filename.endswith('xla_bridge.py')
    for frame in frames
  )


def _explain(error: BaseException) -> str:
  """What is wrong with the flags, or where in the configuration file."""
  place, cause = '', error
  link: BaseException | None = error
  while link:
    for frame in traceback.extract_tb(link.__traceback__):
      if frame.name in ('<module>', 'get_config'):
        # The package's own configuration, of a run, says itself what is wrong.
        own = frame.filename.startswith(_PACKAGE)
        place = '' if own else f'{frame.filename}, line {frame.lineno}: '
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
  if missing := re.search('Flag (--.*) must have a value other than', text):
    return f'{missing[1]} is missing (see --help)'
  text = re.sub(' Other fields present: "{.*}"', '', text, flags=re.DOTALL)
  return place + text
