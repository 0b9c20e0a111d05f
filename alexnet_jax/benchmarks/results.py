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


# Fields of a row that people are shown: a title, and in what unit.
_SHOWN = {
  'start_seconds': ('s to the first step', 1),
  'images_per_sec': ('images/s', 1),
  'images_per_sec_per_core': ('images/s a core', 1),
  'waiting': ('share waiting', 1),
  'gflops': ('GFLOP/s', 1),
  'gemm_gflops': ('GFLOP/s of matrices', 1),
  'forward_seconds': ('forward, ms', 1e3),
  'plain_forward_seconds': ('plain, ms', 1e3),
  'backward_seconds': ('backward, ms', 1e3),
  'update_seconds': ('update, ms', 1e3),
  'training_seconds': ('training, ms', 1e3),
  'plain_training_seconds': ('plain, ms', 1e3),
  'training_gflops': ('GFLOP/s in training', 1),
  'compile_seconds': ('compiling, s', 1),
  'peak_memory_gb': ('GB at most', 1),
  'times_torch': ('times PyTorch', 1),
  'times_torch_compile': ('times torch.compile', 1),
}
_ABOUT = ('data', 'batch', 'width', 'lrn', 'dtype', 'precision', 'workers')


def format_rows(rows: Sequence[Row]) -> str:
  """Rows of one kind of measurement, for people to read, as Markdown: what
  they were made with, and the median, the least and the most of each field."""
  first = rows[0]
  about = (f'{name} {first[name]}' for name in _ABOUT if name in first)
  fields = [name for name in _SHOWN if any(name in row for row in rows)]
  table = format_markdown(
    ('', *(_SHOWN[name][0] for name in fields)),
    (
      [
        row['name'],
        *(_cell(row, name) if name in row else '' for name in fields),
      ]
      for row in rows
    ),
  )
  return (
    f'{first["machine"]}, {first["cores"]} cores; {first["versions"]}; commit '
    f'{first["commit"] or "unknown"}; {first["repeats"]} repeats: median '
    f'(least-most)\n{", ".join(about)}\n\n{table}'
  )


def _cell(row: Row, field: str) -> str:
  """'13.2 (12.9-13.4)'."""
  names = (f'{field}{end}' for end in ('', '_low', '_high'))
  values = [row[name] * _SHOWN[field][1] for name in names if name in row]
  median, *spread = (f'{x:,.0f}' if x >= 1e3 else f'{x:.3g}' for x in values)
  return f'{median} ({"-".join(spread)})' if spread else median


def format_markdown(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
  """A table of Markdown."""
  lines = [f'| {" | ".join(head)} |', '|' + '---|' * len(head)]
  lines += [f'| {" | ".join(map(str, cells))} |' for cells in rows]
  return '\n'.join(lines)


def replace_part(text: str, name: str, body: str) -> str:
  """A page with another body between `<!-- name -->` and `<!-- /name -->`.

  Raises:
    ValueError: the page does not have both marks, once each and in this order.
  """
  begin, end = f'<!-- {name} -->', f'<!-- /{name} -->'
  before, *rest = text.split(begin)
  after = rest[0].split(end)[1:] if len(rest) == 1 else []
  if len(after) != 1:
    raise ValueError(f'the page needs {begin} once, and {end} once after it')
  return f'{before}{begin}\n\n{body.strip()}\n\n{end}{after[0]}'


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
