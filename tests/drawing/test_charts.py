"""Curves have the numbers of the rows, and axes that can be read."""

import re

import numpy as np
import pytest
import small_runs

from alexnet_jax.drawing import canvas, charts
from alexnet_jax.runtime import writers

pytestmark = pytest.mark.usefixtures('cached')


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


@pytest.mark.parametrize(
  ('rates', 'shown'),
  [
    ([0.01, 0.001, 0.0001], {'0.01', '0.001', '0.0001'}),
    ([0.02, 0.02], {'0.02'}),  # no power of ten is near
    ([0.3, 0.02], {'0.3', '0.02'}),
    ([0.01 * 0.8**i for i in range(9)], {'0.01', '0.002'}),
  ],
)
def test_learning_rates_have_plain_digits(rates, shown):
  rows = [
    {'epoch': float(epoch), 'train/learning_rate': rate}
    for epoch, rate in enumerate(rates)
  ]
  fig = charts.curves({'a': rows}, {'learning_rate': 'learning rate'})
  text = canvas.encode(fig, 'svg').decode()  # in an SVG text stays text
  assert shown <= set(re.findall(r'>([^<>]+)</text>', text))
  assert '$' not in text


def test_every_layer_has_its_line(reference):
  rows = small_runs.rows(reference)
  fig = charts.by_layer({'a': rows, 'b': rows}, 'update', 'updates')
  (ax,) = fig.axes
  labels = [text.get_text() for text in ax.get_legend().get_texts()]
  assert labels == [f'conv{i}' for i in range(1, 6)] + ['fc6', 'fc7', 'fc8']
  for number, name in enumerate(labels):
    want = [
      (row['epoch'], row[f'health/{name}_update'])
      for row in rows
      if f'health/{name}_update' in row
    ]
    for line in ax.lines[number], ax.lines[number + len(labels)]:
      assert line.get_xydata().tolist() == [list(point) for point in want]
  assert charts.by_layer({'a': rows}, 'nothing', '') is None


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
