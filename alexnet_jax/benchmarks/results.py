"""Rows of results: a row is one contender, flat, with all it was made with."""

import csv
import io
import itertools
import json
from collections.abc import Iterable, Sequence
from typing import Any

from etils import epath

from alexnet_jax.runtime.errors import UserError
from alexnet_jax.runtime.files import explained, write_atomically

Row = dict[str, Any]


def describe_row(row: Row) -> str:
  """What a row was made with, in a line."""
  return (
    f'{row["machine"]}, {row["cores"]} cores; {row["versions"]}; commit '
    f'{row["commit"] or "unknown"}; {row["repeats"]} repeats: median '
    '(least-most)'
  )


def format_spread(row: Row, field: str, digits: int = 1) -> str:
  """'13.2 (12.9-13.4)'."""
  values = [row[field], row[f'{field}_low'], row[f'{field}_high']]
  median, low, high = (f'{value:.{digits}f}' for value in values)
  return f'{median} ({low}-{high})'


def format_markdown(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
  """A table of Markdown."""
  lines = [f'| {" | ".join(head)} |', '|' + '---|' * len(head)]
  lines += [f'| {" | ".join(map(str, cells))} |' for cells in rows]
  return '\n'.join(lines)


def write_json(path: str, rows: Sequence[Row]) -> None:
  """A list of rows.

  Raises:
    UserError: the file cannot be written.
  """
  with explained(path):
    write_atomically(epath.Path(path), json.dumps(rows, indent=1) + '\n')


def read_json(path: epath.PathLike) -> list[Row]:
  """The rows of `write_json`.

  Raises:
    UserError: the file cannot be read, or is another.
  """
  with explained(path):
    text = epath.Path(path).read_text()
  try:
    rows = json.loads(text)
  except ValueError as error:
    raise UserError(f'{path} has no rows of results: {error}') from error
  return rows


def append_csv(path: str, rows: Sequence[Row]) -> None:
  """Adds rows to a table, which gets the columns it lacks.

  Raises:
    UserError: the file cannot be read or written.
  """
  with explained(path):
    file = epath.Path(path)
    rows = [*(read_csv(file) if file.exists() else []), *rows]
    columns = list(dict.fromkeys(itertools.chain.from_iterable(rows)))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval='', lineterminator='\n')
    writer.writeheader()
    writer.writerows({k: _short(v) for k, v in row.items()} for row in rows)
    write_atomically(file, text.getvalue())


def read_csv(path: epath.PathLike) -> list[dict[str, str]]:
  """The rows of `append_csv`, without what is empty in them."""
  with epath.Path(path).open() as file:
    return [{k: v for k, v in r.items() if v} for r in csv.DictReader(file)]


def _short(value: Any) -> Any:
  return f'{value:.5g}' if isinstance(value, float) else value
