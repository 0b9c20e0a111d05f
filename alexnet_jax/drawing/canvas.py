"""Matplotlib, without a window or global state: figures in, files out."""

import io
from collections.abc import Sequence

import matplotlib
import numpy as np
from etils import epath
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure, FigureBase
from matplotlib.ticker import NullFormatter
from PIL import Image

from alexnet_jax.runtime.errors import UserError
from alexnet_jax.runtime.files import explained

INK, FAINT = '#222222', '#8a8f98'
# Okabe and Ito's colours, which people who see few colours tell apart.
COLOURS = (
  *('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00'),
  *('#56b4e9', '#5b5b5b', '#b59f00'),
)
RIGHT, WRONG = COLOURS[:2]  # of what a network says
KINDS = ('png', 'svg', 'pdf', 'jpg')
DPI = 144
# The same picture is the same file, whenever it is drawn.
_UNDATED = {'svg': {'Date': None}, 'pdf': {'CreationDate': None}}

matplotlib.rcParams.update(
  {
    'font.size': 9,
    'text.parse_math': False,  # a class may be called $1
    'text.color': INK,
    'axes.labelcolor': INK,
    'axes.edgecolor': FAINT,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.titlesize': 9,
    'xtick.color': INK,
    'ytick.color': INK,
    'legend.frameon': False,
    'svg.fonttype': 'none',  # text stays text
    'svg.hashsalt': 'alexnet_jax',  # else names inside are random
  }
)


def figure(width: float, height: float) -> Figure:
  """An empty page, inches."""
  return Figure((width, height), layout='constrained')


def grid(fig: FigureBase, rows: int, columns: int, **options) -> np.ndarray:
  """Axes [rows, columns] without frames or ticks, for pictures."""
  bare = {'frame_on': False, 'xticks': [], 'yticks': []}
  return fig.subplots(rows, columns, squeeze=False, subplot_kw=bare, **options)


def titled(fig: Figure, title: str) -> Figure:
  """The figure, with what it is of above it: run, step, split."""
  fig.suptitle(title, x=0, ha='left', fontsize=9, color=FAINT)
  return fig


def plain_digits(axis: Axis) -> None:
  """Labels a logarithmic axis, all lines drawn, with 0.01 and not a formula,
  which `text.parse_math` leaves as it is written."""
  low, high = np.log10(axis.get_view_interval())
  axis.set_major_formatter('{x:,.10g}')
  two = np.floor(high) > np.ceil(
    low
  )  # powers of ten; else what is between, too
  axis.set_minor_formatter(NullFormatter() if two else '{x:,.10g}')


def photograph(ax: Axes, image: np.ndarray) -> None:
  """Shows uint8 [H, W, 3]."""
  ax.imshow(image, interpolation='nearest')


def clipped(text: str, length: int) -> str:
  """Each line of `text`, without its middle where it would run into its
  neighbour: names of files and classes often begin alike, or end alike."""
  lines = text.split('\n')
  half = length // 2
  return '\n'.join(
    line
    if len(line) <= length
    else f'{line[: length - half - 1]}…{line[-half:]}'
    for line in lines
  )


def encode(fig: Figure, kind: str = 'png') -> bytes:
  """The figure as the content of a file, margins cut."""
  buffer = io.BytesIO()
  fig.savefig(
    buffer,
    format=kind,
    dpi=DPI,
    bbox_inches='tight',
    pad_inches=0.08,
    metadata=_UNDATED.get(kind),
  )
  return buffer.getvalue()


def save(fig: Figure, path: epath.PathLike) -> None:
  """Writes the figure; its name's ending says as what.

  Raises:
    UserError: no such kind of file, or it cannot be written.
  """
  path = epath.Path(path)
  check_kind(path)
  data = encode(fig, path.suffix[1:])
  with explained(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
  print(f'{path} written', flush=True)


def check_kind(path: epath.PathLike) -> None:
  """Refuses a name that `save` would, before anything is computed."""
  if epath.Path(path).suffix[1:] not in KINDS:
    kinds = ', '.join(f'.{kind}' for kind in KINDS)
    raise UserError(f'{path}: a picture ends in one of {kinds}')


def thumbnail(image: np.ndarray, size: int = 160) -> bytes:
  """uint8 [H, W, 3] as a small JPEG."""
  buffer = io.BytesIO()
  small = Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS)
  small.save(buffer, 'JPEG', quality=82)
  return buffer.getvalue()


def colour(number: int) -> str:
  return COLOURS[number % len(COLOURS)]


def short_names(paths: Sequence[epath.PathLike]) -> list[str]:
  """A short name of each folder, longer where two have the same."""
  parts = [epath.Path(path).absolute().parts for path in paths]
  for length in range(1, max(map(len, parts)) + 1):
    names = ['/'.join(part[-length:]) for part in parts]
    if len(set(names)) == len(names):
      break
  return names
