"""The page: whole, of the run's numbers, and in need of nothing else."""

import base64
import dataclasses
import html.parser
import io
import os
import shutil

import pytest
import small_runs
from PIL import Image

import alexnet_jax
from alexnet_jax.data import builders
from alexnet_jax.drawing import page, report
from alexnet_jax.runtime import writers
from alexnet_jax.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures('cached')
VOID = {'meta', 'img', 'br'}


class Page(html.parser.HTMLParser):
  """Reads a page; refuses tags that are not closed and addresses outside."""

  def __init__(self, text: str):
    super().__init__()
    self.open, self.images, self.words, self.rows = [], [], [], []
    self.feed(text)
    self.close()
    assert not self.open

  def handle_starttag(self, tag, attrs):
    if tag not in VOID:
      self.open.append(tag)
    assert tag not in {'script', 'link', 'iframe'}
    for name, value in attrs:
      if name in ('src', 'href', 'srcset', 'action', 'data'):
        assert value.startswith('data:image/'), value[:80]
        data = base64.b64decode(value.partition(',')[2], validate=True)
        with Image.open(io.BytesIO(data)) as image:
          image.load()
          self.images.append((dict(attrs)['alt'], image.size))
    if tag == 'tr':
      self.rows.append([])

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if self.open and self.open[-1] == 'style':
      assert 'url(' not in data and '@import' not in data
      return
    self.words.append(data)
    if self.rows and self.open and self.open[-1] in ('td', 'th'):
      self.rows[-1].append(data)


@pytest.fixture(scope='module')
def run(reference, data_dir):
  model = alexnet_jax.load(reference)
  _, meta = small_runs.saved(
    small_runs.small_config(data_dir), reference, model.step
  )
  return report.Run(
    'one & <only>',
    writers.read_rows(reference),
    meta,
    model,
    lambda: builders.open_dataset('pictures', data_dir),
  )


def test_a_run_leaves_its_report(program, reference, tmp_path):
  workdir = shutil.copytree(reference, tmp_path / 'run')
  (workdir / 'report.html' / 'in the way').mkdir(parents=True)
  old = (workdir / 'metrics.jsonl').stat().st_mtime - 1
  os.utime(workdir / 'report.html', (old, old))
  out = program(workdir).run('--report')
  assert 'report.html is a folder' in out
  assert 'no report was drawn' in out
  shutil.rmtree(workdir / 'report.html')
  out = program(workdir).run('--report')
  assert 'report.html written' in out
  found = Page((workdir / 'report.html').read_text())
  # Small files of a test: 11 photographs, 6 of them with 5 neighbours.
  names = [name for name, _ in found.images]
  assert names[:2] == ['curves', 'kernels of conv1']
  assert names.index('confusion') == 2 + 11
  # Curves, kernels, confusion and health.
  assert len(names) == 4 + 11 + 6 * (1 + 5)


def test_the_numbers_are_those_of_the_run(run):
  found = Page(report.write([run], 11, 36))
  best = min(
    (row for row in run.rows if 'validation/loss' in row),
    key=lambda row: row['validation/top1_error'],
  )
  (test,) = [row for row in run.rows if 'test/loss' in row]
  rows = {row[0]: row[1:] for row in found.rows if row}
  for name, row, split in (
    ('one & <only>, validation, best', best, 'validation'),
    ('one & <only>, test, last', test, 'test'),
  ):
    assert rows[name] == [
      f'{row["epoch"]:.1f}',
      f'{100 * row[f"{split}/top1_error"]:.1f} %',
      f'{100 * row[f"{split}/top5_error"]:.1f} %',
      f'{row[f"{split}/loss"]:.3f}',
    ]
  assert rows['2012: 1 network (#145)'] == ['–', '40.7 %', '18.2 %', '–']
  assert rows['model.lrn.size'] == ['5']
  assert any('health' in words.lower() for words in found.words)


def test_several_runs_are_compared(run):
  config = run.meta['config']
  other = dataclasses.replace(
    run,
    name='other',
    meta={**run.meta, 'config': {**config, 'seed': 7}},
    rows=[{**row, 'health/dead': 0.5} for row in run.rows],
  )

  def gone():
    raise UserError('no data set pictures')

  first = dataclasses.replace(run, open_data=gone)
  found = Page(report.write([first, other], 11, 36))
  assert [name for name, _ in found.images] == [
    *('curves', 'kernels of conv1', 'kernels of conv1', 'health')
  ]
  assert 'no data set pictures.' in found.words
  differ = found.words.index('What differs:')
  assert [w for w in found.words[differ:] if w.strip()][1:7] == [
    *('field', 'one & <only>', 'other', 'seed', '0', '7')
  ]


def test_a_name_is_not_html():
  text = page.page('<x>', [page.paragraph('a < b & "c"')])
  found = Page(text)
  assert 'a < b & "c"' in found.words
  assert '<x>' in found.words
