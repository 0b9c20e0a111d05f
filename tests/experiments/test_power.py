"""How often verdicts would be wrong, on simulated runs, and how often they
tell what is there."""

import math

import numpy as np
import pytest
from experiment_rows import keep
from scipy import stats

from experiments import measures
from experiments.claims import (
  AGREES,
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
from experiments.measures import Runs

DRAWS = 2000


def simulated(rng, draws, n, pictures, base, ours, seeds, picture):
  """Errors of runs whose expected errors are exactly `base` and `ours`.

  A picture is wrong where its difficulty, which all runs share, a noise of its
  own and a seed's are above a threshold; a variant finds other pictures
  difficult.

  Args:
    rng: of NumPy.
    draws: of the whole experiment, each with pictures of its own.
    n: seeds.
    pictures: of the test.
    base: percent, of the baseline.
    ours: of the variant.
    seeds: standard deviation of what a seed does to all pictures.
    picture: of what the variant does to a picture.

  Returns:
    100 where a picture is wrong, else 0, of the variant and of the baseline,
    [draws, n, pictures] each.
  """
  difficulty = rng.standard_normal((draws, 1, pictures), np.float32)
  wrong = []
  for error, effect in ((ours, picture), (base, 0.0)):
    score = rng.standard_normal((draws, n, pictures), np.float32) + difficulty
    score += seeds * rng.standard_normal((draws, n, 1), np.float32)
    score += effect * rng.standard_normal((draws, 1, pictures), np.float32)
    scale = math.sqrt(2 + seeds**2 + effect**2)
    threshold = scale * stats.norm.ppf(1 - error / 100)
    wrong.append(np.where(score > threshold, np.float32(100), np.float32(0)))
  return wrong


def verdicts(claim, ours, base=None):
  pictures = ours if base is None else ours - base
  values = pictures.mean(-1, dtype=np.float64)
  ends = measures.interval(values, measures.picture_error(pictures))
  return claim.judge(*ends)


# Where seeds, pictures, or both decide.
KINDS = [(0.0, 0.0), (0.2, 0.0), (0.0, 0.8), (0.1, 0.8)]
AT_THE_NULL = [
  (Difference(1.4), 20.0, 20.0),
  (Difference(-2.6), 20.0, 20.0),
  (Higher(), 20.0, 20.0),
  (Lower(), 20.0, 20.0),
  (Equivalent(margin=5.0), 20.0, 25.0),
  (Equivalent(margin=5.0), 25.0, 20.0),
  (Reported(25.0, margin=5.0), 20.0, 20.0),
]


@pytest.mark.parametrize(('seeds', 'picture'), KINDS)
@pytest.mark.parametrize('n', [3, 5])
def test_at_the_null_few_agree(n, seeds, picture):
  rng = np.random.default_rng(n)
  drawn = {}
  for claim, base, ours in AT_THE_NULL:
    if (base, ours) not in drawn:
      drawn[base, ours] = simulated(
        rng, DRAWS, n, 200, base, ours, seeds, picture
      )
    wrong, others = drawn[base, ours]
    found = verdicts(claim, wrong, None if claim.alone else others)
    agree = int((found == AGREES).sum())
    print(f'{claim}: {agree} of {DRAWS} agree at the null')
    assert agree <= 0.05 * DRAWS, claim


@pytest.mark.parametrize('n', [3, 5, 6, 10])
def test_at_the_null_of_the_other_types_few_agree(n):
  rng = np.random.default_rng(n)
  logs = 0.3 * rng.standard_normal((DRAWS, n))
  ratio = Ratio(6.0).judge(*np.exp(measures.interval(logs)))
  stuck = rng.binomial(n, 0.5, DRAWS)
  ends = measures.binomial_interval(stuck, n)
  stalls = Stalls().judge(*(100 * end for end in ends))
  towers = 5 * rng.standard_normal((DRAWS, n, 2))
  squares = (towers[..., 0] - towers[..., 1]) ** 2 - 2 * 5**2
  apart = Apart().judge(*measures.interval(squares))
  for found in (ratio, stalls, apart):
    assert (found == AGREES).sum() <= 0.05 * DRAWS


def test_power_at_the_claimed_effect():
  """With the pictures of Imagenette's test; what is seen with pytest -s."""
  rng = np.random.default_rng(0)
  for claim, base, ours, least in (  # of n = 3, and of 5
    (Difference(0.4), 25.0, 25.4, (0.0, 0.0)),
    (Difference(1.4), 25.0, 26.4, (0.1, 0.5)),
    (Difference(-2.6), 25.0, 22.4, (0.6, 0.9)),
    (Equivalent(margin=1.0), 25.0, 25.0, (0.0, 0.05)),
    (Reported(25.0), 25.0, 25.0, (0.0, 0.02)),
  ):
    for n, floor in zip((3, 5), least, strict=True):
      wrong, others = simulated(rng, 100, n, 3925, base, ours, 0.02, 0.3)
      found = verdicts(claim, wrong, None if claim.alone else others)
      power = (found == AGREES).mean()
      print(f'{claim}, n = {n}: power {power:.2f}')
      assert power >= floor, claim
  logs = math.log(6.0) + 0.3 * rng.standard_normal((DRAWS, 3))
  found = Ratio(6.0).judge(*np.exp(measures.interval(logs)))
  print(f'ratio of 6, n = 3: power {(found == AGREES).mean():.2f}')
  assert (found == AGREES).mean() > 0.9


def test_simulated_rows_have_the_verdicts_of_simulated_arrays(tmp_path):
  rng = np.random.default_rng(0)
  claim = Difference(5.0)
  ours, base = simulated(rng, 8, 3, 200, 20.0, 27.0, 0.05, 0.2)
  found = verdicts(claim, ours, base)
  assert set(found) == {AGREES, UNKNOWN}
  for draw in range(8):
    rows = [
      [
        keep(tmp_path / str(draw), name, seed, wrong[draw, seed] > 0)
        for seed in range(3)
      ]
      for name, wrong in (('without', ours), ('with', base))
    ]
    measured = claim.compare(Runs(*rows, folder=tmp_path / str(draw)))
    assert claim.verdict(measured, False).startswith(found[draw])
