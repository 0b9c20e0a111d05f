"""What Orbax says that this program has said, or will, in its own words."""

import logging as std_logging
import sys
from typing import Any

from absl import logging


def quieten() -> None:
  """From now on; called again it changes nothing."""
  logging.get_absl_logger().addFilter(_quiet)
  if sys.unraisablehook is sys.__unraisablehook__:
    sys.unraisablehook = _quiet_hook


def _quiet(record: std_logging.LogRecord) -> bool:
  """Shows Orbax's warnings only; its failures are raised, so told already."""
  if '/orbax/checkpoint/' not in record.pathname:
    return True
  return record.levelno >= std_logging.WARNING and not record.exc_info


def _quiet_hook(unraisable: Any) -> None:
  """Says nothing of writes that fail after the first, which Orbax raises: it
  has closed the loop that Tensorstore's threads then want to tell."""
  if str(unraisable.exc_value) != 'Event loop is closed':
    sys.__unraisablehook__(unraisable)
