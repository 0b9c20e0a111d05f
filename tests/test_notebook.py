"""docs/alexnet.ipynb runs from nothing, and says what it ran."""

import json
import os
import re
import subprocess
import sys

import pytest
from small_runs import ROOT

NOTEBOOK = ROOT / 'docs/alexnet.ipynb'
# All code cells of a notebook, in order, in one namespace, as Jupyter does.
RUN = """
import json, sys
names = {'__name__': '__main__'}
with open(sys.argv[1], encoding='utf-8') as file:
  cells = json.load(file)['cells']
for cell in cells:
  if cell['cell_type'] == 'code':
    source, name = ''.join(cell['source']), f'cell {cell["id"]}'
    exec(compile(source, name, 'exec', optimize=0), names)
    print('ran', cell['id'], flush=True)
"""


def run(notebook, folder):
  """Runs a notebook where there is nothing but an empty folder."""
  env = {k: v for k, v in os.environ.items() if not k.startswith('ALEXNET_')}
  # Most of its time is XLA's compiling.
  flags = '--xla_backend_optimization_level=0'
  return subprocess.run(
    [sys.executable, '-c', RUN, str(notebook)],
    cwd=folder,
    env=env | {'PYTHONPATH': str(ROOT), 'XLA_FLAGS': flags},
    capture_output=True,
    text=True,
    timeout=300,
  )


@pytest.fixture(scope='module')
def notebook():
  return json.loads(NOTEBOOK.read_text(encoding='utf-8'))


def test_every_cell_runs(notebook, tmp_path):
  done = run(NOTEBOOK, tmp_path)
  assert done.returncode == 0, done.stderr
  ids = [c['id'] for c in notebook['cells'] if c['cell_type'] == 'code']
  assert re.findall('^ran (.*)$', done.stdout, re.MULTILINE) == ids
  assert not list(tmp_path.iterdir())  # it leaves nothing behind


def test_a_cell_that_fails_is_noticed(notebook, tmp_path):
  cell = {'cell_type': 'code', 'id': 'wrong', 'source': ['x = 1\n']}
  cell['source'].append('assert x == 2')
  (tmp_path / 'wrong.ipynb').write_text(json.dumps({'cells': [cell]}))
  done = run(tmp_path / 'wrong.ipynb', tmp_path)
  assert done.returncode == 1
  assert '"cell wrong", line 2' in done.stderr
  assert 'AssertionError' in done.stderr


def test_it_is_a_notebook_without_outputs(notebook):
  """nbformat 4.5 (nbformat.readthedocs.io/en/latest/format_description)."""
  assert set(notebook) == {'cells', 'metadata', 'nbformat', 'nbformat_minor'}
  assert (notebook['nbformat'], notebook['nbformat_minor']) == (4, 5)
  assert notebook['metadata']['kernelspec']['name'] == 'python3'
  cells = notebook['cells']
  ids = [cell['id'] for cell in cells]
  assert len(set(ids)) == len(ids)
  assert all(re.fullmatch('[a-zA-Z0-9_-]{1,64}', name) for name in ids)
  common = {'cell_type', 'id', 'metadata', 'source'}
  for cell in cells:
    code = cell['cell_type'] == 'code'
    extra = {'execution_count', 'outputs'} if code else set()
    assert cell['cell_type'] in ('code', 'markdown')
    assert set(cell) == common | extra, cell['id']
    assert isinstance(cell['metadata'], dict)
    # A list of lines, each but the last with its end.
    *lines, last = cell['source']
    assert all(line.endswith('\n') for line in lines) and last.strip()
    if code:
      assert cell['execution_count'] is None and cell['outputs'] == []


def test_it_follows_the_paper_and_checks_what_it_says(notebook):
  sections: dict[str, list[str]] = {}
  for cell in notebook['cells']:
    text = ''.join(cell['source'])
    heading = re.match(r'## (§[\d.]+)', text)
    if cell['cell_type'] == 'markdown' and heading:
      sections[heading[1]] = []
    elif cell['cell_type'] == 'code' and sections:
      list(sections.values())[-1].append(text)
  assert list(sections) == [
    *('§2', '§3.1', '§3.2', '§3.3', '§3.4', '§3.5', '§4.1', '§4.2', '§5'),
  ]
  for heading, codes in sections.items():
    assert codes, heading
    assert all(re.search('^ *assert ', code, re.M) for code in codes), heading
