"""Figure 2: the towers, drawn from the description of the network."""

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from alexnet_jax.drawing import canvas
from alexnet_jax.models.describe import Layer

_TILT = (0.34, 0.22)  # where the depth of a box goes on the page
_COLUMN, _ROW, _LINE = 2.0, 3.0, 0.45  # between layers, towers, table rows
_LETTERS = 17  # that a column of the table has room for
_TOTALS = 0.2  # where they stand
_INCH = 0.56  # a unit of these
_THEN = 'then: the steps that follow, with the side of the maps they leave.'
_RECEIVED = (
  'received: by the device of a tower, per image, in the forward pass; as much '
  'of gradients on the way back, but for fc8.'
)
_FACES = {'front': '#dfe8f2', 'top': '#eef3f8', 'side': '#cbd9e8'}
_EDGE, _CROSSES, _NOTE_INK = '#5b6b7d', canvas.COLOURS[1], '#5f6670'


def draw_network(
  layers: Sequence[Layer],
  needs: Mapping[tuple[str, str], int],
  image_size: int,
) -> Figure:
  """The network from left to right, a row per tower, its numbers below.

  Args:
    layers: of `models.describe.describe`.
    needs: what a tower's device receives, of `models.describe.needed_bytes`.
    image_size: side of the views, pixels.
  """
  towers = layers[0].towers
  received = [
    sum(
      needs.get((name, 'forward'), 0)
      for name in (layer.name, *(step.name for step in layer.then))
    )
    for layer in layers
  ]
  xs = [_COLUMN * (i + 1) for i in range(len(layers))]
  ys = [-_ROW * tower for tower in range(towers)]
  middle = sum(ys) / towers
  bottom = ys[-1] - 2.0
  left, right = -2.3, xs[-1] + 0.9
  steps = [_describe_steps(layer) for layer in layers]
  lines = 1 + max(text.count('\n') for text in steps)
  low, high = bottom - (5.5 + 0.6 * lines) * _LINE, 1.75
  fig = canvas.figure(_INCH * (right - left), _INCH * (high - low))
  fig.set_layout_engine('none')
  ax = fig.add_axes((0, 0, 1, 1))
  ax.set_axis_off()
  ax.set_aspect('equal')
  ax.set_xlim(left, right)
  ax.set_ylim(low, high)
  image = _Box(0, middle, 0.08, _side(image_size, image_size), 1.0)
  image.draw(ax, f'{image_size}×{image_size}×3', 'image')
  before = [image] * towers
  for layer, x, sent in zip(layers, xs, received, strict=True):
    rows = [middle] if layer.is_logits else ys  # all towers make the logits
    boxes = [_box(layer, x, y, image_size) for y in rows]
    for box in boxes:
      box.draw(ax, _shape(layer.output), _kernel(layer))
    for number, source in enumerate(before):
      for other, box in enumerate(boxes):
        if sent or layer.is_logits or number == other:
          _arrow(ax, source, box, crosses=source.y != box.y and sent > 0)
    before = boxes
  if towers > 1:
    for tower, y in enumerate(ys):
      ax.text(left, y, f'tower {tower + 1}', fontsize=9, color=canvas.FAINT)
  _write_numbers(ax, layers, steps, received, xs, left, bottom)
  return fig


def _write_numbers(
  ax: Axes,
  layers: Sequence[Layer],
  steps: list[str],
  received: list[int],
  xs: list[float],
  left: float,
  y: float,
) -> None:
  """The table below the towers."""
  rows: dict[str, list[Any]] = {
    'then': steps,
    'neurons': [layer.neurons for layer in layers],
    'parameters': [layer.parameters for layer in layers],
  }
  notes = [_THEN]
  if any(received):
    rows['received, bytes'] = received
    notes.append(_RECEIVED)

  def write(x: float, text: str, **options: Any) -> None:
    style: dict[str, Any] = {'ha': 'center', 'va': 'top', 'fontsize': 8.5}
    ax.text(x, y, text, **(style | options))

  for x, layer in zip(xs, layers, strict=True):
    write(x, layer.name, fontweight='bold', fontsize=10)
  write(_TOTALS, 'in all', color=canvas.FAINT)
  y -= 1.25 * _LINE
  for head, cells in rows.items():
    ink = _CROSSES if head.startswith('received') else canvas.INK
    write(left, head, color=ink, ha='left')
    for x, cell in zip(xs, cells, strict=True):
      text = cell if isinstance(cell, str) else f'{cell:,}' if cell else '–'
      write(x, text, color=ink)
    numbers = [cell for cell in cells if isinstance(cell, int)]
    if numbers:
      write(_TOTALS, f'{sum(numbers):,}', color=ink)
    lines = max(str(cell).count('\n') for cell in cells)
    y -= (1 + 0.6 * lines) * _LINE
  write(left, '\n'.join(notes), ha='left', fontsize=7.5, color=_NOTE_INK)


@dataclasses.dataclass(frozen=True)
class _Box:
  """A slab: thick as its maps are many, tall and deep as they are large."""

  x: float  # the middle
  y: float
  thickness: float
  side: float
  depth: float

  def at(self, side: float, up: float, deep: float) -> tuple[float, float]:
    """A point of the box, each coordinate from 0 to 1."""
    x, y = _TILT
    return (
      self.x + (side - 0.5) * self.thickness + (deep - 0.5) * self.depth * x,
      self.y + (up - 0.5) * self.side + (deep - 0.5) * self.depth * y,
    )

  def draw(self, ax: Axes, below: str, above: str) -> None:
    faces = {
      'front': [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)],
      'top': [(0, 1, 0), (1, 1, 0), (1, 1, 1), (0, 1, 1)],
      'side': [(1, 0, 0), (1, 0, 1), (1, 1, 1), (1, 1, 0)],
    }
    for name, corners in faces.items():
      points = [self.at(*corner) for corner in corners]
      ax.add_patch(
        Polygon(points, facecolor=_FACES[name], edgecolor=_EDGE, lw=0.8)
      )
    back = {'facecolor': 'white', 'edgecolor': 'none', 'pad': 0.8}
    style: dict[str, Any] = {'ha': 'center', 'bbox': back, 'zorder': 4}
    low, high = self.at(0, 0, 0)[1] - 0.1, self.at(0, 1, 1)[1] + 0.1
    ax.text(self.x, low, below, va='top', fontsize=8.5, **style)
    ax.text(
      *(self.x, high, above),
      **(style | {'va': 'bottom', 'fontsize': 7.5, 'color': _NOTE_INK}),
    )


def _box(layer: Layer, x: float, y: float, image_size: int) -> _Box:
  if len(layer.output) == 1:
    return _Box(x, y, 0.16, 0.5 + 1.1 * (layer.output[0] / 2048) ** 0.5, 0.35)
  size, _, maps = layer.output
  side = _side(size, image_size)
  return _Box(x, y, 0.06 + 0.9 * maps / 192, side, side)


def _side(pixels: int, image_size: int) -> float:
  """The image is the tallest; small maps are drawn larger than they are."""
  return 2.0 * (pixels / image_size) ** 0.45


def _arrow(ax: Axes, start: _Box, end: _Box, crosses: bool) -> None:
  ax.annotate(
    '',
    end.at(0, 0.5, 0),
    start.at(1, 0.5, 1),
    arrowprops={
      **{'arrowstyle': '-|>', 'shrinkA': 1, 'shrinkB': 1},
      **{'color': _CROSSES if crosses else _EDGE, 'lw': 1.1},
    },
    zorder=3,
  )


def _shape(shape: tuple[int, ...]) -> str:
  return '×'.join(map(str, shape))


def _kernel(layer: Layer) -> str:
  if len(layer.kernel) < 4:
    return 'dense'
  text = _shape(layer.kernel[:-1])
  return f'{text}\nstride {layer.stride}' if layer.stride > 1 else text


def _describe_steps(layer: Layer) -> str:
  """What follows, and the maps it leaves."""
  words = {'avg_pool': 'pool', 'map_norm': 'norm'}
  text = ', '.join(words.get(step.kind, step.kind) for step in layer.then)
  if layer.after != layer.output:
    text += f'\xa0to\xa0{layer.after[0]}²'  # on one line
  return textwrap.fill(text, _LETTERS) or '–'
