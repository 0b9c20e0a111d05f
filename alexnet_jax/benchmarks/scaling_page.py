"""The page of what TPUs would do, from rows of `tpu.compile_step`:
docs/scaling.md."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from alexnet_jax.analysis import communication
from alexnet_jax.benchmarks import results, tpu
from alexnet_jax.benchmarks.results import Row
from alexnet_jax.benchmarks.tpu import Roofline
from alexnet_jax.training.settings import Settings

# Bytes of a step written plainly, its gradients left to JAX: (1,1), 1,024.
NAIVE = 32.7e9
STRONG = 1024  # images of a step, however many chips
WEAK = 128  # images of a chip, however many: the paper's batch
# To spread a step: a tower on each chip, one weird trick, the batch only.
WAYS = ('towers', 'owt', 'data')
PICTURE = 'pictures/scaling.svg'  # beside the page
NOTE = 'v5e, bfloat16: compiled, not run; bounds'
Series = dict[str, list[tuple[int, float]]]
_SHAPES = {1: '2x2', 8: '2x4', 32: '4x8', 256: '16x16'}


class Point(NamedTuple):
  """One step to compile.

  Attributes:
    chips: how many of the topology.
    way: one of `WAYS`.
    batch: images of a step over all chips.
  """

  chips: int
  way: str
  batch: int

  @property
  def topology(self) -> str:
    return f'v5e:{_SHAPES[self.chips]}'

  @property
  def mesh(self) -> tuple[int, int]:
    return (self.chips, 1) if self.way == 'data' else (self.chips // 2, 2)

  @property
  def parallelism(self) -> str:
    return 'towers' if self.way == 'data' else self.way

  def apply(self, settings: Settings) -> Settings:
    """The settings of this step."""
    own = communication.on_mesh(settings, *self.mesh)
    mesh = dataclasses.replace(own.mesh, parallelism=self.parallelism)
    return dataclasses.replace(own, batch_size=self.batch, mesh=mesh)


# What tells most comes first: a run that is stopped goes on where it was.
POINTS = (
  Point(1, 'data', STRONG),
  Point(1, 'data', WEAK),
  *(Point(256, way, 256 * WEAK) for way in WAYS),
  *(Point(256, way, STRONG) for way in WAYS),
  *(Point(8, way, 8 * WEAK) for way in WAYS),  # 1,024: of both kinds
  *(Point(32, way, 32 * WEAK) for way in WAYS),
  *(Point(32, way, STRONG) for way in WAYS),
)


def missing_points(rows: Sequence[Row]) -> list[Point]:
  """The points that no row has."""
  return [point for point in POINTS if not _find_row(rows, point)]


def weak_rows(rows: Sequence[Row]) -> list[Row]:
  """Those with the same images a chip."""
  return _rows_at(rows, lambda point: point.batch == WEAK * point.chips)


def strong_rows(rows: Sequence[Row]) -> list[Row]:
  """Those with the same images over all chips."""
  return _rows_at(rows, lambda point: point.batch == STRONG)


def plotted_series(rows: Sequence[Row]) -> dict[str, Series]:
  """What `drawing.charts.throughput` draws."""
  return {
    title: {
      _name(name): sorted(
        (row['chips'], row['batch'] / Roofline.of(row).hidden)
        for row in some
        if way_of(row) == name or row['chips'] == 1
      )
      for name in WAYS
    }
    for title, some in (
      (f'{WEAK} images a chip', weak_rows(rows)),
      (f'{STRONG:,} images a step', strong_rows(rows)),
    )
  }


def way_of(row: Row) -> str:
  """Which of `WAYS` a row goes."""
  return row['parallelism'] if row['mesh'].endswith(',2') else 'data'


def crossing(split: Row, whole: Row) -> float:
  """Images a chip from which on splitting the network receives more bytes.

  Gradients do not grow with the batch, maps do.

  Args:
    split: a row with 'towers' or 'owt'.
    whole: one of the same chips that splits the batch only.
  """
  saved = whole['received']['parameters'] - split['received']['parameters']
  images = split['batch'] / split['chips']
  return saved / (split['received']['activations'] / images)


def format_page(text: str, rows: Sequence[Row], leads: Sequence[Row]) -> str:
  """docs/scaling.md, whose text is `text`, with its tables.

  Args:
    text: of the page.
    rows: of `tpu.compile_step` at `POINTS`, or some of them.
    leads: 'lead', 'gb', 'temporary_gb' and 'kept' of each lowering tried.
  """
  commits = ' and '.join(dict.fromkeys(row['commit'] for row in rows))
  bodies = {
    'made': f'Made with {rows[0]["versions"]}; commits {commits}.',
    'bytes': '\n\n'.join(_bytes(rows, leads)),
    'layers': _layers(rows),
    'chips': _figures(),
    'weak': tpu.format_rooflines(weak_rows(rows)),
    'strong': tpu.format_rooflines(strong_rows(rows)),
    'pays': '\n'.join(_verdict(rows)),
    'others': _others(rows),
  }
  for name, body in bodies.items():
    text = results.replace_part(text, name, body)
  return text


def _figures() -> str:
  return results.format_markdown(
    ('chip', 'bf16 TFLOP/s', 'memory, GB/s', 'links, GB/s'),
    (
      (name, *(f'{x / 1e9:,.0f}' for x in (c.flops / 1e3, c.memory, c.links)))
      for name, c in tpu.CHIPS.items()
    ),
  )


def _bytes(rows: Sequence[Row], leads: Sequence[Row]) -> Iterator[str]:
  if row := _find_row(rows, POINTS[0]):
    yield (
      f'One chip, {STRONG:,} images: {row["flops"] / 1e12:.2f} TFLOP and '
      f'{row["bytes"] / 1e9:.1f} GB, {row["bytes"] / STRONG / 1e6:.1f} MB an '
      f'image; {row["temporary"] / 1e9:.1f} GB of temporary memory. A plain '
      'step, its gradients left to JAX, takes 3.96 TFLOP, '
      f'{NAIVE / 1e9:.1f} GB and 3.9 GB: ours moves '
      f'{row["bytes"] / NAIVE:.0%} of that.'
    )
  if leads:
    fields = ('lead', 'gb', 'temporary_gb', 'kept')
    yield results.format_markdown(
      ('what was tried', 'GB a step', 'temporary, GB', 'kept'),
      ([lead.get(field, '') for field in fields] for lead in leads),
    )


def _layers(rows: Sequence[Row]) -> str:
  row = _find_row(rows, POINTS[0])
  if not row:
    return ''
  layers = row['layers']
  names = dict.fromkeys(name.partition(' ')[0] for name in layers)
  pairs = [
    (name, layers.get(name, 0), layers.get(f'{name} backward', 0))
    for name in names
  ]
  reach = sum(layers.values()) * STRONG / 1e3
  table = results.format_markdown(
    ('layer', 'forward', 'backward'),
    (
      (name, f'{forward:.2f}', f'{backward:.2f}')
      for name, forward, backward in sorted(pairs, key=lambda p: -p[1] - p[2])
    ),
  )
  return f'By it {reach:.1f} GB a step reach HBM.\n\n{table}'


def _verdict(rows: Sequence[Row]) -> Iterator[str]:
  most = [row for row in weak_rows(rows) if row['chips'] == max(_SHAPES)]
  pair = {way_of(row): row for row in most}
  if pair.keys() == {*WAYS}:
    for name in ('towers', 'owt'):
      split, whole = pair[name], pair['data']
      saved = whole['received']['parameters'] - split['received']['parameters']
      each = split['received']['activations'] * split['chips'] / split['batch']
      yield (
        f'{_name(name).capitalize()} saves a chip {saved / 1e6:.0f} MB of '
        f'gradients a step and costs it {each / 1e3:.0f} kB of maps and their '
        f'gradients an image: it receives less below '
        f'{crossing(split, whole):,.0f} images a chip, more above.'
      )


def _name(name: str) -> str:
  return f"'{name}'" if name != 'data' else 'the batch only'


def _others(rows: Sequence[Row]) -> str:
  row = _find_row(rows, POINTS[0])
  if not row:
    return ''
  times = {name: Roofline.of(row, name) for name in tpu.CHIPS}
  return results.format_markdown(
    ('chip', 'products, ms', 'memory, ms', 'binds', 'images/s at most'),
    (
      (
        *(name, f'{1e3 * time.products:.1f}', f'{1e3 * time.memory:.1f}'),
        *(time.binds, f'{row["batch"] / time.hidden:,.0f}'),
      )
      for name, time in times.items()
    ),
  )


def _find_row(rows: Sequence[Row], point: Point) -> Row | None:
  for row in rows:
    if (row['chips'], way_of(row), row['batch']) == tuple(point):
      return row
  return None


def _rows_at(rows: Sequence[Row], wanted) -> list[Row]:
  points = sorted(filter(wanted, POINTS), key=lambda p: (WAYS.index(p.way), p))
  found = [_find_row(rows, point) for point in points]
  return [row for row in found if row]
