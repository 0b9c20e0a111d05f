"""docs/benchmarks.md, against its rows."""

import csv
import re

import pytest

from alexnet_jax.benchmarks import results
from experiments import speed


def test_a_line_for_each_row():
  about = {
    'machine': 'EPYC',
    'cores': '2',
    'versions': 'jax 0',
    'commit': 'abc',
    'batch': '64',
  }
  step = about | {
    'benchmark': 'step',
    'name': 'ours',
    'width': '1',
    'lrn': 'False',
    'images_per_sec': '32.468',
    'images_per_sec_low': '27.9',
    'images_per_sec_high': '34',
    'times_torch': '1.674',
    'times_torch_low': '1.5',
    'times_torch_high': '1.7',
  }
  memory = about | {'benchmark': 'memory', 'name': 'alexnet_jax'}
  for end in ('', '_low', '_high'):
    memory[f'peak_memory_gb{end}'] = '3.5'
  text = speed.page('a <!-- benchmarks -->old<!-- /benchmarks --> b', [])
  assert text.startswith('a <!-- b') and text.endswith('/benchmarks --> b')
  assert 'old' not in text
  *_, first, second = speed.machine_tables([step, memory]).splitlines()
  assert first == (
    '| step | ours, no LRN | 64, 1 | 32.5 (27.9-34) images/s | '
    '1.67 (1.5-1.7)x | abc |'
  )
  assert second.split(' | ')[2:4] == ['64', '3.5 (3.5-3.5) GB']
  other = step | {'machine': 'Xeon', 'versions': 'jax 1'}
  text = speed.machine_tables([step, other, memory])
  assert text.count('| ours') == 2
  assert text.index('EPYC, 2 cores; jax 0:') < text.index('memory')
  assert text.index('memory') < text.index('Xeon, 2 cores; jax 1:')


def test_a_line_for_each_layer():
  layer = {
    **{'benchmark': 'layers', 'name': 'conv1', 'training_gflops': '76.4'},
    **{'batch': '64', 'repeats': '3', 'machine': 'EPYC', 'cores': '2'},
    **{'commit': 'abc', 'forward_seconds': '0.0922'},
    **{'plain_forward_seconds': '0.1147', 'training_seconds': '0.17856'},
    'plain_training_seconds': '0.42216',
  }
  pool = {k: v for k, v in layer.items() if k != 'training_gflops'}
  text = speed.page('<!-- benchmarks --><!-- /benchmarks -->', [layer, pool])
  lines = text.splitlines()
  assert '| conv1 | 92.2 | 114.7 | 178.6 | 422.2 | 76 |' in lines
  assert '| conv1 | 92.2 | 114.7 | 178.6 | 422.2 |  |' in lines


def test_the_page_is_that_of_the_rows():
  text = speed.PAGE.read_text()
  rows = results.read_csv(speed.ROWS)
  assert text == speed.page(text, rows), 'python -m experiments.speed'
  assert any(row['benchmark'] == 'layers' for row in rows)
  compiled = results.read_json(speed.COMPILED)
  text = speed.GPU_PAGE.read_text()
  assert text == speed.gpu_page(text, rows, compiled), 'make gpu-report'
  assert all(row['benchmark'] == 'gpu' for row in compiled)
  assert (speed.PAGE.parent / speed.PICTURE).exists()


def test_the_tables_have_the_numbers_of_the_file():
  """Read back: within the three digits that are shown, and in their order."""
  with speed.ROWS.open(newline='') as stream:
    rows = list(csv.DictReader(stream))
  both = results.read_csv(speed.ROWS)
  text = speed.page('<!-- benchmarks --><!-- /benchmarks -->', both)
  marks = (
    '<!-- measured --><!-- /measured --><!-- compiled --><!-- /compiled -->'
  )
  compiled = results.read_json(speed.COMPILED)
  text += '\n' + speed.gpu_page(marks, both, compiled)
  lines = [line.split(' | ') for line in text.splitlines()]
  fields = {
    'step': ('images_per_sec', 'images/s'),
    'eval': ('images_per_sec', 'images/s'),
    'end_to_end': ('images_per_sec', 'images/s'),
    'input': ('images_per_sec_per_core', 'images/s a core'),
    'startup': ('start_seconds', 's to the first step'),
    'memory': ('peak_memory_gb', 'GB'),
  }

  def numbers(cell):
    return [float(x.replace(',', '')) for x in re.findall(r'[\d,.]*\d', cell)]

  def spread(row, *names):
    return [
      float(row[name + end]) for name in names for end in ('', '_low', '_high')
    ]

  machines = list(dict.fromkeys((r['machine'], r['cores']) for r in rows))
  measured = sorted(
    (row for row in rows if row['benchmark'] != 'layers'),
    key=lambda row: (
      row['machine'].startswith('NVIDIA'),  # on a page of their own
      machines.index((row['machine'], row['cores'])),
    ),
  )
  found = [line for line in lines if line[0][2:] in fields]
  for row, line in zip(measured, found, strict=True):
    kind, name, size, result, ratios, commit = line
    field, unit = fields[row['benchmark']]
    assert kind == f'| {row["benchmark"]}' and commit == f'{row["commit"]} |'
    assert name.startswith(row['name']) and result.endswith(f') {unit}')
    assert ('no LRN' in name) == (row['lrn'] == 'False')
    assert size.split(', ')[0] == row['batch']
    assert numbers(result) == pytest.approx(spread(row, field), rel=5e-3)
    ours = [] if 'PyTorch' in name else ['times_torch', 'times_torch_compile']
    against = spread(row, *(field for field in ours if row[field]))
    assert numbers(ratios) == pytest.approx(against, rel=5e-3)

  layers = [row for row in rows if row['benchmark'] == 'layers']
  names = [f'| {row["name"]}' for row in layers]
  found = [line for line in lines if len(line) == 6 and line[0] in names]
  for row, line in zip(layers, found, strict=True):
    seconds = (
      *('forward_seconds', 'plain_forward_seconds'),
      *('training_seconds', 'plain_training_seconds'),
    )
    want = [1000 * float(row[field]) for field in seconds]
    assert line[0] == f'| {row["name"]}'
    assert [float(x) for x in line[1:5]] == pytest.approx(want, abs=0.051)
    rate = [float(row['training_gflops'])] if row['training_gflops'] else []
    assert numbers(line[5]) == pytest.approx(rate, abs=0.51)
