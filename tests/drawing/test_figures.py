"""What is drawn says what it should, and nothing lies over anything else."""

import dataclasses
import itertools
import subprocess
import sys
import time
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import small_runs

from alexnet_jax.analysis import communication, examples, pictures
from alexnet_jax.drawing import canvas, charts, figure2, panels
from alexnet_jax.models.describe import describe
from alexnet_jax.runtime import writers
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training.settings import configure
from configs import cifar10_80sec, imagenet2012


@pytest.fixture(scope='module')
def settings():
  return configure(imagenet2012.get_config())


@pytest.fixture(scope='module')
def layers(settings):
  return describe(settings.model, 1000, 224)


@pytest.fixture(scope='module')
def needs(settings):
  return communication.needed_bytes(settings, 1000, spread=2)


def test_figure_2_has_the_papers_numbers(layers, needs):
  """§3.5 and figure 2, but for conv1: its caption has 253,440 = 55 * 48 * 96
  where its own 55x55 maps of 96 kernels are 290,400."""
  by_name = {layer.name: layer for layer in layers}
  assert list(by_name) == [
    *('conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'fc6', 'fc7', 'fc8')
  ]
  assert [layer.neurons for layer in layers] == [
    *(290_400, 186_624, 64_896, 64_896, 43_264, 4096, 4096, 1000)
  ]
  assert [layer.output for layer in layers[:5]] == [
    *((55, 55, 48), (27, 27, 128), (13, 13, 192), (13, 13, 192), (13, 13, 128))
  ]
  assert [layer.kernel[:-1] for layer in layers] == [
    *((11, 11, 3), (5, 5, 48), (3, 3, 256), (3, 3, 192), (3, 3, 192)),
    *((9216,), (4096,), (2048,)),
  ]
  assert by_name['conv1'].stride == 4
  assert [layer.parameters for layer in layers] == [
    96 * (11 * 11 * 3 + 1),
    256 * (5 * 5 * 48 + 1),
    384 * (3 * 3 * 256 + 1),
    384 * (3 * 3 * 192 + 1),
    256 * (3 * 3 * 192 + 1),
    4096 * (6 * 6 * 256 + 1),
    4096 * (4096 + 1),
    1000 * (4096 + 1),
  ]
  # Half of the maps that pool2, pool5 and fc6 make, and the logits: float32.
  talk = {'conv3': 13 * 13 * 128, 'fc6': 6 * 6 * 128, 'fc7': 2048, 'fc8': 1000}
  for layer in layers:
    received = needs.get((layer.name, 'forward'), 0)
    assert received == 4 * talk.get(layer.name, 0)
    assert (layer.reads_both or layer.is_logits) == (layer.name in talk)
  assert [step.name for step in by_name['conv1'].then] == ['lrn1', 'pool1']
  assert by_name['conv5'].after == (6, 6, 128)


def test_one_tower_sends_nothing():
  config = imagenet2012.get_config()
  config.model.towers = 1
  settings = configure(config)
  layers = describe(settings.model, 7, 224)
  needs = communication.needed_bytes(settings, 7, spread=1)
  assert not any(needs.values())
  assert layers[2].kernel[:-1] == (3, 3, 128)
  assert layers[-1].neurons == 7
  assert_readable(figure2.draw_network(layers, needs, 224))


def test_the_drawing_has_these_numbers(layers, needs):
  fig = figure2.draw_network(layers, needs, 224)
  texts = assert_readable(fig)
  assert texts.count('13×13×192') == 4  # conv3 and conv4 in either tower
  for layer in layers:
    assert f'{layer.parameters:,}' in texts
    assert f'{layer.neurons:,}' in texts
  assert '60,965,224' in texts
  assert '86,528' in texts


def test_a_net_of_one_tower_of_another_kind():
  settings = configure(cifar10_80sec.get_config())
  layers = describe(settings.model, 10, settings.augment.crop_size)
  assert [(layer.name, layer.output, layer.parameters) for layer in layers] == [
    ('conv1', (32, 32, 32), 32 * (5 * 5 * 3 + 1)),
    ('conv2', (16, 16, 32), 32 * (5 * 5 * 32 + 1)),
    ('conv3', (8, 8, 64), 64 * (5 * 5 * 32 + 1)),
    ('fc64', (64,), 64 * (4 * 4 * 64 + 1)),
    ('fc10', (10,), 10 * (64 + 1)),
  ]
  assert layers[1].after == (8, 8, 32)
  assert {layer.stride for layer in layers} == {1}
  texts = assert_readable(figure2.draw_network(layers, {}, 32))
  assert not any('stride' in text or 'received' in text for text in texts)


def test_long_names_of_steps_have_lines_of_their_own():
  config = imagenet2012.get_config()
  config.model.batch_norm = {'momentum': 0.9, 'epsilon': 1e-5}
  for name in ('conv1', 'conv2', 'conv5'):
    config.model[name].then = ('batch_norm', 'act', 'norm', 'avg_pool')
  layers = describe(configure(config).model, 3, 224)
  # A scale and a bias a map beside the convolution's own; no averages.
  assert layers[0].parameters == 96 * (11 * 11 * 3 + 1 + 2)
  texts = assert_readable(figure2.draw_network(layers, {}, 224))
  assert 'batch_norm, act,\nnorm, pool\xa0to\xa027²' in texts


def assert_readable(fig) -> list[str]:
  """No text over another, none outside; returns them."""
  fig.canvas.draw()
  texts = [text for ax in fig.axes for text in ax.texts if text.get_text()]
  boxes = [text.get_window_extent() for text in texts]
  for i, j in itertools.combinations(range(len(texts)), 2):
    both = (texts[i].get_text(), texts[j].get_text())
    assert not boxes[i].overlaps(boxes[j]), both
  for text, box in zip(texts, boxes, strict=True):
    assert box.x0 > -1 and box.x1 <= fig.bbox.x1, text.get_text()
  return [text.get_text() for text in texts]


def test_bars_are_the_probabilities():
  images = [np.zeros((8, 8, 3), np.uint8)] * 5
  shares = np.random.default_rng(0).dirichlet(np.ones(7), 5)
  names = [f'class {k}' for k in range(7)]
  fig = panels.predictions(images, shares, names, list('abcde'), [3] * 5, top=4)
  titles = [ax.get_title() for ax in fig.axes if ax.get_title()]
  assert titles == list('abcde')
  drawn = [ax for ax in fig.axes if ax.patches]
  assert len(drawn) == 5
  for ax, row in zip(drawn, shares, strict=True):
    order = np.argsort(-row)[:4]
    np.testing.assert_allclose([p.get_width() for p in ax.patches], row[order])
    texts = [text.get_text() for text in ax.texts]
    assert texts == [f'class {k}  {row[k]:.0%}' for k in order]
    inks = [p.get_facecolor() for p in ax.patches]
    for k, place, ink in zip(order, range(4), inks, strict=True):
      red, _, blue, _ = ink  # else grey
      assert (blue > red + 0.1) == (k == 3)
      assert (red > blue + 0.1) == (k != 3 and place == 0)


def test_the_hardest_stand_in_a_row_of_their_class():
  image = np.zeros((8, 8, 3), np.uint8)
  cases = [
    examples.Case(image, f'{i}.jpg', name, 0.9 - i / 10)
    for i, name in enumerate(('bee', 'ant', 'ant'))
  ]
  hard = examples.Hard('ant', 5, 1, cases[:1], cases[1:])
  other = dataclasses.replace(hard, name='bee', wrong=2)
  fig = panels.losses([hard, other], each=2)
  titles = [ax.get_title() for ax in fig.axes if ax.get_title()]
  row = ['bee 90%\n0.jpg', 'ant 80%\n1.jpg', 'ant 70%\n2.jpg']
  assert titles == row * 2
  heads = [text.get_text() for ax in fig.axes for text in ax.texts]
  assert heads[::2] == [
    'ant: 1 of 5 wrong, the most',
    'bee: 2 of 5 wrong, the most',
  ]
  assert_readable(fig)


def test_neighbours_say_how_far_and_whether_alike():
  image = np.zeros((8, 8, 3), np.uint8)
  near = [
    panels.Neighbour(image, 'ant', 'a/1.jpg', 12.3456, True),
    panels.Neighbour(image, 'bee', 'b/1.jpg', 20.0, False),
    panels.Neighbour(image, '', 'c.jpg', 20.5, None),
  ]
  fig = panels.neighbours([image], ['ant\na/0.jpg'], [near])
  titles = [ax.title for ax in fig.axes if ax.get_title()]
  assert [title.get_text().split() for title in titles] == [
    ['ant', 'a/0.jpg'],
    ['=', 'ant', '12.35', 'a/1.jpg'],
    ['bee', '20', 'b/1.jpg'],
    ['20.5', 'c.jpg'],
  ]
  assert [title.get_color() for title in titles] == [
    *(canvas.INK, canvas.RIGHT, canvas.WRONG, canvas.INK)
  ]


@pytest.mark.parametrize('features', [1, 6, 12, 24, 48, 96])
def test_kernels_are_large_at_any_width(features):
  kernels = np.random.default_rng(0).normal(size=(2, 3, 3, 3, features))
  params = {'conv1': {'kernel': kernels.astype(np.float32)}}
  height, width = np.array(pictures.conv1_kernels(params).shape[:2]) // 12
  assert height * width >= 2 * features > (height - 2) * width
  assert features < 48 or width == 16
  assert width <= 16 and width >= height / 2


def test_kernels_are_tensorboards_tiles():
  kernels = np.random.default_rng(0).normal(size=(2, 11, 11, 3, 6))
  params = {'conv1': {'kernel': kernels.astype(np.float32)}}
  mosaic = pictures.conv1_kernels(params)
  tiles = mosaic.reshape(2, 36, -1, 36, 3)[:, :33, :, :33]  # [T, y, x, x', c]
  for tower in range(2):
    for k in range(6):
      one = kernels[tower, ..., k].astype(np.float32)
      want = 255 * (one - one.min()) / (one.max() - one.min())
      found = tiles[tower, ::3, k, ::3]
      assert np.abs(found - want).max() < 0.51
  fig = panels.kernels(mosaic, 2)
  drawn = [ax.images[0].get_array() for ax in fig.axes]
  np.testing.assert_array_equal(np.concatenate(drawn), mosaic)


def test_confusion_shows_the_counts():
  counts = np.array([[3, 0, 1], [0, 2, 0], [1, 1, 0]])
  fig = charts.confusion(counts, ['a', 'b', 'c'])
  (ax,) = fig.axes
  cells = {text.get_position(): text.get_text() for text in ax.texts}
  assert cells == {
    (0, 0): '3',
    (2, 0): '1',
    (1, 1): '2',
    (0, 2): '1',
    (1, 2): '1',
  }
  assert ax.get_title(loc='left') == '62.5% of 8 right'


@pytest.mark.parametrize(
  ('words', 'message'),
  [
    ('nonsense', 'say what to draw: architecture, kernels'),
    ('kernels', 'say of which run: figures kernels WORKDIR'),
    ('kernels a b', 'figures kernels does not take 2 words'),
    ('architecture', 'say of what: a WORKDIR, or --config=FILE'),
    ('curves gone', 'no run in gone: '),
    ('curves x --output=x.gif', 'a picture ends in one of'),
  ],
)
def test_what_figures_does_not_understand(words, message):
  done = subprocess.run(
    [sys.executable, '-m', 'alexnet_jax.figures', *words.split()],
    cwd=small_runs.ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 2
  assert done.stderr.startswith('error: ')
  assert message in done.stderr
  assert 'Traceback' not in done.stderr


@pytest.mark.parametrize('kind', canvas.KINDS)
def test_a_picture_drawn_again_is_the_same_file(kind):
  def draw():
    fig = canvas.figure(2, 1)
    fig.subplots().plot([1, 3, 2])
    return canvas.encode(fig, kind)

  first = draw()
  time.sleep(1.1)  # PDFs have dates in seconds
  assert draw() == first


def test_a_file_is_of_the_kind_its_name_says(layers, needs, tmp_path):
  fig = figure2.draw_network(layers, needs, 224)
  canvas.save(fig, tmp_path / 'a.svg')
  text = ''.join(ET.parse(tmp_path / 'a.svg').getroot().itertext())
  assert '37,752,832' in text
  with pytest.raises(UserError, match=r'x.gif: .* \.png, \.svg'):
    canvas.save(fig, tmp_path / 'x.gif')


def test_rows_of_what_is_no_run(tmp_path):
  with pytest.raises(UserError, match='no run in .*: train first'):
    writers.read_rows(tmp_path)
  (tmp_path / 'metrics.jsonl').write_text('{"epoch": 1}\n{"epoch": 2, "tr')
  assert writers.read_rows(tmp_path) == [{'epoch': 1}]


def test_names_are_cut_in_the_middle():
  assert canvas.clipped('train/a.jpg', 11) == 'train/a.jpg'
  assert canvas.clipped('a\ntrain/12345.jpg', 11) == 'a\ntrain…5.jpg'


def test_names_are_as_long_as_they_must_be():
  assert canvas.short_names(['runs/a', 'runs/b/']) == ['a', 'b']
  assert canvas.short_names(['x/run', 'y/run']) == ['x/run', 'y/run']
