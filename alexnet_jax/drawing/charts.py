"""Numbers as curves and tables: loss, errors, learning rate, confusion, and
speed by number of chips."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alexnet_jax.drawing import canvas

Rows = Sequence[Mapping[str, Any]]  # of metrics.jsonl
# {way: [(chips, images per second)]}
Series = Mapping[str, Sequence[tuple[int, float]]]
_SPLITS = {'train': (0, (1, 1)), 'validation': '-', 'test': 'o'}
_SMOOTH = 40  # points left of a long training curve
_FEW = 6  # learning rates that an axis has room to name
MOST_CLASSES = 30  # that a matrix has room to name
QUANTITIES = {
  'loss': 'loss',
  'top1_error': 'top-1 error',
  'learning_rate': 'learning rate',
}
# What rows say of each layer (`training.health`).
HEALTH = {
  'signal': 'signal: spread over images',
  'dead': 'share of units that are always zero',
  'update': 'size of an update, of the weights',
}


def curves(
  runs: Mapping[str, Rows], quantities: Mapping[str, str] = QUANTITIES
) -> Figure:
  """Loss, errors and learning rate by epoch; training dotted, validation solid.

  Args:
    runs: {name: rows of its metrics.jsonl}.
    quantities: which of them, with their titles; by default all.
  """
  fig = canvas.figure(3.2 * len(quantities), 2.9)
  axes = fig.subplots(1, len(quantities), squeeze=False)[0]
  for ax, (quantity, title) in zip(axes, quantities.items(), strict=True):
    for number, rows in enumerate(runs.values()):
      _lines(ax, rows, quantity, canvas.colour(number))
    ax.set_title(title, loc='left')
    ax.set_xlabel('epoch')
    ax.set_xlim(left=0)
    if quantity == 'learning_rate':
      ax.set_yscale('log')
      canvas.plain_digits(ax.yaxis)
      rates = {y for line in ax.lines for y in line.get_ydata()}
      if 0 < len(rates) <= _FEW:
        ax.set_yticks(list(rates))
        ax.set_yticks([], minor=True)
    else:
      ax.set_ylim(bottom=0)
    if quantity == 'top1_error':
      ax.set_ylim(0, 1)
      ax.yaxis.set_major_formatter(lambda y, _: f'{y:.0%}')
  _legend(fig, axes[0], runs, columns=1 + len(quantities))
  return fig


def by_layer(runs: Mapping[str, Rows], kind: str, title: str) -> Figure | None:
  """What rows say of each layer: a colour a layer, a dash a run; None: nothing.

  Args:
    runs: {name: rows of its metrics.jsonl}.
    kind: of the rows' 'health/<layer>_<kind>'.
    title: of the figure.
  """
  fig = canvas.figure(3.8, 2.9)
  ax = fig.subplots()
  layers: dict[str, int] = {}
  for number, rows in enumerate(runs.values()):
    style = ('-', '--', ':', '-.')[number % 4]
    for key in dict.fromkeys(key for row in rows for key in row):
      match = re.fullmatch(rf'health/(\w+)_{kind}', key)
      if match:
        ink = canvas.colour(layers.setdefault(match[1], len(layers)))
        shown = None if number else match[1]
        ax.plot(*_series(rows, key), style, color=ink, lw=1.2, label=shown)
  if not layers:
    return None
  ax.set_title(title, loc='left')
  ax.set_xlabel('epoch')
  ax.set_xlim(left=0)
  ax.set_ylim(bottom=0)
  ax.legend(fontsize=7, loc='upper left', bbox_to_anchor=(1, 1))
  return fig


def confusion(counts: np.ndarray, names: Sequence[str]) -> Figure:
  """How often each class was taken for which.

  Args:
    counts: int [C, C], of `analysis.measures.count_confusions`: row i is
      class i, column j what it was taken for.
    names: of the classes.
  """
  few = len(names) <= MOST_CLASSES
  side = 1.6 + 0.42 * len(names) if few else 7
  fig = canvas.figure(side, side)
  ax = fig.subplots()
  shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
  ax.imshow(shares, cmap='Blues', vmin=0, vmax=1)
  ax.set_xlabel('predicted')
  ax.set_ylabel('true')
  if few:
    places, texts = range(len(names)), [canvas.clipped(n, 16) for n in names]
    ax.set_xticks(places, texts, rotation=45, ha='right')
    ax.set_yticks(places, texts)
    for (i, j), count in np.ndenumerate(counts):
      if count:
        ink = 'white' if shares[i, j] > 0.5 else canvas.INK
        ax.text(j, i, count, ha='center', va='center', fontsize=8, color=ink)
  ax.tick_params(length=0)
  right = np.trace(counts) / max(counts.sum(), 1)
  ax.set_title(f'{right:.1%} of {counts.sum():,} right', loc='left')
  return fig


def throughput(panels: Mapping[str, Series], note: str) -> Figure:
  """Images per second by chips, a panel for each kind of scaling; both axes
  are logarithmic.

  Args:
    panels: {title: series}; a grey line leads on from the first point of one
      chip, as if every chip did as much.
    note: stands below.
  """
  fig = canvas.figure(8, 3.4)
  axes = fig.subplots(1, len(panels), squeeze=False, sharey=True)[0]
  for ax, (title, series) in zip(axes, panels.items(), strict=True):
    last = max(chips for points in series.values() for chips, _ in points)
    ones = [s for points in series.values() for c, s in points if c == 1]
    if ones:
      ax.plot([1, last], [ones[0], ones[0] * last], color=canvas.FAINT, lw=0.8)
    for number, (way, points) in enumerate(series.items()):
      ax.plot(
        *zip(*points, strict=True),
        marker='osD'[number % 3],
        linestyle=('-', '--', ':')[number % 3],
        markersize=5,
        mfc='none',
        color=canvas.colour(number),
        label=way,
      )
    chips = sorted({c for points in series.values() for c, _ in points})
    ax.set_xscale('log', base=2)
    ax.set_yscale('log')
    canvas.plain_digits(ax.yaxis)
    ax.set_xticks(chips, [f'{c}' for c in chips])
    ax.set_xlabel('chips')
    ax.set_title(title, loc='left')
  axes[0].set_ylabel('images/s at most')
  axes[0].legend()
  fig.supxlabel(note, fontsize=8, color=canvas.FAINT)
  return fig


@dataclasses.dataclass(frozen=True)
class Judged:
  """A measured value with its 95 % interval, and what two sources claim."""

  label: str
  value: float
  low: float  # NaN: there is no interval
  high: float  # infinite: the value is a lower bound
  paper: float | None = None
  diary: float | None = None


@dataclasses.dataclass(frozen=True)
class Panel:
  """Values on one axis, and where there is no effect."""

  axis: str
  null: float | None
  logarithmic: bool
  lines: list[Judged] = dataclasses.field(default_factory=list)


def forest(panels: Sequence[Panel]) -> Figure:
  """Measured values beside what is claimed, a line each."""
  counts = [len(panel.lines) for panel in panels]
  fig = canvas.figure(8, 0.24 * sum(counts) + 0.6 * len(counts) + 0.3)
  heights = [count + 1 for count in counts]
  axes = fig.subplots(len(counts), squeeze=False, height_ratios=heights)
  for ax, panel in zip(axes.flat, panels, strict=True):
    if panel.logarithmic:
      ax.set_xscale('log')
      ax.set_xticks((1, 2, 5, 10, 20), ('1', '2', '5', '10', '20'))
      ax.set_xticks((), minor=True)
    if panel.null is not None:
      ax.axvline(panel.null, color=canvas.FAINT, lw=0.8)
    for y, line in enumerate(panel.lines):
      ends = [x for x in (line.low, line.value, line.high) if np.isfinite(x)]
      if panel.logarithmic:
        ends = [x for x in ends if x > 0]
      ax.plot(ends, [y] * len(ends), color=canvas.INK)
      mark = '>' if np.isinf(line.high) else 'o'
      mark = '<' if panel.logarithmic and line.low == 0 else mark
      ours = ax.plot(line.value, y, mark, color=canvas.INK, label='ours')
      claims = [
        ax.plot(x, y, mark, mfc='none', color=ink, label=source)
        for x, mark, ink, source in (
          (line.paper, 'D', canvas.colour(0), 'paper'),
          (line.diary, 's', canvas.colour(1), '2012 diary'),
        )
        if x is not None
      ]
      marks = {each[0].get_label(): each[0] for each in (ours, *claims)}
      if len(marks) == 3 and not fig.legends:
        fig.legend(
          handles=list(marks.values()), loc='outside upper right', ncols=3
        )
    labels = [line.label for line in panel.lines]
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.set_xlabel(panel.axis)
  return fig


def errors_by_epoch(
  runs: Mapping[str, Sequence[Sequence[float]]], label: str, target: float
) -> Figure:
  """Figure 1: errors by epoch, a colour a kind, the first word of a name.

  Args:
    runs: {name: curves of percents, one an epoch, of its seeds}.
    label: of the errors.
    target: percent, a line across.
  """
  fig = canvas.figure(6.4, 3.2)
  ax = fig.subplots()
  kinds: dict[str, int] = {}
  for name, curves in runs.items():
    kind = name.partition(' ')[0]
    number = kinds[kind] = kinds.get(kind, -1) + 1
    ink = canvas.colour(list(kinds).index(kind))
    for seed, curve in enumerate(curves):
      style = ('-', '--', ':', '-.')[number % 4]
      shown = None if seed else name
      x = range(1, len(curve) + 1)
      ax.plot(x, curve, style, color=ink, marker='.', label=shown)
  ax.axhline(target, color=canvas.FAINT, lw=0.8)
  ax.set_xlabel('epoch')
  ax.set_ylabel(label)
  ax.set_ylim(0, 100)
  ax.set_xlim(left=0)
  # Beside the axes, since curves may be anywhere in them.
  ax.legend(fontsize=7, loc='upper left', bbox_to_anchor=(1, 1), handlelength=4)
  return fig


def _lines(ax: Axes, rows: Rows, quantity: str, ink: str) -> None:
  """One run's lines of a quantity: a split each."""
  for split, style in _SPLITS.items():
    x, y = _series(rows, f'{split}/{quantity}')
    if not len(x):
      continue
    if style == 'o':
      ax.plot(x, y, style, color=ink, markersize=4, zorder=3)
    elif split == 'train' and quantity != 'learning_rate':
      ax.plot(*_smooth(x, y), linestyle=style, color=ink, lw=1.1)
    else:
      held = quantity == 'learning_rate'
      steps = 'steps-mid' if held else 'default'
      ax.plot(x, y, '-', color=ink, lw=1.6, drawstyle=steps)


def _series(rows: Rows, key: str) -> tuple[np.ndarray, np.ndarray]:
  """Epochs, and the values of `key` there."""
  found = [(row['epoch'], row[key]) for row in rows if key in row]
  x, y = np.array(found, np.float64).reshape(-1, 2).T
  return x, y


def _smooth(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Means of neighbours: a row of training is one batch, which is noise."""
  parts = max(1, min(_SMOOTH, len(x)))
  return tuple(  # type: ignore[return-value]
    np.array([part.mean() for part in np.array_split(values, parts)])
    for values in (x, y)
  )


def _legend(
  fig: Figure, ax: Axes, runs: Mapping[str, Rows], columns: int
) -> None:
  marks = {
    'training': {'linestyle': _SPLITS['train']},
    'validation': {'linestyle': '-'},
    'test': {'linestyle': '', 'marker': 'o', 'markersize': 4},
  }
  handles = [
    ax.plot([], [], color=canvas.FAINT, label=name, **mark)[0]  # type: ignore[arg-type]
    for name, mark in marks.items()
  ]
  if len(runs) > 1:
    handles += [
      ax.plot([], [], color=canvas.colour(number), lw=2, label=name)[0]
      for number, name in enumerate(runs)
    ]
  fig.legend(handles=handles, loc='outside lower left', ncols=columns)
