"""One HTML page that needs nothing else: no network, no script."""

import base64
import html
import re
from collections.abc import Iterable, Sequence

from matplotlib.figure import Figure

from alexnet_jax.drawing import canvas

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; color: #222;
  background: #fff; font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: .5rem 0 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; padding-top: .5rem;
  border-top: 1px solid #d8dde3; }
p { max-width: 44rem; margin: .4rem 0; }
.faint, caption { color: #5f6670; font-size: .875rem; text-align: left; }
.wide { overflow-x: auto; }
.wide img { display: block; max-width: 100%; height: auto; margin: .5rem 0; }
.side { display: grid; gap: 0 1rem;
  grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); }
table { border-collapse: collapse; font-size: .9rem; margin: .6rem 0; }
th, td { padding: .25rem .8rem .25rem 0; text-align: left;
  vertical-align: top; overflow-wrap: break-word; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums;
  white-space: nowrap; overflow-wrap: normal; }
thead th { border-bottom: 1px solid #8a8f98; }
tr.old td { color: #5f6670; }
.cards { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); }
figure { margin: 0; }
.cards img, .row img { width: 100%; height: auto; display: block;
  border-radius: 3px; }
figcaption { font-size: .875rem; line-height: 1.3; margin-top: .2rem;
  overflow-wrap: break-word; }
.same { color: #0072b2; } .other { color: #b34700; }
.file { color: #5f6670; font-size: .7rem; line-height: 1.2;
  overflow-wrap: anywhere; }
.bars { list-style: none; margin: .2rem 0 0; padding: 0; font-size: .8rem; }
.bars li { position: relative; padding: 0 .3rem; margin: 1px 0; z-index: 0;
  display: flex; gap: .3rem; justify-content: space-between;
  white-space: nowrap; }
.bars span { overflow: hidden; text-overflow: ellipsis; }
.bars i { position: absolute; inset: 0 auto 0 0; background: #dde2e8;
  z-index: -1; }
.bars .right i { background: #9fc9e8; }
.bars .wrong i { background: #f2b98f; }
.row { display: grid; gap: .5rem; margin: .8rem 0;
  grid-template-columns: repeat(auto-fill, minmax(5.5rem, 1fr)); }
.row.asked figure:first-child img { outline: 3px solid #222;
  outline-offset: 1px; }
details { margin: .6rem 0; }
summary { cursor: pointer; }
code { font-size: .85rem; overflow-wrap: anywhere; }
"""


def document(title: str, body: Iterable[str]) -> str:
  """A whole document; `body` is HTML."""
  return (
    '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f'<title>{text(title)}</title><style>{_STYLE}</style></head><body>\n'
    + '\n'.join(body)
    + '\n</body></html>\n'
  )


def text(words: object) -> str:
  return html.escape(str(words))


def heading(words: str) -> str:
  return f'<h2>{text(words)}</h2>'


def paragraph(words: str, faint: bool = False) -> str:
  marked = re.sub('`([^`]*)`', r'<code>\1</code>', text(words))
  return f'<p{" class=faint" * faint}>{marked}</p>'


def picture(data: bytes, alt: str, kind: str = 'png') -> str:
  """The content of a picture file as HTML that needs no network."""
  uri = f'data:image/{kind};base64,{base64.b64encode(data).decode()}'
  return f'<img src="{uri}" alt="{text(alt)}">'


def chart(fig: Figure, alt: str) -> str:
  return f'<div class=wide>{picture(canvas.encode(fig), alt)}</div>'


def table(
  head: Sequence[str],
  rows: Iterable[tuple[Sequence[str], str]],
  numbers: bool = False,
) -> str:
  """A table.

  Args:
    head: of the columns.
    rows: (cells, CSS class).
    numbers: all columns but the first are.
  """

  def row(cells: Sequence[str], tag: str) -> str:
    first, *others = map(text, cells)
    style = ' class=number' if numbers else ''
    return f'<{tag}>{first}</{tag}>' + ''.join(
      f'<{tag}{style}>{cell}</{tag}>' for cell in others
    )

  lines = [
    f'<tr class="{style}">{row(cells, "td")}</tr>' for cells, style in rows
  ]
  heads = row(head, 'th')
  return (
    f'<div class=wide><table><thead><tr>{heads}</tr></thead><tbody>'
    f'{"".join(lines)}</tbody></table></div>'
  )


def figure(
  data: bytes, caption: str, file: str, more: str = '', style: str = ''
) -> str:
  """A photograph, JPEG, with a caption, its file, and HTML below it."""
  name = re.sub('([/_-])', r'\1<wbr>', text(file))  # where it may be broken
  return (
    f'<figure>{picture(data, caption, "jpeg")}'
    f'<figcaption class="{style}">{text(caption)}</figcaption>'
    f'<div class=file>{name}</div>{more}</figure>'
  )


def bars(shares: Sequence[tuple[str, float, str]]) -> str:
  """(name, share from 0 to 1, 'right', 'wrong' or '') each."""
  lines = (
    f'<li class="{style}" title="{text(name)}"><i style="width:{share:.1%}">'
    f'</i><span>{text(canvas.clipped(name, 22))}</span>{share:.0%}</li>'
    for name, share, style in shares
  )
  return f'<ul class=bars>{"".join(lines)}</ul>'


def group(style: str, parts: Iterable[str]) -> str:
  return f'<div class="{style}">{"".join(parts)}</div>'


def details(summary: str, body: str) -> str:
  return f'<details><summary>{text(summary)}</summary>{body}</details>'
