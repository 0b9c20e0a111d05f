"""What the site of `make docs` has beside docs/: the README as its start page,
the notebook, what each command's --help says, and the docstrings."""

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from urllib.parse import unquote

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
_PACKAGE = ROOT / 'alexnet_jax'
_FENCE = '````'
# Of a checkout, and the page that is made of it.
_MADE = (
  (r'\]\(\.\./README\.md', '](index.md'),
  (r'\]\(alexnet\.ipynb', '](notebook.md'),
  (
    r'\]\(\.\./alexnet_jax/(\w+)/(\w+)\.py',
    r'](reference/\1.md#alexnet_jax.\1.\2',
  ),
)
_ELSEWHERE = re.compile(
  r'<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=["\']?(?:https?:)?//[^>]*>'
)
_PICTURE = re.compile(r'<img\b[^>]*\bsrc="([^":]+)"')


def on_files(files: Files, config: MkDocsConfig) -> None:
  notebook = files.get_file_from_path('alexnet.ipynb')
  assert notebook is not None
  files.remove(notebook)
  pages = {
    'index.md': _start(),
    'CITATION.cff': (ROOT / 'CITATION.cff').read_text(),
    'commands.md': _commands(),
    'notebook.md': _notebook(json.loads(notebook.content_string)),
    'reference/alexnet_jax.md': '::: alexnet_jax\n    options:\n'
    '      heading_level: 1',
  } | {f'reference/{room}.md': text for room, text in _rooms().items()}
  for uri, content in pages.items():
    files.append(File.generated(config, uri, content=content))


def on_page_markdown(markdown: str, **_) -> str:
  """Links as a checkout has them, to pages that are made here."""
  for link, page in _MADE:
    markdown = re.sub(link, page, markdown)
  return markdown


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> None:
  """Fails if a page loads anything from another place, or shows a picture that
  is not there, which MkDocs itself does not see in HTML."""
  if found := _ELSEWHERE.search(output):
    raise PluginError(f'not to be read offline: {found[0]}')
  folder = Path(config.docs_dir, page.file.src_uri).parent
  for name in _PICTURE.findall(output):
    if not (folder / unquote(name)).exists():
      raise PluginError(f'{page.file.src_uri}: there is no picture {name}')


def _start() -> str:
  """README.md with its sections as tabs, so that one screen shows them all."""
  text = re.sub(r'(\]\(|src=")docs/', r'\1', (ROOT / 'README.md').read_text())
  head, *sections = re.split(r'^## (.+)\n', text, flags=re.MULTILINE)
  tabs = [
    f'=== "{title}"\n{textwrap.indent(body, "    ")}'
    for title, body in zip(sections[::2], sections[1::2], strict=True)
  ]
  return '\n'.join(('---\nhide: [navigation, toc]\n---\n', head, *tabs))


def _notebook(notebook: dict) -> str:
  parts = []
  for cell in notebook['cells']:
    text = ''.join(cell['source'])
    code = cell['cell_type'] == 'code'
    parts.append(f'{_FENCE}python\n{text}\n{_FENCE}' if code else text)
  return '\n\n'.join(parts)


def _commands() -> str:
  from alexnet_jax import __main__ as command

  def said(*words: str) -> str:
    ended = subprocess.run(
      [sys.executable, '-m', 'alexnet_jax', *words, '--help'],
      cwd=ROOT,
      stdout=subprocess.PIPE,
      text=True,
    )
    text = ended.stdout.replace(f'{ROOT}{os.sep}', '')
    assert text, words
    return f'{_FENCE}text\n{text.strip()}\n{_FENCE}'

  parts = ['# Commands', said()]
  for verb in command.VERBS:
    parts += [f'## alexnet {verb}', said(verb)]
  return '\n\n'.join(parts)


def _rooms() -> dict[str, str]:
  """A page for each folder of the package."""
  pages: dict[str, str] = {}
  for path in sorted(_PACKAGE.glob('*/*.py')):
    if path.stem != '__init__':
      room = path.parent.name
      page = pages.get(room, f'# alexnet_jax.{room}')
      pages[room] = f'{page}\n\n::: alexnet_jax.{room}.{path.stem}'
  return pages
