"""Verdicts: rules and intervals by hand and by SciPy."""

import dataclasses
import math
import re

import numpy as np
import pytest
from experiment_rows import a_row, keep
from scipy import stats

from experiments import claims, measures, plan
from experiments.claims import (
  AGREES,
  DISAGREES,
  ONE_RUN,
  TWO_RUNS,
  UNKNOWN,
  Apart,
  Difference,
  Equivalent,
  Higher,
  Lower,
  Ratio,
  Reported,
  Stalls,
)
from experiments.measures import Measured, Runs

# -- rules, by hand


@pytest.mark.parametrize(
  ('claim', 'low', 'high', 'verdict'),
  [
    (Higher(), 0.1, 2.0, AGREES),
    (Higher(), -0.1, 2.0, UNKNOWN),
    (Higher(), -2.0, -0.1, DISAGREES),
    (Lower(), -2.0, -0.1, AGREES),
    (Lower(), 0.1, 2.0, DISAGREES),
    (Difference(1.4), 0.1, 2.0, AGREES),
    (Difference(1.4), 0.1, 0.2, AGREES),  # so small: the direction is right
    (Difference(1.4), -0.6, 0.6, DISAGREES),  # within half of what is claimed
    (Difference(1.4), -0.8, 0.6, UNKNOWN),
    (Difference(1.4), -3.0, -1.0, DISAGREES),
    (Difference(-2.6), -3.0, -1.0, AGREES),
    (Difference(-2.6), -1.2, 1.2, DISAGREES),
    (Difference(-2.6), 0.1, 3.0, DISAGREES),
    (Difference(diary=1.2), 0.1, 2.0, AGREES),
    (Equivalent(margin=1.0), -0.9, 0.9, AGREES),
    (Equivalent(margin=1.0), -0.9, 1.1, UNKNOWN),
    (Equivalent(margin=1.0), 1.1, 3.0, DISAGREES),
    (Equivalent(margin=1.0), -3.0, -1.1, DISAGREES),
    (Reported(26.0), 25.1, 26.9, AGREES),
    (Reported(26.0), 9.0, 11.0, DISAGREES),
    (Reported(26.0), 25.1, 27.1, UNKNOWN),
    (Ratio(6.0), 1.1, 9.0, AGREES),
    (Ratio(6.0), 0.9, 9.0, UNKNOWN),
    (Ratio(6.0), 0.2, 0.9, DISAGREES),
    (Ratio(6.0), 0.5, 2.4, DISAGREES),  # between 1 / sqrt(6) and sqrt(6)
    (Ratio(6.0), 3.0, math.inf, AGREES),
    (Ratio(6.0), 0.0, 0.9, DISAGREES),
    (Stalls(), 54.0, 100.0, AGREES),
    (Stalls(), 0.0, 46.0, DISAGREES),
    (Stalls(), 29.0, 100.0, UNKNOWN),
    (Apart(), 1.0, 9.0, AGREES),
    (Apart(), -1.0, 9.0, UNKNOWN),
  ],
)
def test_rules(claim, low, high, verdict):
  assert str(claim.judge(np.array(low), np.array(high))) == verdict
  both = claim.judge(np.array([low, low]), np.array([high, high]))
  assert both.tolist() == [verdict, verdict]


def test_a_verdict_says_whether_the_size_held():
  claim = Difference(1.4)
  assert claim.verdict(Measured(3, 1, 0.5, 1.5), False) == 'agrees, size held'
  small = Measured(3, 0.6, 0.1, 1.1)
  assert claim.verdict(small, False) == 'agrees, size not held'
  assert claim.verdict(small, True) == 'disagrees, size not held'  # full
  assert Higher().verdict(small, True) == AGREES
  assert claim.verdict(Measured(1, 9, 8, 10), False) == ONE_RUN
  assert claim.verdict(Measured(2, 9, 8, 10), False) == TWO_RUNS
  unknown = Measured(3, 9.0, math.nan, math.nan)
  assert claim.verdict(unknown, False) == 'pictures not kept'


def test_the_runs_that_would_tell():
  """With t sd / sqrt(n) below the mean at this n, and not one before."""
  sd, mean = 1.0, 0.5
  found = measures.measure([mean - sd, mean, mean + sd])
  assert found.sd == pytest.approx(sd)
  verdict = Higher().verdict(found, False)
  n = int(verdict.split('n = ')[1].split(' ')[0])
  halves = [stats.t.ppf(0.975, k - 1) * sd / k**0.5 for k in (n - 1, n)]
  assert halves[0] > mean > halves[1] and verdict.startswith(UNKNOWN)
  assert 'n over 1000' in Higher().verdict(Measured(3, 0, -1, 1, 1), False)
  # 6 of 6 are the fewest that cannot be half.
  stalls = Stalls().each(Runs([a_row('v', 0, 0, at_chance='1')] * 5, []))
  assert Stalls().verdict(stalls, False).endswith('(n = 6 would tell)')


def test_seeds_do_not_tell_what_pictures_leave_open():
  """A difference that all seeds have on the same pictures stays as sure as
  these are; noise of seeds falls with their number."""
  same = [np.array([100.0, 100, 100, -100, 0, 0, 0, 0])] * 3
  found = measures.measure([25.0] * 3, same)
  assert found.noise == 0 and found.low < 0 < found.high
  assert Higher().needed(found) == 'n over 1000'

  rng = np.random.default_rng(0)
  each = 100.0 * rng.integers(-1, 2, (3, 400)) + 2 * rng.standard_normal(400)
  found = measures.measure(list(each.mean(1)), list(each))
  sums = [np.var(picture, ddof=1) for picture in each.T]
  assert found.noise == pytest.approx(np.mean(sums) / 3 / 400)
  se = np.std(each.mean(0), ddof=1) / 20
  assert found.se == pytest.approx(se)
  found = measures.Measured(3, 3.0, -2.0, 8.0, 0.0, 2.5, 5.0)
  # 6.25 - 5 stay, and 5 is 15 / n: 1.96 se < 3 where se^2 < 2.343.
  n = math.ceil(15 / ((3 / 1.96) ** 2 - 1.25))
  assert Higher().needed(found) == f'n = {n}'


# -- intervals of rows, by NumPy and SciPy


def wrong_pictures(seed, share, pictures=400):
  return np.random.default_rng(seed).random(pictures) < share


def test_runs_of_a_seed_are_paired_picture_by_picture(tmp_path):
  base = [wrong_pictures(seed, 0.2) for seed in range(3)]
  ours = [wrong_pictures(seed + 10, 0.3) for seed in range(3)]
  rows = [
    [keep(tmp_path, name, seed, array) for seed, array in enumerate(arrays)]
    for name, arrays in (('without', ours), ('with', base))
  ]
  found = Difference(1.4).compare(Runs(*rows, folder=tmp_path))
  differences = 100 * (np.array(ours, float) - np.array(base, float))
  seeds = stats.ttest_1samp(differences.mean(1), 0).confidence_interval()
  each = differences.mean(0)
  half = max((seeds.high - seeds.low) / 2, 1.96 * each.std(ddof=1) / 20)
  assert found.n == 3 and found.value == pytest.approx(each.mean())
  ends = found.value - half, found.value + half
  assert (found.low, found.high) == pytest.approx(ends)

  # Other data, another split or another seed are never paired.
  for field in ('data', 'split', 'seed'):
    strange = [*rows[1][:2], rows[1][2] | {field: '7'}]
    assert Difference(1.4).compare(Runs(rows[0], strange)).n == 2
  # A run that diverged has them all wrong.
  lost = rows[0][2] | {'status': 'not finite', 'top1': ''}
  found = Difference(1.4).compare(
    Runs([*rows[0][:2], lost], rows[1], folder=tmp_path)
  )
  last = 100 - 100 * base[2].mean()
  assert found.value == pytest.approx(
    (differences.mean(1)[:2].sum() + last) / 3
  )


def test_runs_that_all_diverged_have_all_pictures_wrong():
  lost = [a_row('v', s, 0, status='not finite') for s in range(3)]
  found = Reported(26.0).each(Runs(lost, []))
  assert (found.value, found.low, found.high) == (100.0, 100.0, 100.0)
  assert Reported(26.0).verdict(found, False) == DISAGREES
  found = Higher().compare(Runs(lost, lost))
  assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_an_average_is_compared_with_its_members(tmp_path):
  base = [
    keep(tmp_path, 'one', seed, wrong_pictures(seed, 0.2 + 0.1 * (seed > 1)))
    for seed in range(4)
  ]
  ours = [keep(tmp_path, 'two', s, wrong_pictures(9, 0.2)) for s in (1, 3)]
  found = Difference(-1.0, networks=2).compare(Runs(ours, base, 25, tmp_path))
  one = [float(row['top1']) for row in base]
  top1 = float(ours[0]['top1'])
  assert found.n == 2 and found.value == pytest.approx(top1 - np.mean(one))


def test_epochs_are_read_off_curves():
  def runs(*curves, variant='relu a'):
    return [
      a_row(variant, seed, 0, curve=curve) for seed, curve in enumerate(curves)
    ]

  for curve, epochs in (
    ('50 30 20', (2.5, False)),
    ('20', (1.0, False)),
    ('50 26', (2.0, True)),
    ('', (1.0, True)),
  ):
    assert measures.epochs(runs(curve)[0], 25.0) == epochs
  claim = Ratio(6.0)
  relu = runs('60 20', '60 25')
  tanh = runs(' '.join(['80'] * 11 + ['20']), '80 25', variant='tanh a')
  found = claim.compare(Runs(tanh, relu))
  ratios = [(11 + 55 / 60) / (1 + 35 / 40), 2 / 2]
  assert found.value == pytest.approx(np.prod(ratios) ** 0.5)
  assert not found.bound and math.isfinite(found.high)
  found = claim.compare(Runs(runs('80 70', '80 70'), relu))
  assert found.bound == 'over' and found.high == math.inf
  assert claim.verdict(dataclasses.replace(found, n=3, low=4.0), False) == (
    'agrees, size possible'
  )
  never = runs('80 70', '80 70')
  found = claim.compare(Runs(tanh, never))
  assert found.bound == 'under' and found.low == 0.0
  assert claim.compare(Runs(never, never)) is None  # any two numbers' ratio
  assert claim.needed(found) == 'longer runs'
  alone = claim.compare(Runs(tanh[:1], never[:1]))
  assert alone.bound == 'under' and math.isnan(alone.low)
  found = claim.each(Runs(never, []))
  assert (found.value, found.high, found.bound) == (2.0, math.inf, 'over')
  # The best point of a grid, at the seeds that all have.
  grid = [*relu, *runs('60 50 20', '60 10', variant='relu b')]
  grid += [*runs('60 30 20', variant='relu c'), *tanh]
  groups = claim.groups(grid, 25.0)
  assert {name: found[0]['variant'] for name, found in groups.items()} == {
    'relu': 'relu a',
    'tanh': 'tanh a',
  }


def test_the_best_point_of_a_grid_has_the_lowest_mean_error():
  """At the seeds that all points of a name have; one that diverged has every
  picture wrong."""

  def point(variant, *errors):
    return [
      a_row(variant, seed, error, **({} if error < 100 else {'status': 'not'}))
      for seed, error in enumerate(errors)
    ]

  grid = [*point('a x', 30, 34), *point('a y', 29, 90), *point('a z', 31)]
  grid += [*point('b x', 100, 100), *point('b y', 60, 40), *point('base', 20)]
  grid += [*point('c x', 10, 50), *point('c y', 20, 20)]
  groups = Higher(grid=True).groups(grid, 25.0)
  assert {name: rows[0]['variant'] for name, rows in groups.items()} == {
    'a': 'a y',
    'b': 'b y',
    'base': 'base',
    'c': 'c y',
  }
  assert Higher().groups(grid, 25.0).keys() == {row['variant'] for row in grid}


def test_of_points_that_miss_the_target_the_nearest_counts():
  """Not the shortest curve, which may be of a run that diverged."""
  grid = [
    a_row('tanh a', 0, 0, curve='80 70 60'),
    a_row('tanh b', 0, 0, curve='80 60 50'),
    a_row('tanh c', 0, 0, curve='40', status='not finite'),
    a_row('tanh d', 0, 0, curve='', status='not finite'),
  ]

  def best(rows):
    return Ratio(6.0).groups(rows, 25.0)['tanh'][0]['variant']

  assert best(grid) == best(grid[::-1]) == 'tanh b'
  assert best(grid[2:]) == 'tanh c'
  assert best([*grid, a_row('tanh e', 0, 0, curve='80 70 60 25')]) == 'tanh e'


def test_the_share_of_runs_that_stall():
  runs = [a_row('v', s, 0, at_chance=str(int(s < 5))) for s in range(6)]
  found = Stalls().each(Runs(runs, []))
  exact = stats.binomtest(5, 6).proportion_ci(method='exact')
  assert found.value == pytest.approx(100 * 5 / 6)
  ends = 100 * exact.low, 100 * exact.high
  assert (found.low, found.high) == pytest.approx(ends)


def test_colour_beyond_chance():
  runs = [
    a_row('v', seed, 0, colour=colour, colour_se='3 4')
    for seed, colour in enumerate(('30 70', '60 50', ''))  # one diverged
  ]
  found = Apart().each(Runs(runs, []))
  assert found.n == 2 and found.value == (1600 - 25 + 100 - 25) / 2


def test_types_are_written_on_the_page_as_they_are_called():
  page = (plan.FOLDER.parent / 'docs/experiments.md').read_text()
  table = page.partition('| type |')[2].partition('\n\n')[0]
  cells = [line.split(' | ')[0] for line in table.splitlines()[2:]]
  found = {}
  for text in re.findall('`(.*?)`', ' '.join(cells)):
    numbers = {'points': 1.0, 'factor': 2.0, 'error': 3.0}
    claim = eval(text, vars(claims) | numbers)
    kind = claim if isinstance(claim, type) else type(claim)
    found[kind] = (getattr(claim, 'paper', None), getattr(claim, 'margin', 0))
  assert found.keys() == set(claims.Claim.__subclasses__())
  assert found[Difference] == (1.0, 0) and found[Ratio] == (2.0, 0)
  assert found[Equivalent] == (None, ...) and found[Reported] == (3.0, ...)


def test_every_type_is_judged():
  """None is left without a rule."""
  for kind in claims.Claim.__subclasses__():
    kind(1.0).judge(np.array(0.0), np.array(0.0))
