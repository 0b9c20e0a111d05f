"""Rows say what runs left, and documents what rows say."""

import csv
import json
import re

import numpy as np
import pytest
from experiment_rows import a_row, keep, planned

from alexnet_jax.drawing import charts
from experiments import cost, plan, rows, table

READING = {
  **{'examples': 10, 'loss': 1.0, 'top1_error': 0.3, 'top5_error': 0.1},
  'right': 'fe00',
}


def row_of(run, workdir, logged):
  """The row of a run that logged this, and was read once."""
  result = {
    **{'status': 'finished', 'data': 'd', 'readings': {'test_1': READING}},
    **{'chance': 2.2, 'colour': [0.1], 'colour_se': [0.1], 'date': 'today'},
    'environment': {
      **{'commit': 'abc', 'python': '3', 'jax': '1', 'flax': '1'},
      **{'devices': ['cpu'], 'cpu_threads': 2},
    },
  }
  (workdir / rows.RESULT_FILE).write_text(json.dumps(result))
  lines = (json.dumps({'step': 1, 'epoch': 1.0, **row}) for row in logged)
  (workdir / 'metrics.jsonl').write_text('\n'.join(lines))
  return rows.of(run, workdir)


def test_a_row_has_errors_curve_and_pictures(tmp_path):
  run = plan.plan('relu_vs_tanh', 'cifar', 1)[0]
  logged = [
    {'train/top1_error': 0.9},
    {'train_split/top1_error': 0.5},
    {'train/top1_error': 0.8},
    {'train_split/top1_error': 0.25},
  ]
  row, right = row_of(run, tmp_path, logged)
  assert (row['curve'], row['curve_split']) == ('50.00 25.00', 'train')
  assert (row['top1'], row['at_chance'], row['data']) == ('30.00', '0', 'd')
  rows.add(row, right, tmp_path)
  assert rows.read('relu_vs_tanh', tmp_path) == [row]
  assert rows.right(row, tmp_path).tolist() == [True] * 7 + [False] * 3


def test_hours_are_those_of_the_training_steps(tmp_path):
  """360 steps of 100 images at 10 images/s are an hour, 180 at 20 a quarter."""
  run = plan.Run('e', 'small', 'v', 0, 'default', {'batch_size': 100}, 1)
  logged = [
    {'step': 360, 'time/images_per_sec': 10.0},
    {'step': 400, 'validation/top1_error': 0.5},
    {'step': 540, 'time/images_per_sec': 20.0},
    {'step': 600, 'test/top1_error': 0.5},
  ]
  row, _ = row_of(run, tmp_path, logged)
  assert row['hours'] == '1.25'


def test_rows_replace_those_of_the_same_run(tmp_path):
  for seed, top1 in ((0, 20.0), (1, 21.0), (0, 22.0)):
    rows.add(a_row('with', seed, top1), '', tmp_path)
  assert [row['top1'] for row in rows.read('lrn', tmp_path)] == ['21.0', '22.0']


def test_a_row_has_no_pictures_of_another_training(tmp_path):
  """That an experiment with the same run has left since."""
  first, again = (np.arange(400) < wrong for wrong in (80, 81))
  row = keep(tmp_path, 'with', 0, first)
  assert rows.right(row, tmp_path).tolist() == (~first).tolist()
  assert rows.right(row | {'top1': '20.00'}, tmp_path) is not None
  keep(tmp_path, 'with', 0, again, experiment='dropout')
  assert rows.right(row, tmp_path) is None
  lost = row | {'status': 'not finite', 'top1': ''}
  assert rows.right(lost, tmp_path) is None


def test_another_reading_is_another_row(tmp_path):
  run = plan.plan('lrn', 'small', 1)[0]
  for more in ({'split': 'validation'}, {'views': '1'}, {}):
    rows.add(a_row('with', 0, 20.0, **planned('with', 0) | more), '', tmp_path)
    assert rows.has(run, tmp_path) == (not more)
  assert len(rows.read('lrn', tmp_path)) == 3


def test_a_table_is_of_planned_runs_on_one_data_set(tmp_path):
  """Errors that would all change the mean; what is left is 10."""

  def add(top1, seed, **more):
    fields = planned('with', seed) | more
    rows.add(a_row('with', seed, top1, **fields), '', tmp_path)

  def said(extra=None):
    text = table.plain(table.read('lrn', 'small', tmp_path, extra))
    lines = text.splitlines()[1:]
    return [line for line in lines if not line.startswith('Of 400 pictures')]

  for seed in range(2):
    add(10.0, seed)
  assert said() == ['* with: 10.0, n = 2']
  add(20.0, 0, split='validation')
  add(20.0, 0, views='1')
  fast = {'schedule.learning_rate': 0.02}
  add(30.0, 1, **planned('with', 1, **fast))
  left = 'Left out: 3 rows of other settings, variants, split or views'
  assert said()[1] == f'{left}.'
  add(40.0, 2, data='e', date='2026-01-01')
  lines = [
    '* with: 10.0, n = 2',
    f'{left}, 1 row of other data.',
  ]
  assert said() == lines
  # Of as many, those that came last.
  add(50.0, 3, data='e', date='2026-01-02')
  assert said()[0].startswith('* with: 45.0, ')
  assert said(fast)[0] == '* with: 30.0, n = 1'
  assert said(fast)[1].startswith('Left out: 6 rows of other')
  text = table.section(table.read('lrn', 'small', tmp_path))
  assert f'\n\n{left}, 2 rows of other data.\n' in text
  # Of none there is nothing but this to say.
  text = table.section(table.read('lrn', 'small', tmp_path, {'batch_size': 2}))
  assert text.splitlines()[2].startswith('Left out: 7 rows of other')


def test_committed_rows_are_of_experiments_that_there_are():
  for name in plan.names():
    for row in rows.read(name):
      assert tuple(row) == rows.COLUMNS
      if row['data'] and row['status'] == 'finished':
        right = rows.right(row)
        wrong = 100 * (1 - right.mean())
        assert float(row['top1']) == pytest.approx(wrong, abs=0.0051)
  assert not [result.left_out for result in table.read_all() if result.left_out]


def test_the_page_of_results_says_what_the_rows_say():
  text = table.PAGE.read_text()
  made = table.page(text, table.read_all())
  assert text == made, 'python -m experiments.table'
  for name in plan.names():  # a section each
    if rows.read(name):
      assert f'### `{name}`, ' in text


def test_a_training_that_is_read_twice_is_one(tmp_path):
  for run in plan.plan('views', 'small', 2):
    more = {
      'experiment': 'views',
      **rows.identity(run),
      'top1': '20',
      'hours': '2',
    }
    rows.add(a_row('', 0, 0) | more, '', tmp_path)
  found = table.read('views', 'small', tmp_path)
  assert len(found.rows) == 6
  assert '; 2 runs, 4.0 hours of training' in table.section(found)


def test_only_what_stands_between_the_marks_is_replaced():
  text = 'a <!-- x -->old<!-- /x --> b <!-- y -->kept<!-- /y -->'
  made = table.replace_part(text, 'x', ' new\n')
  assert (
    made == 'a <!-- x -->\n\nnew\n\n<!-- /x --> b <!-- y -->kept<!-- /y -->'
  )
  assert table.replace_part(made, 'x', 'new') == made
  for bad in ('', '<!-- x -->', '<!-- /x --><!-- x -->', text * 2):
    with pytest.raises(ValueError, match='<!-- x --> once'):
      table.replace_part(bad, 'x', '')


def test_a_table_has_the_numbers(tmp_path):
  """Of pictures 1 to 80 wrong of 400, and of twice as many without the norm,
  the same ones of each seed: 1.96 standard errors of 20 % of 400."""
  wrong = np.arange(400) < 80
  twice = np.arange(400) < 160
  for seed in range(3):
    for variant, array in (('with', wrong), ('without', twice)):
      keep(tmp_path, variant, seed, array, **planned(variant, seed))
  text = table.page(table.PAGE.read_text(), table.read_all(tmp_path))
  summary, section = text.split('<!-- experiments -->')
  half = 1.96 * np.sqrt(20 * 80 / 399)
  ours = f'+20.0 (+{20 - half:.1f} to +{20 + half:.1f})'
  verdict = 'agrees, size not held'
  line = f'| small | without | +1.4 | +1.37 | {ours} | 3 | {verdict} |'
  assert line in summary
  assert f'{ours} against with, n = 3: **{verdict}**' in section
  printed = table.plain(table.read('lrn', 'small', tmp_path)).splitlines()
  assert printed[0] == 'lrn, small; top-1 error, %:'
  assert printed[-1] == (
    'Of 400 pictures of test, 10 views; 6 runs, 3.0 hours of training on 1 x '
    'cpu, jax-1; commit abc.'
  )
  assert printed[-2].endswith(f'{ours} against with, n = 3: {verdict}')
  assert '`depth`, ' not in section
  (panel,) = table.forest(table.read_all(tmp_path))
  (judged,) = panel.lines
  assert judged.label == 'lrn, small: without (n = 3)'
  assert (judged.value, judged.paper, judged.diary) == (20.0, 1.4, 1.37)
  ax = charts.forest([panel]).axes[0]
  drawn = [list(line.get_xdata()) for line in ax.lines]
  assert drawn[1] == pytest.approx([20 - half, 20.0, 20 + half])
  assert drawn[:1] + drawn[2:] == [[0, 0], [20.0], [1.4], [1.37]]


@pytest.mark.parametrize(
  ('hours', 'text'),
  [
    (0, '1 minute'),
    (0.05, '3 minutes'),
    (0.99, '59 minutes'),
    (1.46, '1.5 hours'),
  ],
)
def test_hours_that_are_minutes_are_said_so(hours, text):
  assert cost.duration(hours) == text


def test_figure_1_has_a_curve_for_each_run():
  ax = charts.errors_by_epoch(
    {'relu a': [[60.0, 20.0], [50.0]], 'tanh a': [[80.0]]}, 'error, %', 25.0
  ).axes[0]
  drawn = [list(line.get_ydata()) for line in ax.lines]
  assert drawn == [[60, 20], [50], [80], [25.0, 25.0]]
  first, second, third, _ = (line.get_color() for line in ax.lines)
  assert first == second != third


def test_the_page_has_the_means_of_the_files():
  """Every difference and its interval over seeds, by NumPy from the files."""
  text = table.PAGE.read_text()
  parts = re.split(r'\n### `(\w+)`, (\w+)\n', text)[1:]
  checked = 0
  for name, form, body in zip(*(parts[i::3] for i in range(3)), strict=True):
    if 'Top-1 error, %:' not in body:
      continue
    with (rows.RESULTS / f'{name}.csv').open(newline='') as stream:
      found = [r for r in csv.DictReader(stream) if r['form'] == form]
    errors = {}
    for row in found:
      error = float(row['top1']) if row['status'] == 'finished' else 100.0
      errors.setdefault(row['variant'], {})[row['seed']] = error
    lines = re.findall(r'^\* (.*)$', body, re.MULTILINE)
    assert len(lines) == len(errors)
    base = None
    for line in lines:
      variant, _, said = line.partition(': ')
      mean = np.mean(list(errors[variant].values()))
      assert float(said.split()[0].rstrip(',')) == pytest.approx(mean, abs=0.06)
      if base is None:
        base = errors[variant]
      elif name != 'ensemble' and 'against' in said:
        pairs = errors[variant].keys() & base.keys()
        mean = np.mean([errors[variant][seed] - base[seed] for seed in pairs])
        difference = re.search(r'; ([+-][\d.]+) .*against', said)[1]
        assert float(difference) == pytest.approx(mean, abs=0.06)
        assert f'n = {len(pairs)}' in said.split('against')[1]
        checked += 1
  assert checked > 15


def test_the_page_of_fine_tuning_says_what_the_rows_say():
  text = (table.PAGE.parent / 'finetuning.md').read_text()
  for count in (10, 50, 200):
    scratch, tuned = table.read('fine_tuning', f'few_{count}').lines
    more = tuned.against
    said = (
      f'| {count} | {scratch.alone.value:.1f} | {tuned.alone.value:.1f} | '
      f'{more.value:+.1f} ({more.low:+.1f} to {more.high:+.1f}) |'
    )
    assert more.n == 3 and said in text


def test_an_experiment_may_claim_an_error_and_a_difference():
  """Of `18pct`: its author's error, and §3.3's points beside it."""
  with_it, without = table.read('cifar_18pct', 'cifar').lines
  errors = {
    (row['variant'], row['seed']): float(row['top1'])
    for row in rows.read('cifar_18pct')
  }
  seeds = sorted({seed for _, seed in errors})
  differences = [errors['without', s] - errors['with', s] for s in seeds]
  assert without.judged.value == pytest.approx(np.mean(differences))
  own = np.mean([errors['with', seed] for seed in seeds])
  assert with_it.judged.value == pytest.approx(own)
