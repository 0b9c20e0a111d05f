"""What one or several runs have learned, as one page."""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from alexnet_jax.analysis import examples, measures, pictures
from alexnet_jax.data.builders import Dataset
from alexnet_jax.drawing import canvas, charts, page, panels
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training import settings

# Errors in percent, ten views, ILSVRC-2012 validation: the paper's table 2,
# and the runs of the authors' program that it is of.
PAPER = (
  ('1 network (#145)', 40.7, 18.2),
  ('without response normalization (#148)', 42.034, 19.362),
  ('pooling without overlap (#147)', 41.058, 18.510),
  ('towers that do not talk (#150)', 41.828, 19.330),
  ('5 networks averaged', 38.1, 16.4),
  ('7 networks, two of them pre-trained', 36.7, 15.4),
)
_TOP, _CARDS, _QUERIES, _NEIGHBOURS = 5, 12, 6, 5
_CLASSES, _EACH = 10, 4  # of the hardest photographs
_PAIRS = 20  # the most frequent confusions, where there are many classes


@dataclasses.dataclass(frozen=True)
class Run:
  """A run to report on.

  Attributes:
    name: short.
    rows: of its metrics.jsonl.
    meta: of its checkpoint: config, environment.
    model: of `alexnet_jax.load`.
    open_data: opens its data set.
  """

  name: str
  rows: charts.Rows
  meta: Mapping[str, Any]
  model: Any
  open_data: Callable[[], Dataset]


def make_report(runs: Sequence[Run], photographs: int, gallery: int) -> str:
  """The page, HTML.

  Args:
    runs: the first one's pictures are shown; curves and errors of all.
    photographs: of the evaluation split, to predict, at most.
    gallery: training photographs to look for neighbours among, at most.
  """
  first, config = runs[0], runs[0].model.config
  names = ', '.join(run.name for run in runs)
  rows = {run.name: run.rows for run in runs}
  env = first.meta['environment']
  shown = _Shown(first, photographs)
  parts = [
    f'<h1>{page.text(names)}</h1>',
    page.paragraph(
      f'alexnet_jax {env["alexnet_jax"]}, commit {env["commit"] or "unknown"}, '
      f'jax {env["jax"]}, {len(env["devices"])} x {env["devices"][0]}, seed '
      f'{config.seed}. Pictures below: {first.name}, the network of '
      f'{first.model.stage}.',
      faint=True,
    ),
    page.heading('Errors'),
    *_errors(runs, shown),
    page.heading('Curves'),
    page.group(
      'side',
      (
        page.chart(charts.curves(rows, {quantity: title}), title)
        for quantity, title in charts.QUANTITIES.items()
      ),
    ),
    page.heading('Kernels of conv1 (figure 3)'),
  ]
  for run in runs:
    mosaic = pictures.conv1_kernels(run.model.params)
    parts += [page.paragraph(run.name, faint=True)] * (len(runs) > 1)
    fig = panels.kernels(mosaic, run.model.table.towers)
    parts.append(page.chart(fig, 'kernels of conv1'))
  if shown.missing:
    parts.append(page.heading('What is missing'))
    parts.append(page.paragraph(f'{shown.missing}.'))
  else:
    parts += _photographs(shown, gallery)
  health = [
    page.chart(drawn, title)
    for kind, title in charts.HEALTH.items()
    if (drawn := charts.by_layer(rows, kind, title))
  ]
  if health:
    parts += [page.heading('Health'), page.group('side', health)]
  parts += [page.heading('Configuration'), *_configuration(runs)]
  return page.document(names, parts)


class _Shown:
  """The photographs of the first run's data set, and what it says of them.

  Attributes:
    missing: why there are none: the data set may be on another machine.
  """

  def __init__(self, run: Run, most: int):
    self.run, self.missing = run, ''
    evals = run.model.config.evals
    self.split = evals.final_split or evals.split
    try:
      self.dataset = run.open_data()
      self.places = examples.spread_indices(self.dataset, self.split, most)
      self.found = examples.judge(
        run.model, self.dataset, self.split, self.places
      )
    except UserError as error:
      self.missing = str(error)

  @property
  def whole(self) -> bool:
    return len(self.places) == self.dataset.num_examples(self.split)


def _errors(runs: Sequence[Run], shown: _Shown) -> Iterator[str]:
  rows = []
  for run in runs:
    for split in ('validation', 'validation_ema', 'test', 'test_ema'):
      key = f'{split}/top1_error'
      found = [row for row in run.rows if key in row]
      if not found:
        continue
      best, last = min(found, key=lambda row: row[key]), found[-1]
      which = {'last': last} if best is last else {'best': best, 'last': last}
      for word, row in which.items():
        values = {k: row[f'{split}/{k}'] for k in _VALUES}
        name = f'{run.name}, {split.replace("_ema", " averaged")}, {word}'
        rows.append(((name, f'{row["epoch"]:.1f}', *_numbers(values)), ''))
  if not shown.missing:
    stage = shown.run.model.stage
    name = f'{shown.run.name}, {shown.split}, {stage}, now'
    if not shown.whole:
      name += f': {len(shown.places):,} photographs'
    numbers = _numbers(shown.found.summary())
    if all(cells[2:] != (*numbers,) for cells, _ in rows):
      rows.append(((name, '–', *numbers), ''))
  if any(_is_imagenet(run) for run in runs):
    rows += [
      ((f'2012: {what}', '–', f'{one:.1f} %', f'{five:.1f} %', '–'), 'old')
      for what, one, five in PAPER
    ]
  yield page.table(('run', 'epoch', 'top-1', 'top-5', 'loss'), rows, True)
  for run in runs:
    data, classes = run.model.config.data.name, len(run.model.class_names)
    yield page.paragraph(
      f'{run.name}: {data}, {classes:,} classes, one central view.'
      + ' Those of 2012: ten views, after 90 epochs.' * _is_imagenet(run),
      faint=True,
    )


_VALUES = ('top1_error', 'top5_error', 'loss')


def _numbers(values: Mapping[str, float]) -> list[str]:
  errors = [f'{100 * values[f"top{k}_error"]:.1f} %' for k in (1, 5)]
  return [*errors, f'{values["loss"]:.3f}']


def _is_imagenet(run: Run) -> bool:
  """Whether the classes are those of ILSVRC-2012, by WordNet's numbers."""
  names = run.model.class_names
  return len(names) == 1000 and all(re.fullmatch(r'n\d{8}', n) for n in names)


def _photographs(shown: _Shown, gallery: int) -> Iterator[str]:
  model, split, places = shown.run.model, shown.split, shown.places
  step = max(1, len(places) // _CARDS)
  some = examples.read_examples(shown.dataset, split, places[::step][:_CARDS])
  yield page.heading('Predictions (figure 4, left)')
  yield page.paragraph(
    f'Photographs of {split}, one central view; below each its class, its '
    'file, and the most probable classes: the right one in blue, a first guess '
    'that is wrong in red.',
    faint=True,
  )
  found = examples.in_one_program(model.predict, some.images)
  cards = zip(*some, found, strict=True)
  names = model.short_names
  yield page.group('cards', (_card(*one, names) for one in cards))
  yield from _confusions(shown)
  yield from _hardest(shown)
  yield from _neighbours(shown, some, gallery)


def _card(
  image: np.ndarray,
  label: int,
  file: str,
  probabilities: np.ndarray,
  names: Sequence[str],
) -> str:
  order = np.argsort(-probabilities, kind='stable')[:_TOP].tolist()
  shares = [
    (
      names[k],
      float(probabilities[k]),
      'right' if k == label else 'wrong' if k == order[0] else '',
    )
    for k in order
  ]
  small = canvas.thumbnail(image)
  return page.figure(small, names[label], file, page.bars(shares))


def _confusions(shown: _Shown) -> Iterator[str]:
  names, found = shown.run.model.readable_names, shown.found
  total = shown.dataset.num_examples(shown.split)
  yield page.heading('What is taken for what')
  part = 'All' if shown.whole else f'{len(shown.places):,} of the'
  more = (
    ''
    if shown.whole
    else (', spread evenly over them: `report --photographs` takes more')
  )
  yield page.paragraph(
    f'{part} {total:,} photographs of {shown.split}{more}. '
    f'{(found.rank > 0).mean():.1%} of them are wrong, as in the table above.',
    faint=True,
  )
  counts = measures.count_confusions(found.labels, found.predicted, len(names))
  short = shown.run.model.short_names
  yield page.chart(charts.confusion(counts, short), 'confusion')
  if len(names) > charts.MOST_CLASSES:
    np.fill_diagonal(counts, 0)
    pairs = np.argsort(-counts, axis=None, kind='stable')[:_PAIRS]
    lines = [
      ((names[i], names[j], f'{counts[i, j]:,}'), '')
      for i, j in zip(*np.unravel_index(pairs, counts.shape), strict=True)
      if counts[i, j]
    ]
    yield page.table(('class', 'taken for', 'photographs'), lines)


def _hardest(shown: _Shown) -> Iterator[str]:
  worst = examples.hardest(
    shown.dataset, shown.split, shown.found, shown.places, _CLASSES, _EACH
  )
  yield page.heading('Most wrong and least sure')
  yield page.paragraph(
    f'Of the {len(worst)} classes with the largest errors, the worst first: '
    'first the photographs whose class has the least probability, then those '
    'whose first guess has; below each the guess. `figures losses` shows more.',
    faint=True,
  )
  for one in worst:
    yield page.paragraph(f'{one.name}: {one.wrong:,} of {one.count:,} wrong')
    yield page.group(
      'side',
      (_cases(one.name, one.most_wrong), _cases(one.name, one.least_sure)),
    )


def _cases(name: str, cases: Sequence[examples.Case]) -> str:
  return page.group(
    'row',
    (
      page.figure(
        canvas.thumbnail(case.image, 112),
        f'{case.said} {case.share:.0%}',
        case.file,
        style='same' if case.said == name else 'other',
      )
      for case in cases
    ),
  )


def _neighbours(
  shown: _Shown, some: examples.Examples, gallery: int
) -> Iterator[str]:
  dataset, model = shown.dataset, shown.run.model
  # What the classes are read from: fc7, or as in CIFAR-10's nets, maps.
  layer = (*model.table.convs, *model.table.denses)[-1].name
  features = functools.partial(model.features, layer=layer)
  places = examples.spread_indices(dataset, 'train', gallery)
  vectors = (
    examples.in_one_program(features, images)
    for images, *_ in examples.read_batches(dataset, 'train', places)
  )
  queries = list(zip(*some, strict=True))[::2][:_QUERIES]
  wanted = examples.in_one_program(features, [image for image, *_ in queries])
  distances, nearest = measures.find_nearest(
    wanted, vectors, min(_NEIGHBOURS, len(places))
  )
  yield page.heading('Nearest training photographs (figure 4, right)')
  yield page.paragraph(
    'First a photograph, then those at the least Euclidean distance in '
    f'{layer}, among {len(places):,} of {dataset.num_examples("train"):,} '
    'for training: of the same class in blue, of another in red.',
    faint=True,
  )
  for (image, label, file), row, far in zip(
    queries, nearest, distances, strict=True
  ):
    name = model.short_names[label]
    cells = [page.figure(canvas.thumbnail(image, 112), name, file)]
    found = examples.read_examples(dataset, 'train', [places[i] for i in row])
    for (near, other, its), distance in zip(
      zip(*found, strict=True), far, strict=True
    ):
      caption = f'{model.short_names[other]} {distance:.4g}'
      style = 'same' if other == label else 'other'
      small = canvas.thumbnail(near, 112)
      cells.append(page.figure(small, caption, its, style=style))
    yield page.group('row asked', cells)


def _configuration(runs: Sequence[Run]) -> Iterator[str]:
  flat = [settings.flat(run.meta['config']) for run in runs]
  fields = list(dict.fromkeys(name for fields in flat for name in fields))

  def table(some: Sequence[str]) -> str:
    return page.table(
      ('field', *(run.name for run in runs)),
      [([n, *(_value(f.get(n)) for f in flat)], '') for n in some],
    )

  differ = [n for n in fields if len({_value(f.get(n)) for f in flat}) > 1]
  if len(runs) > 1:
    yield page.paragraph('What differs:' if differ else 'All are the same.')
    if differ:
      yield table(differ)
  yield page.details(f'All {len(fields)} fields', table(fields))


def _value(value: Any) -> str:
  return '' if value is None else str(value)
