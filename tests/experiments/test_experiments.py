"""Experiments: every file makes runs that a configuration accepts, sweeps end
with every run once whatever stops them, and documents say what rows say."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from alexnet_jax.models.networks import make_network
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training import optimizer, schedules
from experiments import plan, rows, table, verdicts

ROOT = Path(__file__).parents[2]
FORMS = [
  (name, form) for name in plan.names() for form in plan.load(name).forms
]


@pytest.mark.parametrize('name', plan.names())
def test_every_experiment_names_its_variants(name):
  experiment = plan.load(name)
  lines = (ROOT / f'experiments/{name}.py').read_text().splitlines()
  assert len(lines) <= 50, len(lines)
  claimed = {**experiment.paper, **experiment.diary, **experiment.reported}
  form = next(iter(experiment.forms))
  named = {run.variant for run in plan.plan(name, form, 5)}
  if experiment.read == 'epochs':
    named = {variant.partition(' ')[0] for variant in named}
  assert {*claimed, *experiment.higher, experiment.baseline} <= named


@pytest.mark.parametrize(('name', 'form'), FORMS)
def test_every_override_is_accepted_and_builds_a_network(name, form):
  runs = plan.plan(name, form, 2)
  assert len({(run.variant, run.seed) for run in runs}) == len(runs)
  for run in runs[: len(runs) // 2]:
    settings = run.settings('/somewhere')
    assert settings.data.dir == '/somewhere'
    size = settings.augment.crop_size
    model = nnx.eval_shape(
      lambda own=(settings.model, 10, size): make_network(
        *own, rngs=nnx.Rngs(params=0)
      )
    )
    optimizer.make_optimizer(settings.optimizer, nnx.state(model))
    schedules.make_schedule(settings.schedule)


def run_of(**overrides):
  return plan.Run('e', 'small', 'v', 0, 'default', overrides, 1)


def test_a_key_says_what_is_trained_and_nothing_else():
  base = run_of()
  assert base.key == run_of(**{'model.width': 0.25}).key  # the default's
  assert base.key == run_of(**{'data.dir': '/x', 'mesh.data': 2}).key
  keys = {
    run_of(**one).key
    for one in ({}, {'seed': 1}, {'model.width': 0.5}, {'length': '1 step'})
  }
  assert len(keys) == 4


@pytest.mark.parametrize(
  'overrides', [{'model.widht': 1.0}, {'model.width': 'wide'}]
)
def test_a_wrong_override_is_named(overrides):
  with pytest.raises(UserError, match="e, variant 'v': "):
    run_of(**overrides).resolve()


# -- verdicts, by hand


def test_members_of_an_ensemble_are_runs_of_their_own():
  runs = plan.plan('ensemble', 'small', 2)
  kinds = [(run.variant, run.seed) for run in runs]
  ones = [('one', seed) for seed in range(10)]
  assert kinds == [*ones[:5], ('five', 4), *ones[5:], ('five', 9)]
  for first, five in ((0, runs[5]), (5, runs[11])):
    members = five.members
    alone = [r for r in runs if r.variant == 'one'][first : first + 5]
    assert [m.key for m in members] == [r.key for r in alone]
    assert five.key not in {r.key for r in runs if r is not five}
  # The first is the base network, which other experiments train, too.
  assert runs[0].key == plan.plan('lrn', 'small', 1)[0].key


READING = {
  **{'examples': 10, 'loss': 1.0, 'top1_error': 0.3, 'top5_error': 0.1},
  'right': 'fe00',
}


def a_row(variant, seed, top1, **more):
  return dict.fromkeys(rows.COLUMNS, '') | {
    'experiment': 'lrn',
    'form': 'small',
    'variant': variant,
    'seed': str(seed),
    'status': 'finished',
    'split': 'test',
    'examples': '400',
    'top1': str(top1),
    'views': '1',
    'hours': '0.5',
    'curve_split': 'train',
    'commit': 'abc',
    'versions': 'jax-1',
    'hardware': '1 x cpu',
    'at_chance': '0',
    **more,
  }


@pytest.mark.parametrize(
  ('errors', 'verdict'),
  [
    # 20 % of 400: 2 points; both: 2.9 for the difference.
    ([(20.0,), (24.0,)], 'too small to tell'),
    ([(20.0,), (30.0,)], 'agrees'),
    ([(30.0,), (20.0,)], 'disagrees'),
    # Over 3 seeds 1.2 each, 1.7: but seeds that spread by 8 points count more.
    ([(20.0, 20.0, 20.0), (25.0, 25.0, 25.0)], 'agrees'),
    ([(20.0, 20.0, 20.0), (17.0, 25.0, 33.0)], 'too small to tell'),
  ],
)
def test_verdicts(errors, verdict):
  data = [
    a_row(variant, seed, value)
    for variant, values in zip(('with', 'without'), errors, strict=True)
    for seed, value in enumerate(values)
  ]
  base, other = verdicts.lines(plan.load('lrn'), data, 'small')
  assert (base.variant, base.verdict) == ('with', '')
  assert other.verdict == verdict
  assert other.n == len(errors[1])
  want = sum(errors[1]) / len(errors[1]) - sum(errors[0]) / len(errors[0])
  assert other.difference == pytest.approx(want)


def test_standard_error():
  assert verdicts.standard_error([20.0], 400) == pytest.approx(2.0)
  assert verdicts.standard_error([20.0] * 4, 400) == pytest.approx(1.0)
  assert verdicts.standard_error([10.0, 30.0], 400) == pytest.approx(10.0)


def test_runs_that_stay_at_chance():
  def verdict(base, other):
    data = [
      a_row(variant, seed, 50.0, at_chance=str(stays))
      for variant, runs in (('program', base), ('text, unit-scaled', other))
      for seed, stays in enumerate(runs)
    ]
    return verdicts.lines(plan.load('init'), data, 'small')

  base, other = verdict([0, 0, 0], [1, 1, 1])
  assert (base.mean, other.mean, other.difference) == (0, 100, 100)
  # (3 + 1) of (3 + 2): sqrt(0.8 * 0.2 / 3) = 23.1 %.
  assert [base.se, other.se] == pytest.approx([23.094] * 2, abs=1e-3)
  assert other.verdict == 'agrees'
  assert verdict([0], [1])[1].verdict == 'too small to tell'
  assert verdict([0, 0, 0], [0, 0, 1])[1].verdict == 'too small to tell'
  assert verdict([1] * 3, [0] * 3)[1].verdict == 'disagrees'


def test_towers_that_differ_in_colour():
  def lines(*colours):
    data = [
      a_row('conv3', seed, 50.0, colour=colour, colour_se='3 4')
      for seed, colour in enumerate(colours)
    ]
    return verdicts.lines(plan.load('tower_specialisation'), data, 'small')

  (line,) = lines('30 70')  # 40 points, with an error of 5
  assert (line.mean, line.se, line.verdict) == (40, 5, 'agrees')
  (line,) = lines('30 70', '60 50')  # whichever tower it is
  assert line.mean == 50 / 2 and line.verdict == 'agrees'
  assert line.se == pytest.approx(30 / 2)  # seeds spread more than kernels
  (line,) = lines('30 70', '')  # a run that diverged
  assert line.n == 1
  (line,) = lines('30 70', '60 51', '50 90')
  assert line.verdict == 'too small to tell in 1 of 3 runs'


def test_a_curve_has_evaluations_and_no_batches(tmp_path):
  run = plan.plan('relu_vs_tanh', 'cifar', 1)[0]
  result = {
    **{'status': 'finished', 'data': 'd', 'readings': {'test_1': READING}},
    **{'chance': 2.2, 'colour': [0.1], 'colour_se': [0.1], 'date': 'today'},
    'environment': {
      **{'commit': 'abc', 'python': '3', 'jax': '1', 'flax': '1'},
      **{'devices': ['cpu'], 'cpu_threads': 2},
    },
  }
  (tmp_path / rows.RESULT_FILE).write_text(json.dumps(result))
  logged = [
    {'train/top1_error': 0.9},
    {'train_split/top1_error': 0.5},
    {'train/top1_error': 0.8},
    {'train_split/top1_error': 0.25},
  ]
  lines = (json.dumps({'step': 1, 'epoch': 1.0, **row}) for row in logged)
  (tmp_path / 'metrics.jsonl').write_text('\n'.join(lines))
  row, right = rows.of(run, tmp_path)
  assert (row['curve'], row['curve_split']) == ('50.00 25.00', 'train')
  assert (row['top1'], row['at_chance'], row['data']) == ('30.00', '0', 'd')
  rows.add(row, right, tmp_path)
  assert rows.read('relu_vs_tanh', tmp_path) == [row]
  assert rows.right(row, tmp_path).tolist() == [True] * 7 + [False] * 3


def test_figure_1_is_read_off_curves():
  assert verdicts.epochs_to(['50.0', '30.0', '20.0'], 25.0) == 2.5
  assert verdicts.epochs_to(['20.0'], 25.0) == 1.0
  assert verdicts.epochs_to(['50.0', '26.0'], 25.0) is None
  data = [
    a_row('relu a', 0, 0, form='cifar', curve='60 20'),
    a_row('relu b', 0, 0, form='cifar', curve='60 30 20'),
    a_row('tanh a', 0, 0, form='cifar', curve='80 70 60'),
    a_row('tanh b', 0, 0, form='cifar', curve=' '.join(['80'] * 11 + ['20'])),
  ]
  experiment = plan.load('relu_vs_tanh')
  assert experiment.forms['cifar'].target == 25.0
  relu, tanh = verdicts.lines(experiment, data, 'cifar')
  assert relu.variant == 'relu a' and relu.mean == pytest.approx(1.875)
  assert tanh.variant == 'tanh b' and tanh.verdict == 'agrees'
  assert tanh.difference == pytest.approx((11 + 55 / 60) / 1.875)
  _, tanh = verdicts.lines(experiment, data[:3], 'cifar')
  assert tanh.verdict == 'never got there' and tanh.mean is None


# -- rows and documents


def test_rows_replace_those_of_the_same_run(tmp_path):
  rows.add(a_row('with', 0, 20.0, config='k'), '', tmp_path)
  rows.add(a_row('with', 1, 21.0, config='k'), '', tmp_path)
  rows.add(a_row('with', 0, 22.0, config='k'), '', tmp_path)
  assert [row['top1'] for row in rows.read('lrn', tmp_path)] == ['21.0', '22.0']


def test_the_page_of_results_says_what_the_rows_say():
  text = table.PAGE.read_text()
  made = table.page(text, table.read_all())
  assert text == made, 'python -m experiments.table'
  for name in plan.names():  # one line of the summary, and a section
    if rows.read(name):
      assert f'### `{name}`, ' in text


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
  rows.add(a_row('with', 0, 20.0), '', tmp_path)
  rows.add(a_row('without', 0, 30.0), '', tmp_path)
  text = table.page(table.PAGE.read_text(), table.read_all(tmp_path))
  line = '| without | 1 | 30.0 ± 2.3 | +10.0 ± 3.0 | +1.4 | +1.37 | agrees |'
  assert line in text
  summary, section = text.split('<!-- experiments -->')
  assert '| without | +1.4 | +1.37 | +10.0 ± 3.0, n = 1 | agrees |' in summary
  assert line in section and '`depth`, small' not in section


def test_committed_rows_are_of_experiments_that_there_are():
  for name in plan.names():
    for row in rows.read(name):
      assert tuple(row) == rows.COLUMNS, 'experiments/rows.py'
      form = plan.load(name).forms[row['form']]
      keys = {
        run.variant: run.key
        for run in plan.plan(name, row['form'], int(row['seed']) + 1)
        if run.seed == int(row['seed'])
      }
      assert keys[row['variant']] == row['config'], (name, form, row['variant'])


# -- numbers from elsewhere: by hand, by NumPy, from the paper


def test_hours_are_those_of_the_training_steps(tmp_path):
  """360 steps of 100 images at 10 images/s are an hour, 180 at 20 a quarter."""
  run = run_of(**{'batch_size': 100})
  result = {
    **{'status': 'finished', 'data': 'd', 'readings': {'test_1': READING}},
    **{'chance': 2.2, 'colour': [0.1], 'colour_se': [0.1], 'date': 'today'},
    'environment': {
      **{'commit': 'abc', 'python': '3', 'jax': '1', 'flax': '1'},
      **{'devices': ['cpu'], 'cpu_threads': 2},
    },
  }
  (tmp_path / rows.RESULT_FILE).write_text(json.dumps(result))
  logged = [
    {'step': 360, 'time/images_per_sec': 10.0},
    {'step': 400, 'validation/top1_error': 0.5},
    {'step': 540, 'time/images_per_sec': 20.0},
    {'step': 600, 'test/top1_error': 0.5},
  ]
  lines = (json.dumps({'epoch': 1.0, **row}) for row in logged)
  (tmp_path / 'metrics.jsonl').write_text('\n'.join(lines))
  assert rows.of(run, tmp_path)[0]['hours'] == '1.25'


@pytest.mark.parametrize(('errors', 'tells'), [(1.9, False), (2.1, True)])
def test_two_standard_errors_tell(errors, tells):
  """Not three, not one: of what is reported, of a difference, of colour."""

  def lines(read, *data):
    experiment = plan.Experiment(
      **{'claim': '', 'variants': lambda _: iter(()), 'forms': {}},
      **{'baseline': 'base', 'paper': {'more': 1.0}, 'read': read},
      reported={'known': 20.0 - 2.0 * errors},
    )
    return verdicts.lines(experiment, data, 'cifar')

  (line,) = lines('differences', a_row('known', 0, 20.0))  # 20 ± 2 of 400
  away = f'{2.0 * errors:+.1f} from what is reported'
  assert line.verdict == (away if tells else 'agrees')

  # The error that is so many standard errors above 20 % of 400 images.
  grid = np.linspace(20, 40, 20_001)
  spread = np.sqrt(2.0**2 + grid * (100 - grid) / 400)
  value = grid[np.argmin(np.abs((grid - 20) / spread - errors))]
  _, line = lines(
    'differences', a_row('base', 0, 20.0), a_row('more', 0, value)
  )
  assert line.verdict == ('agrees' if tells else 'too small to tell')

  colour = {'colour': f'30 {30 + 5 * errors}', 'colour_se': '3 4'}  # 5 in all
  (line,) = lines('colour', a_row('base', 0, 50.0, **colour))
  unknown = 'too small to tell in 1 of 1 runs'
  assert line.verdict == ('agrees' if tells else unknown)


def test_claims_are_numbers_of_2012():
  """Each difference of two errors of the paper, or of the authors' logs."""
  paper = {
    'augmentation': {'no colour': 1.0},  # "over 1 %"
    'depth': {'without conv3': 2.0, 'without conv4': 2.0},  # "about 2 %"
    'ensemble': {'five': 38.1 - 40.7},
    'lrn': {'without': 1.4},
    'one_tower': {'one': 1.7},
    'overlapping_pooling': {'2/2': 0.4},
    'relu_vs_tanh': {'tanh': 6.0},  # times
    'views': {'1': 39.0 - 37.5},
  }
  diary = {
    'batch_size': {'twice': 42.27 - 42.341},
    'half_precision_exchange': {'16 bits': 40.524 - 40.528},
    'lrn': {'without': 42.034 - 40.664},
    'no_talk': {'none (#150)': 41.828 - 40.664},
    'one_tower': {'one': 39.168 - 37.473},
    'overlapping_pooling': {'2/2': 41.058 - 40.664},
    'views': {'1': 39.025 - 37.473},
  }
  reported = {'cifar_80sec': {'80sec': 26.0}}
  for name in plan.names():
    experiment = plan.load(name)
    for claims, numbers in (
      (experiment.paper, paper),
      (experiment.diary, diary),
      (experiment.reported, reported),
    ):
      wanted = numbers.get(name, {})
      assert claims.keys() == wanted.keys(), name
      for variant, claim in claims.items():
        digits = len(str(claim).partition('.')[2])
        assert claim == round(wanted[variant], digits), (name, variant)


def test_tables_have_the_means_of_the_files():
  """Every line of errors, by NumPy from the files as they are."""

  def numbers(cell):
    return [float(part) for part in cell.split(' ± ')]

  text = table.page(table.PAGE.read_text(), table.read_all())
  parts = re.split(r'\n### `(\w+)`, (\w+)\n', text)[1:]
  checked = 0
  for name, form, body in zip(*(parts[i::3] for i in range(3)), strict=True):
    if 'top-1 error, %' not in body:
      continue
    with (rows.RESULTS / f'{name}.csv').open(newline='') as stream:
      found = [r for r in csv.DictReader(stream) if r['form'] == form]
    lines = re.findall(r'^\|.*\|$', body, re.MULTILINE)[2:]
    assert len(lines) == len({row['variant'] for row in found})
    base = None
    for line in lines:
      variant, count, ours, difference, paper, diary, verdict = (
        cell.strip() for cell in line.split('|')[1:-1]
      )
      runs = [row for row in found if row['variant'] == variant]
      errors = np.array([float(r['top1']) for r in runs])
      n, p = len(errors), errors.mean() / 100
      se = 100 * np.sqrt(p * (1 - p) / float(runs[0]['examples']) / n)
      if n > 1:
        se = max(se, errors.std(ddof=1) / np.sqrt(n))
      assert count == str(n)
      assert numbers(ours) == pytest.approx([errors.mean(), se], abs=0.051)
      if base is None:
        base = errors.mean(), se
        continue
      more, spread = errors.mean() - base[0], np.hypot(se, base[1])
      assert numbers(difference) == pytest.approx([more, spread], abs=0.051)
      claim = diary if diary and not paper else paper
      if not claim:
        assert verdict == ''
      elif abs(more) < 2 * spread:
        assert verdict == 'too small to tell'
      else:
        agrees = (more > 0) == (not claim.startswith('-'))
        assert verdict == ('agrees' if agrees else 'disagrees')
      checked += 1
  assert checked > 15
