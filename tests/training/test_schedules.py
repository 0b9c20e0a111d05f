"""Rates by hand-computed sequences."""

import json

import numpy as np
import optax
import pytest

from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training.schedules import (
  Plan,
  Planned,
  Plateau,
  dexp,
  learning_rates,
  make_schedule,
  staircase,
)
from configs import default


def make_plan(**overrides):
  fields = default.get_config().schedule.to_dict()
  return Plan(**fields | overrides)


def test_staircase():
  schedule = Planned(staircase(0.02, (2.0, 3.5), 4.0))
  epochs = [0, 1.99, 2, 3.49, 3.5, 100]
  rates = [schedule.learning_rate(epoch) for epoch in epochs]
  expected = [2e-2, 2e-2, 5e-3, 5e-3, 1.25e-3, 1.25e-3]
  assert rates == pytest.approx(expected, rel=1e-12)
  for epoch in range(20):  # whatever the errors
    schedule.observe(epoch, 0.5)
  assert schedule.learning_rate(0) == 0.02
  assert not schedule.finished
  schedule.resume(json.loads(json.dumps(schedule.position())))
  assert schedule.learning_rate(2) == pytest.approx(5e-3, rel=1e-12)


def test_staircase_without_drops_is_constant():
  assert Planned(staircase(0.02, (), 10.0)).learning_rate(1000) == 0.02


@pytest.mark.parametrize('drops', [(-3.0, 2.0), (0.0,)])
def test_a_rate_does_not_drop_before_training(drops):
  with pytest.raises(UserError, match='must rise from above 0'):
    make_plan(drops=drops)


def test_staircase_refuses_drops_that_fall():
  with pytest.raises(UserError, match='must rise'):
    make_plan(drops=(3.0, 2.0))


def test_dexp_is_that_of_run_170():
  schedule = make_schedule(make_plan(kind='dexp', factor=250.0))
  for first, last, rate in (
    (0, 23.74, 0.01),
    (23.75, 47.49, 0.0015874),
    (47.5, 71.24, 0.00025198),
    (71.25, 200, 0.00004),
  ):
    for epoch in (first, last):
      assert schedule.learning_rate(epoch) == pytest.approx(rate, rel=1e-4)
  schedule.observe(3, 0.5)
  schedule.resume(json.loads(json.dumps(schedule.position())))
  assert schedule.learning_rate(0) == 0.01 and not schedule.finished
  # That of its biases.
  assert dexp(0.02, 10, 2, 95) == ((0, 0.02), (47.5, pytest.approx(0.002)))
  assert dexp(0.02, 10, 1, 95) == ((0, 0.02),)


def test_rates_of_rules():
  got = learning_rates(make_plan(), 3.0, 0.01)
  assert got.tolist() == [np.float32(0.01)]
  plan = make_plan(
    rules=(
      ('conv1', ((67.0, 1e-5), (72.0, 0.0))),
      ('bias', ((0.0, 0.02),)),
    )
  )
  for epoch, main, own in (
    (0, 0.01, [0.01, 0.02]),
    (66.99, 1e-4, [1e-4, 0.02]),
    (67, 1e-4, [1e-5, 0.02]),
    (71.99, 1e-4, [1e-5, 0.02]),
    (72, 1e-4, [0, 0.02]),
    (90, 1e-5, [0, 0.02]),
  ):
    got = learning_rates(plan, epoch, main)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, np.float32([main, *own]))


@pytest.mark.parametrize('kind', ['staircase', 'plateau', 'dexp'])
def test_an_error_at_the_target_ends_it(kind):
  plan = make_plan(kind=kind, target=0.25)
  schedule = make_schedule(plan)
  for epoch, error in enumerate([0.9, 0.3, 0.25]):
    assert not schedule.finished
    schedule.observe(epoch, error)
  assert schedule.finished
  resumed = make_schedule(plan)
  resumed.resume(json.loads(json.dumps(schedule.position())))
  assert resumed.finished
  assert resumed.position() == schedule.position()


@pytest.mark.parametrize('kind', ['staircase', 'plateau', 'dexp'])
@pytest.mark.parametrize(
  ('then', 'ends'), [(0.1, False), (0.0, False), (0.3, True), (0.25, True)]
)
def test_a_run_that_goes_on_ends_by_the_target_of_then(kind, then, ends):
  first = make_schedule(make_plan(kind=kind, target=0.25))
  first.observe(1, 0.25)
  assert first.finished
  position = json.loads(json.dumps(first.position()))
  second = make_schedule(make_plan(kind=kind, target=then))
  second.resume(position)
  assert second.finished == ends
  second.observe(2, 0.05)
  assert second.finished == (then > 0)
  assert not make_schedule(make_plan(kind=kind, target=1.0)).finished


def test_a_plateau_goes_on_with_more_drops():
  schedule = plateau()
  for epoch, (error, _, _) in enumerate(COURSE, start=1):
    schedule.observe(epoch, error)
  assert schedule.finished
  more = Plateau(2.0, patience=2.0, max_drops=3, factor=4.0)
  more.resume(json.loads(json.dumps(schedule.position())))
  assert not more.finished
  assert more.learning_rate(12) == pytest.approx(2.0 / 4**3)


# After each epoch: the error, the rate then, and whether it is finished.
# Rate 2, patience 2, two drops at most, each by 4.
COURSE = [
  (0.90, 2.0, False),  # better
  (0.80, 2.0, False),  # better
  (0.80, 2.0, False),  # an equal is not better: 1 epoch
  (0.85, 0.5, False),  # 2 epochs: first drop
  (0.82, 0.5, False),  # better than the last, not than the best: 1
  (0.70, 0.5, False),  # better
  (0.71, 0.5, False),  # 1
  (0.72, 0.125, False),  # 2: second drop
  (0.71, 0.125, False),  # 1
  (0.70, 0.125, True),  # 2: that would be the third
  (0.10, 0.125, True),  # it stays so
]


def plateau(patience=2.0):
  return Plateau(2.0, patience=patience, max_drops=2, factor=4.0)


@pytest.mark.parametrize('resumed', [False, True])
def test_plateau(resumed):
  schedule = plateau()
  for epoch, (error, rate, finished) in enumerate(COURSE, start=1):
    schedule.observe(epoch, error)
    if resumed:  # another process goes on from what a checkpoint keeps
      position = json.loads(json.dumps(schedule.position(), allow_nan=False))
      schedule = plateau()
      schedule.resume(position)
      assert schedule.position() == position
    # Of the errors so far, not of the epoch that is asked for.
    for asked in (epoch, epoch + 50):
      assert schedule.learning_rate(asked) == pytest.approx(rate, rel=1e-12), (
        epoch
      )
    assert schedule.finished == finished, epoch


def test_plateau_counts_epochs_not_evaluations():
  """Four evaluations an epoch, the best at 0.25: it drops at 2.25."""
  schedule = plateau()
  rates = {}
  for quarter in range(1, 12):
    schedule.observe(quarter / 4, 0.5)
    rates[quarter / 4] = schedule.learning_rate(quarter / 4)
  assert [epoch for epoch, rate in rates.items() if rate < 2.0] == [
    2.25,
    2.5,
    2.75,
  ]


def test_plateau_before_any_evaluation():
  schedule = plateau()
  position = json.loads(json.dumps(schedule.position(), allow_nan=False))
  schedule = plateau()
  schedule.resume(position)
  assert schedule.learning_rate(0) == 2.0 and not schedule.finished
  schedule.observe(40, 1.0)  # the first is the best, however late or bad
  assert schedule.learning_rate(40) == 2.0


def test_without_drops_the_first_plateau_is_the_end():
  schedule = Plateau(2.0, patience=1.0, max_drops=0, factor=4.0)
  schedule.observe(1, 0.5)
  assert not schedule.finished
  schedule.observe(2, 0.5)
  assert schedule.finished and schedule.learning_rate(2) == 2.0


def test_make_schedule_reads_its_fields():
  fields = {'learning_rate': 2.0, 'factor': 4.0, 'drops': (1.0,)}
  schedule = make_schedule(make_plan(**fields))
  assert [schedule.learning_rate(0.5), schedule.learning_rate(1)] == [2.0, 0.5]
  fields |= {'kind': 'plateau', 'patience': 3.0, 'max_drops': 1}
  schedule = make_schedule(make_plan(**fields))
  course = []
  for epoch in range(1, 8):
    schedule.observe(epoch, 0.5)
    course.append((schedule.learning_rate(epoch), schedule.finished))
  assert course == [(2.0, False)] * 3 + [(0.5, False)] * 3 + [(0.5, True)]
  with pytest.raises(UserError, match="schedule.kind is one of .*'cosine'"):
    make_plan(kind='sine')


def test_cosine_is_optax_with_and_without_warm_up():
  for warmup in (0.0, 5.0):
    plan = make_plan(kind='cosine', learning_rate=0.4, warmup=warmup)
    schedule = make_schedule(plan, epochs=20.0)
    steps = 10  # an epoch
    oracle = optax.warmup_cosine_decay_schedule(
      init_value=0.0 if warmup else 0.4,
      peak_value=0.4,
      warmup_steps=round(warmup * steps),
      decay_steps=20 * steps,
    )
    for step in range(0, 25 * steps):
      rate = schedule.learning_rate(step / steps)
      assert rate == pytest.approx(float(oracle(step)), abs=1e-6)
    assert schedule.learning_rate(20.0) == 0
    schedule.observe(3, 0.5)
    schedule.resume(json.loads(json.dumps(schedule.position())))
    assert not schedule.finished


def test_polynomial_decay_begins_where_the_warm_up_ends():
  """Over 100 epochs, of which 10 rise; by hand, with the power of 3."""
  plan = make_plan(kind='polynomial', learning_rate=8.0, warmup=10.0, power=3.0)
  schedule = make_schedule(plan, 100)
  for epoch, rate in (
    (0, 0.0),
    (5, 4.0),
    (10, 8.0),
    (55, 8.0 * 0.5**3),
    (91, 8.0 * 0.1**3),
    (100, 0.0),
    (110, 0.0),
  ):
    assert schedule.learning_rate(epoch) == pytest.approx(rate, abs=1e-12)
  assert not schedule.finished


def test_rules_warm_up_as_the_main_rate_does():
  rules = (('bias', ((0.0, 0.02), (3.0, 0.01))), ('conv1', ((2.0, 0.5),)))
  plan = make_plan(learning_rate=1.0, drops=(), warmup=4.0, rules=rules)
  schedule = make_schedule(plan)
  for epoch, rates in (
    (0, [0, 0, 0]),
    (1, [0.25, 0.005, 0.25]),
    (2, [0.5, 0.01, 0.25]),
    (3, [0.75, 0.0075, 0.375]),
    (4, [1, 0.01, 0.5]),
  ):
    got = learning_rates(plan, epoch, schedule.learning_rate(epoch))
    np.testing.assert_array_equal(got, np.float32(rates))


def test_warm_up_of_a_staircase():
  plan = make_plan(learning_rate=2.0, factor=4.0, drops=(3.0,), warmup=4.0)
  schedule = make_schedule(plan)
  epochs = [0, 1, 2.5, 3, 3.5, 4, 9]
  rates = [schedule.learning_rate(epoch) for epoch in epochs]
  assert rates == pytest.approx([0, 0.5, 1.25, 0.375, 0.4375, 0.5, 0.5])
