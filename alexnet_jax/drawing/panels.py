"""Photographs and maps, with what the network makes of them (§6, figures 3
and 4)."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alexnet_jax.analysis import examples
from alexnet_jax.drawing import canvas

_BARS = {'right': '#9fc9e8', 'wrong': '#f2b98f', 'other': '#dde2e8'}
_INKS = {None: canvas.INK, True: canvas.RIGHT, False: canvas.WRONG}
_NAME: dict[str, Any] = {'fontsize': 6.5, 'linespacing': 1.15}


def kernels(mosaic: np.ndarray, towers: int) -> Figure:
  """Figure 3: the kernels of conv1, a tower above the other.

  Args:
    mosaic: of `analysis.pictures.conv1_kernels`.
    towers: how many it stacks.
  """
  height, width = mosaic.shape[:2]
  wide = min(7.2, width / 30)
  fig = canvas.figure(wide + 0.4, wide * height / width)
  axes = canvas.grid(fig, towers, 1)[:, 0]
  for tower, (ax, part) in enumerate(
    zip(axes, np.split(mosaic, towers), strict=True), start=1
  ):
    canvas.photograph(ax, part)
    if towers > 1:
      ax.set_ylabel(f'tower {tower}', rotation=0, ha='right', va='center')
  return fig


def predictions(
  images: Sequence[np.ndarray],
  probabilities: np.ndarray,
  names: Sequence[str],
  captions: Sequence[str],
  labels: Sequence[int] | None = None,
  top: int = 5,
) -> Figure:
  """Figure 4, left: photographs and their most probable classes.

  Args:
    images: uint8 [H, W, 3] each.
    probabilities: float [N, C].
    names: of the classes.
    captions: below each photograph, a line or two.
    labels: the true classes, whose bars are blue; a first guess of another one
      is red.
    top: bars for each.
  """
  columns = min(4, len(images))
  lines = -(-len(images) // columns)
  top = min(top, len(names))
  bars = 0.17 * top + 0.1
  fig = canvas.figure(2.1 * columns, (2.4 + bars) * lines)
  axes = canvas.grid(fig, 2 * lines, columns, height_ratios=[2.0, bars] * lines)
  for i, image in enumerate(images):
    row, column = divmod(i, columns)
    ax = axes[2 * row, column]
    canvas.photograph(ax, image)
    caption = canvas.clipped(captions[i], 36)
    ax.set_title(caption, y=-0.04, va='top', pad=0, **_NAME)
    label = None if labels is None else labels[i]
    _bars(axes[2 * row + 1, column], probabilities[i], names, top, label)
  return fig


def losses(classes: Sequence[examples.Hard], each: int) -> Figure:
  """A row for each class: what the network is most wrong about, and beside it
  what it is least sure of.

  Args:
    classes: with at most `each` photographs of either kind.
    each: columns of either kind.
  """
  widths = [1.0] * each + [0.15] + [1.0] * each
  fig = canvas.figure(1.45 * sum(widths), 1.85 * len(classes))
  axes = fig.subplots(
    len(classes), len(widths), squeeze=False, width_ratios=widths
  )
  for ax in axes.flat:
    ax.set_axis_off()
  for row, hard in zip(axes, classes, strict=True):
    share = f'{hard.wrong} of {hard.count} wrong'
    for start, cases, head in (
      (
        0,
        hard.most_wrong,
        f'{canvas.clipped(hard.name, 30)}: {share}, the most',
      ),
      (each + 1, hard.least_sure, 'least sure'),
    ):
      row[start].text(0, 1.3, head, transform=row[start].transAxes, fontsize=8)
      for ax, case in zip(row[start:], cases, strict=False):
        canvas.photograph(ax, case.image)
        caption = canvas.clipped(
          f'{case.said} {case.share:.0%}\n{case.file}', 25
        )
        ink = _INKS[case.said == hard.name]
        ax.set_title(caption, pad=2.5, color=ink, **_NAME | {'fontsize': 6})
  return fig


def _bars(
  ax: Axes,
  probabilities: np.ndarray,
  names: Sequence[str],
  top: int,
  label: int | None,
) -> None:
  for place, k in enumerate(np.argsort(-probabilities, kind='stable')[:top]):
    share = float(probabilities[k])
    kind = 'right' if k == label else 'other' if place else 'wrong'
    ink = _BARS['other' if label is None else kind]
    ax.barh(-place, share, 0.86, color=ink, align='center')
    text = f'{canvas.clipped(names[k], 20)}  {share:.0%}'
    ax.text(0.02, -place, text, va='center', fontsize=8)
  ax.set_xlim(0, 1)
  ax.set_ylim(0.5 - top, 0.5)


class Neighbour(NamedTuple):
  """A training photograph that looks alike to the network."""

  image: np.ndarray  # uint8 [H, W, 3]
  name: str  # of its class; '': nobody knows it
  file: str
  distance: float
  same: bool | None  # whether the class is that of the photograph in question


def neighbours(
  queries: Sequence[np.ndarray],
  captions: Sequence[str],
  found: Sequence[Sequence[Neighbour]],
) -> Figure:
  """Figure 4, right: photographs in the first column, then those of the
  training set nearest to each.

  Args:
    queries: uint8 [H, W, 3] each.
    captions: above each of them, a line or two.
    found: as many for each of them; the captions of those of the same class
      are blue, of another one red.
  """
  columns = 1 + len(found[0])
  fig = canvas.figure(1.35 * columns, 1.7 * len(queries))
  widths = [1.0] * columns
  widths.insert(1, 0.12)
  axes = canvas.grid(fig, len(queries), columns + 1, width_ratios=widths)
  for i, query in enumerate(queries):
    cells = [(query, captions[i], 'bold', canvas.INK)]
    for one in found[i]:
      sign = '=' * bool(one.same)
      caption = f'{sign} {one.name}  {one.distance:.4g}\n{one.file}'
      cells.append((one.image, caption, 'normal', _INKS[one.same]))
    for j, (image, caption, weight, ink) in enumerate(cells):
      ax = axes[i, j + bool(j)]
      canvas.photograph(ax, image)
      style: dict[str, Any] = {**_NAME, 'fontsize': 6, 'fontweight': weight}
      ax.set_title(canvas.clipped(caption, 24), pad=2.5, color=ink, **style)
  return fig


def activations(
  image: np.ndarray, maps: Mapping[str, np.ndarray], towers: int, each: int = 8
) -> Figure:
  """What one photograph excites: the strongest maps of each layer.

  Args:
    image: uint8 [H, W, 3], the view that the network saw.
    maps: {layer: [height, width, maps of all towers]}.
    towers: whose maps stand side by side.
    each: maps of a tower.
  """
  fig = canvas.figure(0.72 * (each * towers + 3), 0.8 * len(maps))
  sides: Any = fig.subfigures(1, 2, width_ratios=[3, each * towers])
  left, right = sides
  canvas.photograph(canvas.grid(left, 1, 1)[0, 0], image)
  # A narrow empty column between two towers.
  widths = ([1.0] * each + [0.25]) * towers
  axes = canvas.grid(
    right, len(maps), len(widths) - 1, width_ratios=widths[:-1]
  )
  for row, (name, values) in enumerate(maps.items()):
    axes[row, 0].set_ylabel(name, rotation=0, ha='right', va='center')
    for tower, part in enumerate(np.split(values, towers, axis=-1)):
      order = np.argsort(-part.max((0, 1)), kind='stable')[:each]
      for place, k in enumerate(order):
        ax = axes[row, tower * (each + 1) + place]
        ax.imshow(part[..., k], cmap='magma', interpolation='nearest')
  if towers > 1:
    for tower in range(towers):
      axes[0, tower * (each + 1)].set_title(f'tower {tower + 1}', loc='left')
  return fig


def occlusion(
  images: Sequence[np.ndarray],
  drops: Sequence[np.ndarray],
  captions: Sequence[str],
) -> Figure:
  """Photographs beside where hiding a patch lowers the probability.

  Args:
    images: uint8 [H, W, 3] each, the views that the network saw.
    drops: float [h, w] each, of `analysis.measures.measure_occlusion`.
    captions: above each, a line or more.
  """
  columns = min(4, len(images))
  lines = -(-len(images) // columns)
  fig = canvas.figure(2.1 * columns, 4.7 * lines)
  axes = canvas.grid(fig, 2 * lines, columns)
  for i, (image, drop) in enumerate(zip(images, drops, strict=True)):
    row, column = divmod(i, columns)
    canvas.photograph(axes[2 * row, column], image)
    caption = canvas.clipped(captions[i], 36)
    axes[2 * row, column].set_title(caption, loc='left', **_NAME)
    ax = axes[2 * row + 1, column]
    grey = image.mean(-1)
    ax.imshow(grey, cmap='gray', vmin=0, vmax=255)
    most = max(float(np.abs(drop).max()), 1e-6)
    shown = ax.imshow(
      drop,
      cmap='RdBu_r',
      vmin=-most,
      vmax=most,
      alpha=0.55,
      interpolation='bicubic',
      extent=(-0.5, image.shape[1] - 0.5, image.shape[0] - 0.5, -0.5),
    )
    key = fig.colorbar(shown, ax=ax, location='bottom', pad=0.03, aspect=30)
    key.set_ticks(
      [-most, 0, most], labels=[f'+{most:.0%}', '0', f'−{most:.0%}']
    )
    key.set_label('change when hidden around here', fontsize=7)
    key.ax.tick_params(labelsize=7, length=2)
  return fig
