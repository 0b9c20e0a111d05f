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


def format_page(rows: Sequence[Row], leads: Sequence[Row]) -> str:
  """docs/scaling.md.

  Args:
    rows: of `tpu.compile_step` at `POINTS`, or some of them.
    leads: 'lead', 'gb', 'temporary_gb' and 'kept' of each lowering tried.
  """
  parts = [
    _HEAD.format(
      versions=rows[0]['versions'],
      commits=' and '.join(dict.fromkeys(row['commit'] for row in rows)),
    ),
    '## Bytes\n',
    *_bytes(rows, leads),
    '## Chips\n',
    _MODEL,
    _figures(),
    f'\nWeak scaling, {WEAK} images a chip:\n',
    tpu.format_rooflines(weak_rows(rows)),
    f'\nStrong scaling, {STRONG:,} images a step:\n',
    tpu.format_rooflines(strong_rows(rows)),
    f'\n![Images per second by chips]({PICTURE})\n',
    '## Does the tower split pay?\n',
    *_verdict(rows),
    '\n## Other chips\n',
    _OTHERS,
    _others(rows),
  ]
  return '\n'.join(parts).rstrip() + '\n'


_HEAD = """# What TPUs would do

**Compiled, not run.** No TPU was here. Every number below is what libtpu's
compiler says of the real training step (`configs/imagenet2012.py`, bfloat16,
augmentation and update included), or arithmetic over it: bounds, not
measurements. `make tpu-report` makes this page of
`experiments/results/tpu.json`
({versions}; commits {commits}).

FLOPs and bytes are XLA's own (`cost_analysis`): of each fusion, what it reads
and writes, once; what stays inside a fusion is free, and what the compiler
keeps in the chip's vector memory between two of them is counted as if it went
to HBM. Of the kernels of our own (`kernels/pallas.py`), which XLA cannot see
into, it counts what they declare: each array they take or give, once.
"""

_MODEL = """The least time of a step is the longest of three: FLOPs at
the rate of the matrix units, bytes at that of the memory, bytes received from
other chips at that of all links, one direction each. This takes it that all
three go on at once and that a collective uses all links, which it cannot on a
part of a torus. Gradients are summed over chips in the dtype of the step, here
bfloat16: two bytes each. Figures of one chip, as published
(docs.cloud.google.com/tpu/docs; links: half of what is stated for both
directions):
"""

_OTHERS = """The counts of the v5e's program of one chip at the rates of
others: their own compiler would fuse a little otherwise.
"""


_LAYERS = """Where they go, MB an image: our own count over the same fusions,
without what is kept in vector memory. By it {reach:.1f} GB a step reach HBM.
What reads a part of an array counts the whole; a loop, such as that which cuts
views, all that it carries, in and out. XLA gives a convolution that one of our
kernels follows that kernel's name: "pool1" and "pool2" are conv1 and conv2,
too. "rest" is mostly copies between the two memories and parameters rounded to
bfloat16.
"""


def _figures() -> str:
  return results.format_markdown(
    ('chip', 'bf16 TFLOP/s', 'memory, GB/s', 'links, GB/s'),
    (
      (name, *(f'{x / 1e9:,.0f}' for x in (c.flops / 1e3, c.memory, c.links)))
      for name, c in tpu.CHIPS.items()
    ),
  )


def _bytes(rows: Sequence[Row], leads: Sequence[Row]) -> Iterator[str]:
  row = _find_row(rows, POINTS[0])
  if row:
    share = row['bytes'] / NAIVE
    memory = row['temporary'] / 1e9
    yield (
      f'One chip, {STRONG:,} images: {row["flops"] / 1e12:.2f} TFLOP and '
      f'{row["bytes"] / 1e9:.1f} GB, {row["bytes"] / STRONG / 1e6:.1f} MB an '
      f'image; {memory:.1f} GB of temporary memory. A plain step, its '
      'gradients left to JAX, takes 3.96 TFLOP, '
      f'{NAIVE / 1e9:.1f} GB and 3.9 GB: ours moves {share:.0%} of that.\n'
    )
  if leads:
    fields = ('lead', 'gb', 'temporary_gb', 'kept')
    yield results.format_markdown(
      ('what was tried', 'GB a step', 'temporary, GB', 'kept'),
      ([lead.get(field, '') for field in fields] for lead in leads),
    )
    yield ''
  if row:
    layers = row['layers']
    yield _LAYERS.format(reach=sum(layers.values()) * STRONG / 1e3)
    pairs = [
      (name, layers.get(name, 0), layers.get(f'{name} backward', 0))
      for name in dict.fromkeys(n.partition(' ')[0] for n in layers)
    ]
    yield results.format_markdown(
      ('layer', 'forward', 'backward'),
      (
        (name, f'{forward:.2f}', f'{backward:.2f}')
        for name, forward, backward in sorted(
          pairs, key=lambda pair: -pair[1] - pair[2]
        )
      ),
    )
    yield ''


def _verdict(rows: Sequence[Row]) -> Iterator[str]:
  for chips in sorted({row['chips'] for row in rows if row['chips'] > 1}):
    for kind, some in (
      ('weak', weak_rows(rows)),
      ('strong', strong_rows(rows)),
    ):
      ways = {way_of(row): row for row in some if row['chips'] == chips}
      if ways.keys() != {*WAYS}:
        continue
      images = ways['data']['batch'] // chips
      yield f'* {chips} chips, {images} images each ({kind}): ' + '; '.join(
        f'{_name(name)} {_speed(row)}' for name, row in ways.items()
      )
  most = [row for row in weak_rows(rows) if row['chips'] == max(_SHAPES)]
  pair = {way_of(row): row for row in most}
  if pair.keys() == {*WAYS}:
    yield ''
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


def _speed(row: Row) -> str:
  time = Roofline.of(row)
  return (
    f'{1e3 * time.hidden:.2f} ms ({time.binds}), or '
    f'{1e3 * time.waiting:.2f} if it waits for what it receives'
  )


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
