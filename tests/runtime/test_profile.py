"""How fast steps are, by a clock in the hand."""

import types

import pytest

from alexnet_jax.runtime import profile


class Hand:
  """A clock, steps that end at a time, and a batch that comes at one."""

  def __init__(self, monkeypatch):
    self.now, self.batch_comes = 100.0, 0.0
    clock = types.SimpleNamespace(perf_counter=lambda: self.now)
    monkeypatch.setattr(profile, 'time', clock)

  def ready(self, seconds):
    if self.batch_comes <= self.now:
      return True
    self.now += seconds
    return self.batch_comes <= self.now

  def begins(self, seconds):
    """What a step makes, that takes so long from now."""
    return Made(self, self.now + seconds)

  def wait(self, meter, seconds):
    """For a batch that comes so much later."""
    self.batch_comes = self.now + seconds
    meter.wait(self.ready)


class Made:
  """An array that is made at a time."""

  def __init__(self, hand, end):
    self.hand, self.end = hand, end

  def is_ready(self):
    return self.end <= self.hand.now

  def block_until_ready(self):
    self.hand.now = max(self.hand.now, self.end)


@pytest.fixture
def hand(monkeypatch):
  return Hand(monkeypatch)


def test_a_meter_by_hand(hand):
  meter = profile.Meter()
  hand.wait(meter, 0.5)  # nothing is under way
  meter.step(hand.begins(2.0), 32)
  assert meter.rate == 0  # a step that was begun is not done
  hand.wait(meter, 1.5)  # a step is
  meter.step(hand.begins(3.0), 32)  # at 2, taken note of at 2.5
  assert meter.rate == pytest.approx(32 / 2.5, rel=2e-3)
  hand.wait(meter, 4.5)  # two of them after its end
  meter.step(hand.begins(1.0), 32)  # at 7
  assert meter.read() == pytest.approx(  # at 8
    {'time/images_per_sec': 96 / 8, 'time/waiting': 2.5 / 8}, rel=2e-3
  )
  # The next reading is of its own steps, and so is one after a restart.
  assert meter.read() == {}
  hand.now += 1.0
  meter.step(hand.begins(3.0), 2)
  assert meter.read() == {'time/images_per_sec': 0.5, 'time/waiting': 0.0}
  meter.step(hand.begins(5.0), 1)
  meter.restart()  # by who has waited for that step
  meter.step(hand.begins(1.0), 3)
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
  meter.step(hand.begins(step), 32)
  hand.wait(meter, batch)
  meter.step(hand.begins(1.0 - max(step, batch)), 32)  # one second in all
  assert meter.read()['time/waiting'] == pytest.approx(waited, abs=2.1e-3)
