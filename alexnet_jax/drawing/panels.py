"""Photographs and maps, with what the network makes of them (§6, figures 3
and 4)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alexnet_jax.drawing import canvas

_RIGHT, _WRONG = '#d98880', '#85a5c9'  # of figure 4: red is the true label


def kernels(mosaic: np.ndarray, towers: int) -> Figure:
  """Figure 3: the kernels of conv1, a tower above the other.

  Args:
    mosaic: of `analysis.pictures.conv1_kernels`.
    towers: how many it stacks.
  """
  height, width = mosaic.shape[:2]
  fig = canvas.figure(7.6, 7.2 * height / width)
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
    captions: a line below each photograph.
    labels: the true classes, whose bars are red.
    top: bars for each.
  """
  columns = min(4, len(images))
  lines = -(-len(images) // columns)
  top = min(top, len(names))
  bars = 0.17 * top + 0.1
  fig = canvas.figure(2.1 * columns, (2.25 + bars) * lines)
  axes = canvas.grid(fig, 2 * lines, columns, height_ratios=[2.0, bars] * lines)
  for i, image in enumerate(images):
    row, column = divmod(i, columns)
    ax = axes[2 * row, column]
    canvas.photograph(ax, image)
    ax.set_title(canvas.clipped(captions[i], 24), y=-0.12, va='center')
    label = None if labels is None else labels[i]
    _bars(axes[2 * row + 1, column], probabilities[i], names, top, label)
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
    ink = _RIGHT if k == label else _WRONG
    ax.barh(-place, share, 0.86, color=ink, align='center')
    text = f'{canvas.clipped(names[k], 20)}  {share:.0%}'
    ax.text(0.02, -place, text, va='center', fontsize=8)
  ax.set_xlim(0, 1)
  ax.set_ylim(0.5 - top, 0.5)


def neighbours(
  queries: Sequence[np.ndarray],
  found: Sequence[Sequence[np.ndarray]],
  captions: Sequence[str],
  found_captions: Sequence[Sequence[str]],
) -> Figure:
  """Figure 4, right: photographs in the first column, then those of the
  training set nearest to each.

  Args:
    queries: uint8 [H, W, 3] each.
    found: as many for each of them.
    captions: a line above each of `queries`.
    found_captions: likewise of `found`.
  """
  columns = 1 + len(found[0])
  fig = canvas.figure(1.35 * columns, 1.55 * len(queries))
  widths = [1.0] * columns
  widths.insert(1, 0.12)
  axes = canvas.grid(fig, len(queries), columns + 1, width_ratios=widths)
  for i, query in enumerate(queries):
    cells = [
      (query, captions[i]),
      *zip(found[i], found_captions[i], strict=True),
    ]
    for j, (image, caption) in enumerate(cells):
      ax = axes[i, j + bool(j)]
      canvas.photograph(ax, image)
      weight = 'normal' if j else 'bold'
      ax.set_title(
        canvas.clipped(caption, 18), fontsize=7.5, fontweight=weight, pad=2.5
      )
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
    captions: a line above each.
  """
  columns = min(4, len(images))
  lines = -(-len(images) // columns)
  fig = canvas.figure(2.1 * columns, 4.3 * lines)
  axes = canvas.grid(fig, 2 * lines, columns)
  for i, (image, drop) in enumerate(zip(images, drops, strict=True)):
    row, column = divmod(i, columns)
    canvas.photograph(axes[2 * row, column], image)
    axes[2 * row, column].set_title(canvas.clipped(captions[i], 26), loc='left')
    ax = axes[2 * row + 1, column]
    grey = image.mean(-1)
    ax.imshow(grey, cmap='gray', vmin=0, vmax=255)
    most = max(float(np.abs(drop).max()), 1e-6)
    ax.imshow(
      drop,
      cmap='RdBu_r',
      vmin=-most,
      vmax=most,
      alpha=0.55,
      interpolation='bicubic',
      extent=(-0.5, image.shape[1] - 0.5, image.shape[0] - 0.5, -0.5),
    )
    ax.set_xlabel(f'up to −{max(float(drop.max()), 0):.0%}')
  return fig
