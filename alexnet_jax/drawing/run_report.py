"""What one or several runs have learned, as one page."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.analysis import examples, measures, pictures
from alexnet_jax.data.builders import Dataset
from alexnet_jax.drawing import canvas, charts, page, panels
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training import saved

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
  env = first.meta['environment']
  parts = [
    f'<h1>{page.text(names)}</h1>',
    page.paragraph(
      f'alexnet_jax {env["alexnet_jax"]}, commit {env["commit"] or "unknown"}, '
      f'jax {env["jax"]}, {len(env["devices"])} x {env["devices"][0]}, seed '
      f'{config.seed}. Pictures below: {first.name}, the network of step '
      f'{first.model.step:,}.',
      faint=True,
    ),
    page.heading('Errors'),
    *_errors(runs),
    page.heading('Curves'),
    page.chart(charts.curves({r.name: r.rows for r in runs}), 'curves'),
    page.heading('Kernels of conv1 (figure 3)'),
  ]
  for run in runs:
    mosaic = pictures.conv1_kernels(run.model.params)
    parts += [page.paragraph(run.name, faint=True)] * (len(runs) > 1)
    fig = panels.kernels(mosaic, run.model.table.towers)
    parts.append(page.chart(fig, 'kernels of conv1'))
  try:
    parts += _photographs(first, first.open_data(), photographs, gallery)
  except UserError as error:  # the data set may be on another machine
    parts += [
      page.heading('What is missing'),
      page.paragraph(f'{error}.'),
    ]
  health = charts.quantities({r.name: r.rows for r in runs}, 'health/')
  if health:
    parts += [page.heading('Health'), page.chart(health, 'health')]
  parts += [page.heading('Configuration'), *_configuration(runs)]
  return page.document(names, parts)


def _errors(runs: Sequence[Run]) -> Iterator[str]:
  rows = []
  for run in runs:
    for split in ('validation', 'test'):
      key = f'{split}/top1_error'
      found = [row for row in run.rows if key in row]
      if not found:
        continue
      best, last = min(found, key=lambda row: row[key]), found[-1]
      which = {'last': last} if best is last else {'best': best, 'last': last}
      for word, row in which.items():
        cells = (
          *(f'{run.name}, {split}, {word}', f'{row["epoch"]:.1f}'),
          *(
            f'{100 * row[f"{split}/{k}_error"]:.1f} %' for k in ('top1', 'top5')
          ),
          f'{row[f"{split}/loss"]:.3f}',
        )
        rows.append((cells, ''))
  rows += [
    ((f'2012: {what}', '–', f'{one:.1f} %', f'{five:.1f} %', '–'), 'old')
    for what, one, five in PAPER
  ]
  yield page.table(('run', 'epoch', 'top-1', 'top-5', 'loss'), rows, True)
  config, classes = runs[0].model.config, len(runs[0].model.class_names)
  yield page.paragraph(
    f'Yours: {config.data.name}, {classes} classes, one central view. Those of '
    '2012: ImageNet, 1,000 classes, ten views; the authors ran them for 90 '
    'epochs. They are comparable where your data are ImageNet, too.',
    faint=True,
  )


def _photographs(
  run: Run, dataset: Dataset, most: int, gallery: int
) -> Iterator[str]:
  config, names = run.model.config, run.model.readable_names
  split = config.evals.final_split or config.evals.split
  some = examples.spread_indices(dataset, split, most)
  step = max(1, len(some) // _CARDS)
  labels: list[int] = []
  found: list[np.ndarray] = []
  shown: list[_Shown] = []
  for images, those in examples.read_batches(dataset, split, some):
    probabilities = run.model.predict(images)
    for image, label, row in zip(images, those, probabilities, strict=True):
      if len(labels) % step == 0 and len(shown) < _CARDS:
        shown.append(_Shown(image, label, row))
      labels.append(label)
    found.append(probabilities)
  yield page.heading('Predictions (figure 4, left)')
  yield page.paragraph(
    f'Photographs of {split}, one central view; below each its class, then '
    'the most probable ones, the right one in red.',
    faint=True,
  )
  yield page.group('cards', (_card(one, names) for one in shown))
  yield page.heading('What is taken for what')
  yield page.paragraph(
    f'{len(some):,} of {dataset.num_examples(split):,} photographs of {split}.',
    faint=True,
  )
  predicted = np.concatenate(found).argmax(1)
  counts = measures.count_confusions(np.array(labels), predicted, len(names))
  yield page.chart(charts.confusion(counts, names), 'confusion')
  yield from _neighbours(run, dataset, shown[::2][:_QUERIES], gallery)


class _Shown(NamedTuple):
  """A photograph to show, its class, and the probabilities [C]."""

  image: np.ndarray
  label: int
  probabilities: np.ndarray


def _card(one: _Shown, names: Sequence[str]) -> str:
  order = np.argsort(-one.probabilities, kind='stable')[:_TOP]
  shares = [
    (names[k], float(one.probabilities[k]), bool(k == one.label)) for k in order
  ]
  image = canvas.thumbnail(one.image)
  return page.figure(image, names[one.label], page.bars(shares))


def _neighbours(
  run: Run, dataset: Dataset, queries: Sequence[_Shown], gallery: int
) -> Iterator[str]:
  some = examples.spread_indices(dataset, 'train', gallery)
  model = run.model
  vectors = (
    model.features(images)
    for images, _ in examples.read_batches(dataset, 'train', some)
  )
  # As many as in a batch of the gallery: one program for both.
  filled = [queries[i % len(queries)].image for i in range(examples.BATCH)]
  wanted = model.features(filled)[: len(queries)]
  _, places = measures.find_nearest(
    wanted, vectors, min(_NEIGHBOURS, len(some))
  )
  yield page.heading('Nearest training photographs (figure 4, right)')
  yield page.paragraph(
    'First a photograph, then those at the least Euclidean distance in fc7, '
    f'among {len(some):,} of {dataset.num_examples("train"):,} for training.',
    faint=True,
  )
  for one, row in zip(queries, places, strict=True):
    images, labels = examples.read_examples(
      dataset, 'train', [some[i] for i in row]
    )
    cells = zip([one.image, *images], [one.label, *labels], strict=True)
    yield page.group(
      'row',
      (
        page.figure(canvas.thumbnail(image, 112), model.readable_names[label])
        for image, label in cells
      ),
    )


def _configuration(runs: Sequence[Run]) -> Iterator[str]:
  flat = [saved.flat(run.meta['config']) for run in runs]
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
