"""README's table of how fast everything is, against its rows."""

from pathlib import Path

import pytest

from alexnet_jax.benchmarks import results
from experiments import speed

ROOT = Path(__file__).parents[1]


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
  text = speed.readme('a <!-- benchmarks -->old<!-- /benchmarks --> b', [])
  assert text.startswith('a <!-- b') and text.endswith('/benchmarks --> b')
  assert 'old' not in text
  *_, first, second = speed.table([step, memory]).splitlines()
  assert first == (
    '| step | ours, no LRN | 64, 1 | 32.5 (27.9-34) images/s | '
    '1.67 (1.5-1.7)x | abc |'
  )
  assert second.split(' | ')[2:4] == ['64', '3.5 (3.5-3.5) GB']
  other = step | {'machine': 'Xeon', 'versions': 'jax 1'}
  text = speed.table([step, other, memory])
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
  text = speed.readme('<!-- benchmarks --><!-- /benchmarks -->', [layer, pool])
  lines = text.splitlines()
  assert '| conv1 | 92.2 | 114.7 | 178.6 | 422.2 | 76 |' in lines
  assert '| conv1 | 92.2 | 114.7 | 178.6 | 422.2 |  |' in lines


def test_the_readme_is_that_of_the_rows():
  if not speed.ROWS.exists():
    pytest.skip('no rows yet: benchmark ... --csv, then experiments.speed')
  text = (ROOT / 'README.md').read_text()
  assert text == speed.readme(text, results.read_csv(speed.ROWS))
