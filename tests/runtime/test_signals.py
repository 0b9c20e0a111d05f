"""A request to stop: who hears of it, and that it leaves no handler behind."""

import signal

import jax
import pytest

from alexnet_jax.runtime import signals

ASKING = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture
def heard():
  """What reaches the handlers of before, of which JAX's would be one."""
  numbers = []

  def hear(number, _):
    numbers.append(number)

  old = {number: signal.signal(number, hear) for number in ASKING}
  yield numbers
  for number, handler in old.items():
    signal.signal(number, handler)


def handlers():
  return [signal.getsignal(number) for number in ASKING]


@pytest.mark.parametrize('number', ASKING)
def test_one_process_stops_and_puts_the_handlers_back(heard, number):
  before = handlers()
  with signals.StopRequest() as stop:
    assert not stop.due(1)
    signal.raise_signal(number)
    assert stop.due(1)
  assert handlers() == before
  assert heard == []


def test_an_error_puts_the_handlers_back(heard):
  before = handlers()
  with pytest.raises(OSError), signals.StopRequest():
    raise OSError
  assert handlers() == before


def test_one_of_two_processes_passes_ctrl_c_on(heard, monkeypatch):
  """As SIGTERM, which JAX has told the others of: its handler stays."""
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  before = handlers()
  with signals.StopRequest():
    signal.raise_signal(signal.SIGINT)
    assert heard == [signal.SIGTERM]
    signal.raise_signal(signal.SIGTERM)
    assert heard == [signal.SIGTERM] * 2
  assert handlers() == before
