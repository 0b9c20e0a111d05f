"""Rates by hand-computed sequences."""

import json

import pytest
from ml_collections import ConfigDict

from alexnet_jax.learning.schedules import Plateau, Staircase, make_schedule
from alexnet_jax.runtime.errors import UserError
from configs import default


def test_staircase():
  schedule = Staircase(0.01, (2.0, 3.5), 10.0)
  epochs = [0, 1.99, 2, 3.49, 3.5, 100]
  rates = [schedule.rate(epoch) for epoch in epochs]
  assert rates == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4])
  schedule.observe(1, 0.5)
  assert not schedule.finished


def test_staircase_refuses_drops_that_fall():
  with pytest.raises(UserError, match='must rise'):
    Staircase(0.01, (3.0, 2.0), 10.0)


# After each epoch: the error, the rate then, and whether it is finished.
# Patience 2, two drops at most.
COURSE = [
  (0.90, 1.0, False),  # better
  (0.80, 1.0, False),  # better
  (0.80, 1.0, False),  # an equal is not better: 1 epoch
  (0.85, 0.1, False),  # 2 epochs: first drop
  (0.82, 0.1, False),  # 1
  (0.70, 0.1, False),  # better
  (0.71, 0.1, False),  # 1
  (0.72, 0.01, False),  # 2: second drop
  (0.71, 0.01, False),  # 1
  (0.70, 0.01, True),  # 2: that would be the third
]


def test_plateau_and_its_position():
  schedule = Plateau(1.0, patience=2, max_drops=2, factor=10.0)
  for epoch, (error, rate, finished) in enumerate(COURSE, start=1):
    schedule.observe(epoch, error)
    assert schedule.rate(epoch) == pytest.approx(rate), epoch
    assert schedule.finished == finished, epoch
    # Whatever a checkpoint keeps, another process goes on from.
    position = json.loads(json.dumps(schedule.position(), allow_nan=False))
    schedule = Plateau(1.0, patience=2, max_drops=2, factor=10.0)
    schedule.resume(position)
    assert schedule.position() == position


def test_plateau_before_any_evaluation():
  schedule = Plateau(1.0, patience=2, max_drops=2, factor=10.0)
  json.dumps(schedule.position(), allow_nan=False)
  assert schedule.rate(0) == 1.0


def test_make_schedule():
  config = default.get_config().schedule
  assert isinstance(make_schedule(config), Staircase)
  config.kind = 'plateau'
  assert isinstance(make_schedule(config), Plateau)
  with pytest.raises(UserError, match="'staircase' or 'plateau', not 'cosine'"):
    make_schedule(ConfigDict({'kind': 'cosine'}))
