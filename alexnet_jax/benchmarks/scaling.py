"""The page of what TPUs would do, from rows of `tpu.run`: docs/scaling.md."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from alexnet_jax.benchmarks import tpu
from alexnet_jax.benchmarks.results import Row
from alexnet_jax.benchmarks.tpu import Roofline

# Bytes of a step written plainly, its gradients left to JAX: (1,1), 1,024.
NAIVE = 32.7e9
STRONG = 1024  # images of a step, however many chips
WEAK = 128  # images of a chip, however many: the paper's batch
WAYS = {
  'towers': 'a tower on each chip',
  'owt': 'one weird trick',
  'data': 'the batch only',
}
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


def missing(rows: Sequence[Row]) -> list[Point]:
  """The points that no row has."""
  return [point for point in POINTS if not _found(rows, point)]


def weak(rows: Sequence[Row]) -> list[Row]:
  """Those with the same images a chip."""
  return _of(rows, lambda point: point.batch == WEAK * point.chips)


def strong(rows: Sequence[Row]) -> list[Row]:
  """Those with the same images over all chips."""
  return _of(rows, lambda point: point.batch == STRONG)


def series(rows: Sequence[Row]) -> dict[str, Series]:
  """What `drawing.scaling.throughput` draws."""
  return {
    title: {
      _name(name): sorted(
        (row['chips'], row['batch'] / Roofline.of(row).hidden)
        for row in some
        if way(row) == name or row['chips'] == 1
      )
      for name in WAYS
    }
    for title, some in (
      (f'{WEAK} images a chip', weak(rows)),
      (f'{STRONG:,} images a step', strong(rows)),
    )
  }


def way(row: Row) -> str:
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


def page(rows: Sequence[Row], leads: Sequence[Row]) -> str:
  """docs/scaling.md.

  Args:
    rows: of `tpu.run` at `POINTS`, or some of them.
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
    tpu.table(weak(rows)),
    f'\nStrong scaling, {STRONG:,} images a step:\n',
    tpu.table(strong(rows)),
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
  lines = [
    '| chip | bf16 TFLOP/s | memory, GB/s | links, GB/s |',
    '|---|---|---|---|',
  ]
  for name, chip in tpu.CHIPS.items():
    rates = chip.flops / 1e12, chip.memory / 1e9, chip.links / 1e9
    lines.append(f'| {name} | {" | ".join(f"{x:,.0f}" for x in rates)} |')
  return '\n'.join(lines)


def _bytes(rows: Sequence[Row], leads: Sequence[Row]) -> Iterator[str]:
  row = _found(rows, POINTS[0])
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
    yield '| what was tried | GB a step | temporary, GB | kept |'
    yield '|---|---|---|---|'
    for lead in leads:
      memory = lead.get('temporary_gb', '')
      yield f'| {lead["lead"]} | {lead["gb"]} | {memory} | {lead["kept"]} |'
    yield ''
  if row:
    reach = sum(row['layers'].values()) * STRONG / 1e3
    yield _LAYERS.format(reach=reach)
    yield '| layer | forward | backward |'
    yield '|---|---|---|'
    names = dict.fromkeys(n.partition(' ')[0] for n in row['layers'])
    pairs = [
      (name, *(row['layers'].get(name + b, 0) for b in ('', ' backward')))
      for name in names
    ]
    for name, forward, backward in sorted(pairs, key=lambda p: -p[1] - p[2]):
      yield f'| {name} | {forward:.2f} | {backward:.2f} |'
    yield ''


def _verdict(rows: Sequence[Row]) -> Iterator[str]:
  for chips in sorted({row['chips'] for row in rows if row['chips'] > 1}):
    for kind, some in (('weak', weak(rows)), ('strong', strong(rows))):
      ways = {way(row): row for row in some if row['chips'] == chips}
      if ways.keys() != WAYS.keys():
        continue
      images = ways['data']['batch'] // chips
      yield f'* {chips} chips, {images} images each ({kind}): ' + '; '.join(
        f'{_name(name)} {_speed(row)}' for name, row in ways.items()
      )
  pair = {way(row): row for row in weak(rows) if row['chips'] == max(_SHAPES)}
  if pair.keys() == WAYS.keys():
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
  row = _found(rows, POINTS[0])
  if not row:
    return ''
  lines = [
    '| chip | products, ms | memory, ms | binds | images/s at most |',
    '|---|---|---|---|---|',
  ]
  for name in tpu.CHIPS:
    time = Roofline.of(row, name)
    lines.append(
      f'| {name} | {1e3 * time.products:.1f} | {1e3 * time.memory:.1f} | '
      f'{time.binds} | {row["batch"] / time.hidden:,.0f} |'
    )
  return '\n'.join(lines)


def _found(rows: Sequence[Row], point: Point) -> Row | None:
  for row in rows:
    if (row['chips'], way(row), row['batch']) == tuple(point):
      return row
  return None


def _of(rows: Sequence[Row], wanted) -> list[Row]:
  points = sorted(
    (p for p in POINTS if wanted(p)), key=lambda p: (list(WAYS).index(p.way), p)
  )
  found = [_found(rows, point) for point in points]
  return [row for row in found if row]
