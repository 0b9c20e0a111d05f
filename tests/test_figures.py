"""What is drawn says what it should, and nothing lies over anything else."""

import itertools
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import small_runs

from alexnet_jax.drawing import architecture as drawing
from alexnet_jax.drawing import canvas, charts
from alexnet_jax.learning import architecture
from alexnet_jax.runtime import writers
from alexnet_jax.runtime.errors import UserError
from configs import imagenet2012


@pytest.fixture(scope='module')
def layers():
  return architecture.describe(imagenet2012.get_config(), 1000)


def test_figure_2_has_the_papers_numbers(layers):
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
  assert [layer.kernel for layer in layers] == [
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
    assert layer.received == 4 * talk.get(layer.name, 0)
    assert layer.reads_all == (layer.name in talk)
  assert by_name['conv1'].then == ('lrn1', 'pool1')
  assert by_name['conv5'].after == (6, 6, 128)


def test_one_tower_sends_nothing():
  config = imagenet2012.get_config()
  config.model.towers = 1
  layers = architecture.describe(config, 7)
  assert not any(layer.received for layer in layers)
  assert layers[2].kernel == (3, 3, 128)
  assert layers[-1].neurons == 7
  assert_readable(drawing.draw(layers, 224, 1))


def test_the_drawing_has_these_numbers(layers):
  fig = drawing.draw(layers, 224, 2)
  texts = assert_readable(fig)
  assert texts.count('13×13×192') == 4  # conv3 and conv4 in either tower
  for layer in layers:
    assert f'{layer.parameters:,}' in texts
    assert f'{layer.neurons:,}' in texts
  assert '60,965,224' in texts
  assert '86,528' in texts


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


def test_curves_are_the_rows(reference):
  rows = writers.read_rows(reference)
  fig = charts.curves({'a': rows, 'b': rows})
  loss, error, rate = fig.axes
  for ax, key in ((loss, 'loss'), (error, 'top1_error')):
    want = [
      (row['epoch'], row[f'validation/{key}'])
      for row in small_runs.rows(reference)
      if f'validation/{key}' in row
    ]
    lines = [line.get_xydata().tolist() for line in ax.lines]
    assert lines.count([list(point) for point in want]) == 2
  # 18 rows are fewer than are drawn: every one of them.
  assert len(rate.lines[0].get_xdata()) == 18
  labels = [text.get_text() for text in fig.legends[0].get_texts()]
  assert labels == ['training', 'validation', 'test', 'a', 'b']


def test_long_curves_are_means(tmp_path):
  rows = [{'epoch': i / 100, 'train/loss': float(i)} for i in range(400)]
  (line,) = [
    line
    for line in charts.curves({'a': rows}).axes[0].lines
    if len(line.get_xdata())
  ]
  np.testing.assert_allclose(
    line.get_ydata(), np.arange(400.0).reshape(-1, 10).mean(1)
  )


def test_a_file_is_of_the_kind_its_name_says(layers, tmp_path):
  fig = drawing.draw(layers, 224, 2)
  canvas.save(fig, tmp_path / 'a.svg')
  text = ''.join(ET.parse(tmp_path / 'a.svg').getroot().itertext())
  assert '37,752,832' in text
  with pytest.raises(UserError, match=r'x.gif: .* \.png, \.svg'):
    canvas.save(fig, tmp_path / 'x.gif')


def test_rows_of_what_is_no_run(tmp_path):
  with pytest.raises(UserError, match='is not a run: it has no metrics.jsonl'):
    writers.read_rows(tmp_path)
  (tmp_path / 'metrics.jsonl').write_text('{"epoch": 1}\n{"epoch": 2, "tr')
  assert writers.read_rows(tmp_path) == [{'epoch': 1}]


def test_names_are_as_long_as_they_must_be():
  assert canvas.names_of(['runs/a', 'runs/b/']) == ['a', 'b']
  assert canvas.names_of(['x/run', 'y/run']) == ['x/run', 'y/run']
