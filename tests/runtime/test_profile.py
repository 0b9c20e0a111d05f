"""How fast steps are, by a clock in the hand."""

import types

import pytest

from alexnet_jax.runtime import profile


class Hand:
  """A clock, a step that ends at a time, and a batch that comes at one."""

  def __init__(self, monkeypatch):
    self.now, self.step_ends, self.batch_comes = 100.0, 0.0, 0.0
    clock = types.SimpleNamespace(perf_counter=lambda: self.now)
    monkeypatch.setattr(profile, 'time', clock)

  def ready(self, seconds):
    if self.batch_comes <= self.now:
      return True
    self.now += seconds
    return self.batch_comes <= self.now

  def stepping(self):
    return self.now < self.step_ends

  def step(self, meter, step, batch, worked=0.0):
    """Waits for a batch that comes after `batch` seconds, while the step
    before takes `step` seconds more; then works for a time."""
    self.step_ends, self.batch_comes = self.now + step, self.now + batch
    meter.wait(self.ready, self.stepping)
    self.now += worked
    meter.add(32)


@pytest.fixture
def hand(monkeypatch):
  return Hand(monkeypatch)


def test_a_meter_by_hand(hand):
  meter = profile.Meter()
  hand.step(meter, step=0.0, batch=0.5, worked=2.0)
  hand.step(meter, step=0.0, batch=1.0, worked=4.5)  # 1.5 of 8 seconds
  assert meter.read() == pytest.approx(
    {'time/images_per_sec': 8.0, 'time/waiting': 0.1875}, rel=2e-3
  )
  # The next reading is of its own time, and so is one after a restart.
  hand.now += 4.0
  meter.add(2)
  assert meter.read() == {'time/images_per_sec': 0.5, 'time/waiting': 0.0}
  hand.step(meter, step=0.0, batch=5.0)
  meter.restart()
  hand.now += 1.0
  meter.add(3)
  assert meter.read() == {'time/images_per_sec': 3.0, 'time/waiting': 0.0}


@pytest.mark.parametrize(
  ('step', 'batch', 'waited'),
  [
    (1.0, 0.0, 0.0),  # it is there
    (1.0, 0.5, 0.0),  # it comes while the step before is under way
    (0.2, 0.5, 0.3),  # only a part of the time nothing is under way
    (0.0, 0.5, 0.5),
  ],
)
def test_waiting_is_time_without_a_step(step, batch, waited, hand):
  meter = profile.Meter()
  hand.step(meter, step, batch, worked=1.0 - batch)
  assert meter.read()['time/waiting'] == pytest.approx(waited, abs=2.1e-3)
