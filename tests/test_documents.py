"""README.md and docs/*.md: links lead somewhere, numbers are those of rows."""

import re
import urllib.parse
from pathlib import Path

import pytest

from alexnet_jax.benchmarks import results
from experiments import speed, table

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
_LINK = re.compile(
  r'!?\[(?:[^\[\]]|!?\[[^\]]*\]\([^)]*\))*\]\(\s*([^)\s]+)\s*\)'
)
_IMAGE = re.compile(r'<img\s[^>]*?src="([^"]+)"')
_FENCE = re.compile(r'^```.*?^```$', re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
  """A page without its blocks of code."""
  return _FENCE.sub('', page.read_text())


def links(text: str) -> list[str]:
  """Targets of all links and pictures; of a picture in a link, both."""
  found = []
  for match in _LINK.finditer(text):
    found += [match[1], *links(match[0][1:-1])]
  return found + _IMAGE.findall(text)


def anchors(page: Path) -> set[str]:
  """The anchors that GitHub gives to the headings of a page."""
  found: set[str] = set()
  for heading in re.findall(r'^#+ +(.+?) *$', prose(page), re.MULTILINE):
    text = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', heading)
    slug = re.sub(r'[^\w\- ]', '', text.lower()).replace(' ', '-')
    number = 0
    while (name := f'{slug}-{number}' if number else slug) in found:
      number += 1
    found.add(name)
  return found


def broken_links(page: Path) -> list[str]:
  """The links of a page, to this project, that lead nowhere."""
  broken = []
  for link in links(prose(page)):
    path, _, anchor = urllib.parse.unquote(link).partition('#')
    if urllib.parse.urlparse(link).scheme:
      continue
    target = page.parent / path if path else page
    inside = target.resolve().is_relative_to(ROOT)
    if not (inside and target.exists()) or (
      anchor and not (target.suffix == '.md' and anchor in anchors(target))
    ):
      broken.append(link)
  return broken


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
  assert not broken_links(page)


def test_broken_links_are_found(tmp_path, monkeypatch):
  root = tmp_path / 'root'
  root.mkdir()
  monkeypatch.setitem(globals(), 'ROOT', root)
  page = root / 'page.md'
  page.write_text(
    '# Two (§3.2) `words`\n# Again\n# Again\n'
    '[a](#two-32-words) [b](page.md#again-1) [c](https://x.y/z#w)\n'
    '[d](no.md) [e](#no) [![f](no.png)](#again)\n[over\nlines](\nalso_no.md)\n'
    '[g](../outside.md)\n```\n[h](code.md)\n# Comment\n```\n'
  )
  (tmp_path / 'outside.md').touch()
  want = ['no.md', '#no', 'no.png', 'also_no.md', '../outside.md']
  assert broken_links(page) == want


def test_every_page_and_picture_can_be_reached_from_the_readme():
  seen, new = set(), {ROOT / 'README.md'}
  while new:
    page = new.pop()
    seen.add(page)
    if page.suffix == '.md':
      targets = {link.partition('#')[0] for link in links(prose(page))}
      paths = {(page.parent / target).resolve() for target in targets if target}
      new |= paths - seen
  files = {*(ROOT / 'docs').glob('*.*'), *(ROOT / 'docs/pictures').iterdir()}
  assert not files - seen


def missing_files(page: Path) -> list[str]:
  """The files of the program that a page names and that there are not."""
  folders = ('alexnet_jax', 'configs', 'experiments', 'tests')
  there = [str(p) for f in folders for p in (ROOT / f).rglob('*.py')]
  return [
    name
    for name in re.findall(r'`([\w./-]+\.py)`', prose(page))
    if not any(path.endswith(f'/{name}') for path in there)
  ]


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page):
  assert not missing_files(page)


def test_missing_files_are_found(tmp_path):
  page = tmp_path / 'page.md'
  page.write_text('`training/loop.py` `loop.py` `loops.py` `models/loop.py`')
  assert missing_files(page) == ['loops.py', 'models/loop.py']


def test_the_readme_is_short():
  assert len((ROOT / 'README.md').read_text().splitlines()) <= 150


# -- what README says of rows


def table_line(start: str) -> str:
  """The line of README's table whose first cell begins so."""
  lines = (ROOT / 'README.md').read_text().splitlines()
  (line,) = (line for line in lines if line.startswith(f'| {start}'))
  return line


def standard_error(error: float, pictures: int) -> float:
  """Of an error in percent."""
  return (error * (100 - error) / pictures) ** 0.5


def test_the_readme_has_the_errors_of_the_rows():
  (line,) = table.read('cifar_80sec', 'cifar').lines
  se = standard_error(line.alone.value, 10_000)
  cells = f'| {line.alone.value:.1f} ± {se:.1f} % | 26 % |'
  text = table_line("cuda-convnet's `80sec`")
  assert cells in text and f'n = {line.alone.n} |' in text
  for start, name, variant in (
    ('one tower in place of two', 'one_tower', 'one'),
    ('no response normalization', 'lrn', 'without'),
    ('one view in place of ten', 'views', '1'),
  ):
    lines = table.read(name, 'small').lines
    (line,) = (line for line in lines if line.variant == variant)
    assert line.verdict.startswith('agrees')
    found, text = line.judged, table_line(start)
    interval = f'({found.low:.1f} to {found.high:.1f})'
    assert f'| {found.value:+.1f} points {interval} |' in text
    assert f'| {line.claim.paper:+g} |' in text
    assert f'n = {found.n} |' in text


def test_the_readme_has_the_runs_of_the_results():
  page = (ROOT / 'docs/results.md').read_text()
  assert '| 7 | 1 | 6.4 % | 7.8 % | 4 min 49 s' in page
  error = standard_error(7.8, 1000)  # pictures of `shapes`
  text = table_line('default run')
  assert f'| 7.8 ± {error:.1f} % on one machine, 12.8 and 13.5 %' in text
  readme = (ROOT / 'README.md').read_text()
  for split, error in ('validation', 6.4), ('test', 7.8):
    line = f'epoch 7, {split}: loss ..., error {error}'
    assert line in readme


def test_the_readme_has_the_bytes_of_the_paper_page():
  page = (ROOT / 'docs/paper.md').read_text()
  cells = re.findall(r'\| forward \| [\w-]+ \| ([\d,]+) \| ([\d,]+) \|', page)
  assert len(cells) == 4 and all(sent == least for sent, least in cells)
  total = sum(int(sent.replace(',', '')) for sent, _ in cells)
  assert f'| {total:,} bytes an image |' in table_line('a device receives')


def test_the_readme_has_the_speed_of_the_rows():
  kind = {'benchmark': 'step', 'batch': '128', 'width': '1', 'cores': '2'}
  measured = [
    row
    for row in results.read_csv(speed.ROWS)
    if kind.items() <= row.items() and 'times_torch' in row
  ]
  rate, times, compiled = (
    float(measured[0][field])
    for field in ('images_per_sec', 'times_torch', 'times_torch_compile')
  )
  text = ' '.join((ROOT / 'README.md').read_text().split())
  assert f"takes {rate:.0f} images/s: {times:.1f} times PyTorch's rate" in text
  assert f'{compiled:.1f} times that of `torch.compile`' in text
