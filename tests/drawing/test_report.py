"""The page: whole, of the run's numbers, and in need of nothing else."""

import base64
import copy
import dataclasses
import html.parser
import io
import os
import re
import shutil
import types

import numpy as np
import pytest
from flax import nnx
from PIL import Image

import alexnet_jax
from alexnet_jax.data import builders
from alexnet_jax.drawing import charts, page, run_report
from alexnet_jax.models.networks import read_table
from alexnet_jax.runtime import writers
from alexnet_jax.runtime.checkpoint import Checkpointer
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training import saved
from configs import default

pytestmark = pytest.mark.usefixtures('cached')
VOID = {'meta', 'img', 'br', 'wbr'}
CURVES = ['loss', 'top-1 error', 'learning rate']


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
  with Checkpointer(reference / 'checkpoints') as checkpointer:
    meta = saved.read_meta(checkpointer, model.step)
  return run_report.Run(
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
  assert names[:4] == [*CURVES, 'kernels of conv1']
  assert names.index('confusion') == 4 + 11
  # Of each class all are among the least sure, for it has at most 2.
  hard = re.findall(r'(\d+) of (\d+) wrong', ' '.join(found.words))
  wrong, all_of_them = np.array(hard, int).sum(0)
  assert all_of_them == 11
  # Confusion, and three charts of health.
  assert len(names) == 4 + 11 + 1 + 3 + (11 + wrong) + 6 * (1 + 5)


def test_the_numbers_are_those_of_the_run(run):
  found = Page(run_report.make_report([run], 11, 36))
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
  assert not any('2012' in name for name in rows)
  assert rows['model.lrn.size'] == ['5']
  assert any('health' in words.lower() for words in found.words)


def test_several_runs_are_compared(run):
  config = run.meta['config']
  other = dataclasses.replace(
    run,
    name='other',
    meta={**run.meta, 'config': {**config, 'seed': 7}},
    rows=[{**row, 'health/conv1_dead': 0.5} for row in run.rows],
  )

  def gone():
    raise UserError('no data set pictures')

  first = dataclasses.replace(run, open_data=gone)
  found = Page(run_report.make_report([first, other], 11, 36))
  assert [name for name, _ in found.images] == [
    *(*CURVES, 'kernels of conv1', 'kernels of conv1', *charts.HEALTH.values())
  ]
  assert 'no data set pictures.' in found.words
  differ = found.words.index('What differs:')
  assert [w for w in found.words[differ:] if w.strip()][1:7] == [
    *('field', 'one & <only>', 'other', 'seed', '0', '7')
  ]


def test_a_name_is_not_html():
  text = page.document('<x>', [page.paragraph('a < b & "c"')])
  found = Page(text)
  assert 'a < b & "c"' in found.words
  assert '<x>' in found.words


# ---- A network by hand, which tells photographs apart by how light they are.

NAMES = ('ant', 'bee', 'cat', 'dog', 'eel', 'fox', 'gnu', 'hen', 'ibis')
# Of a test photograph: light, its class, and what it is taken for.
TEST = (
  *((5, 0, 0), (6, 0, 1), (150, 1, 1), (7, 0, 1), (85, 2, 0), (8, 1, 1)),
  *((45, 0, 0), (9, 2, 2), (115, 8, 3), (10, 0, 1), (70, 4, 4), (11, 3, 8)),
)


@pytest.fixture(scope='module')
def by_hand():
  """Its page, read, and the figures on it by name.

  Photograph i of training is of class i, with 20 i of light; 5 of the 9 are
  looked among: 0, 2, 4, 6 and 8.
  """

  def example(light, label):
    return {'image': np.full((256, 256, 3), light, np.uint8), 'label': label}

  class Data:
    class_names, num_classes = NAMES, len(NAMES)
    examples = {
      'train': [example(20 * i, i) for i in range(9)],
      'test': [example(light, label) for light, label, _ in TEST],
    }

    def num_examples(self, split):
      return len(self.examples[split])

    def source(self, split):
      return self.examples[split]

    def files(self, split, indices):
      return [f'{split}/{index}.jpg' for index in indices]

  class Model:
    config, stage = default.get_config(), 'step 1'
    class_names = readable_names = short_names = NAMES
    table = read_table(config.model.to_dict())
    kernels = np.zeros((2, 11, 11, 3, 4), np.float32)
    params = nnx.State({'conv1': {'kernel': nnx.Param(kernels)}})

    def features(self, images, layer):
      assert layer == 'fc7'
      return np.array([[image[0, 0, 0]] for image in images], np.float32)

    def predict(self, images):
      """Photograph i with a probability of 0.5 + 0.03 i."""
      lights = [light for light, *_ in TEST]
      order = [lights.index(image[0, 0, 0]) for image in images]
      share = 0.5 + 0.03 * np.array(order)[:, None]
      taken = np.eye(9)[[TEST[i][2] for i in order]]
      return share * taken + (1 - share) / 8 * (1 - taken)

    def log_probabilities(self, images):
      return np.log(self.predict(images))

  environment = {'alexnet_jax': '1', 'commit': '', 'jax': '1', 'devices': ['x']}
  run = run_report.Run(
    'by hand',
    [{'epoch': 1.0, 'train/loss': 1.0, 'train/learning_rate': 0.01}],
    {'config': {}, 'environment': environment},
    Model(),
    Data,
  )
  figures = {}

  def chart(fig, name):
    figures[name] = fig
    return drawn(fig, name)

  drawn = page.chart
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(page, 'chart', chart)
    text = run_report.make_report([run], photographs=12, gallery=5)
  return types.SimpleNamespace(page=Page(text), figures=figures)


def test_the_page_says_what_was_taken_for_what(by_hand):
  (ax,) = by_hand.figures['confusion'].axes
  assert (ax.get_ylabel(), ax.get_xlabel()) == ('true', 'predicted')
  columns, rows = (
    dict(zip(axis.get_ticklocs(), names, strict=True))
    for axis, names in (
      (ax.xaxis, [text.get_text() for text in ax.get_xticklabels()]),
      (ax.yaxis, [text.get_text() for text in ax.get_yticklabels()]),
    )
  )
  found = {}
  for text in ax.texts:
    x, y = text.get_position()
    found[rows[y], columns[x]] = int(text.get_text())
  assert found == {
    **{('ant', 'ant'): 2, ('ant', 'bee'): 3, ('bee', 'bee'): 2},
    **{('cat', 'ant'): 1, ('cat', 'cat'): 1, ('dog', 'ibis'): 1},
    **{('eel', 'eel'): 1, ('ibis', 'dog'): 1},
  }
  assert ax.get_title(loc='left') == '50.0% of 12 right'


def test_the_page_shows_the_nearest(by_hand):
  """Every other photograph, then all 5 by the distance in light."""
  names = [name for name, _ in by_hand.page.images]
  text = ''.join(by_hand.page.words)
  assert 'test/0.jpg' in text and 'train/8.jpg' in text
  shown = names[-36:]
  assert [' '.join(shown[i : i + 6]) for i in range(0, len(shown), 6)] == [
    'ant ant 5 cat 35 eel 75 gnu 115 ibis 155',  # 5: 0, 40, 80, 120, 160
    'bee ibis 10 gnu 30 eel 70 cat 110 ant 150',  # 150: 160, 120, 80, 40, 0
    'cat eel 5 gnu 35 cat 45 ibis 75 ant 85',  # 85: 80, 120, 40, 160, 0
    'ant cat 5 eel 35 ant 45 gnu 75 ibis 115',  # 45: 40, 80, 0, 120, 160
    'ibis gnu 5 eel 35 ibis 45 cat 75 ant 115',  # 115: 120, 80, 160, 40, 0
    'eel eel 10 cat 30 gnu 50 ant 70 ibis 90',  # 70: 80, 40, 120, 0, 160
  ]


def test_the_page_shows_the_hardest(by_hand):
  """The worst classes first; of each the wrong ones by the probability of the
  class, which is least where another's is largest, then the least sure."""
  names = [name for name, _ in by_hand.page.images]
  shown = names[names.index('confusion') + 1 : -36]
  dog, ibis = ['ibis 83%'] * 2, ['dog 74%'] * 2
  ant = ['bee 77%', 'bee 59%', 'bee 53%', 'ant 50%', 'bee 53%', 'bee 59%']
  cat = ['ant 62%', 'ant 62%', 'cat 71%']
  assert shown == [
    *(*dog, *ibis, *ant, 'ant 68%', *cat),
    *('bee 56%', 'bee 65%', 'eel 80%'),
  ]
  assert [w for w in by_hand.page.words if w.endswith(' wrong')] == [
    *('dog: 1 of 1 wrong', 'ibis: 1 of 1 wrong', 'ant: 3 of 5 wrong'),
    *('cat: 1 of 2 wrong', 'bee: 0 of 2 wrong', 'eel: 0 of 1 wrong'),
  ]


def test_the_table_has_the_error_of_the_matrix(by_hand):
  (row,) = [row for row in by_hand.page.rows if row[0].endswith(', now')]
  right = [0.5 + 0.03 * i for i, (_, a, b) in enumerate(TEST) if a == b]
  wrong = [(0.5 - 0.03 * i) / 8 for i, (_, a, b) in enumerate(TEST) if a != b]
  loss = -np.log([*right, *wrong]).mean()
  assert row[0] == 'by hand, test, step 1, now'
  assert row[1:3] == ['–', '50.0 %'] and row[4] == f'{loss:.3f}'
  text = ' '.join(by_hand.page.words)
  assert 'All 12 photographs of test. 50.0% of them are wrong' in text


def test_the_page_has_every_number_of_2012(run):
  """Table 2 of the paper, and what the authors' program logged."""
  assert [numbers for _, *numbers in run_report.PAPER] == [
    *([40.7, 18.2], [42.034, 19.362], [41.058, 18.51], [41.828, 19.33]),
    *([38.1, 16.4], [36.7, 15.4]),
  ]

  def gone():
    raise UserError('run `prepare`')

  model = copy.copy(run.model)
  model.class_names = [f'n{i:08}' for i in range(1000)]
  run = dataclasses.replace(run, model=model, open_data=gone)
  found = Page(run_report.make_report([run], 1, 1))
  assert 'prepare' in found.words  # as code, without its marks
  rows = [row for row in found.rows if row[0].startswith('2012: ')]
  assert rows == [
    ['2012: 1 network (#145)', '–', '40.7 %', '18.2 %', '–'],
    [
      *('2012: without response normalization (#148)', '–'),
      *('42.0 %', '19.4 %', '–'),
    ],
    [
      *('2012: pooling without overlap (#147)', '–'),
      *('41.1 %', '18.5 %', '–'),
    ],
    [
      *('2012: towers that do not talk (#150)', '–'),
      *('41.8 %', '19.3 %', '–'),
    ],
    ['2012: 5 networks averaged', '–', '38.1 %', '16.4 %', '–'],
    [
      *('2012: 7 networks, two of them pre-trained', '–'),
      *('36.7 %', '15.4 %', '–'),
    ],
  ]
