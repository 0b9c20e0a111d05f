"""How fast steps are, by a clock in the hand."""

import types

import pytest

from alexnet_jax.runtime import profile


def test_a_meter_by_hand(monkeypatch):
  now = 100.0
  clock = types.SimpleNamespace(perf_counter=lambda: now)
  monkeypatch.setattr(profile, 'time', clock)
  meter = profile.Meter()
  for waited, worked in ((0.5, 2.0), (1.0, 4.5)):  # 1.5 of 8 seconds
    with meter.waiting():
      now += waited
    now += worked
    meter.add(32)
  assert meter.read() == pytest.approx(
    {'time/images_per_sec': 8.0, 'time/waiting': 0.1875}, rel=1e-12
  )
  # The next reading is of its own time, and so is one after a restart.
  now += 4.0
  meter.add(2)
  assert meter.read() == {'time/images_per_sec': 0.5, 'time/waiting': 0.0}
  with meter.waiting():
    now += 5.0
  meter.add(7)
  meter.restart()
  now += 1.0
  meter.add(3)
  assert meter.read() == {'time/images_per_sec': 3.0, 'time/waiting': 0.0}
