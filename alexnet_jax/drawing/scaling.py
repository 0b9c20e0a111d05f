"""Images per second by number of chips."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from alexnet_jax.drawing import canvas

# {way: [(chips, images per second)]}
Series = Mapping[str, Sequence[tuple[int, float]]]


def throughput(panels: Mapping[str, Series], note: str) -> Figure:
  """A panel for each kind of scaling, both axes logarithmic.

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
        markersize=5,
        mfc='none',
        color=canvas.colour(number),
        label=way,
      )
    chips = sorted({c for points in series.values() for c, _ in points})
    ax.set_xscale('log', base=2)
    ax.set_yscale('log')
    ax.set_xticks(chips, [f'{c}' for c in chips])
    ax.set_xlabel('chips')
    ax.set_title(title, loc='left')
  axes[0].set_ylabel('images/s at most')
  axes[0].legend()
  fig.supxlabel(note, fontsize=8, color=canvas.FAINT)
  return fig
