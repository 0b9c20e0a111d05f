"""Durations: exact arithmetic against counting examples one by one."""

from fractions import Fraction

import pytest

from alexnet_jax.runtime.cadence import Duration
from alexnet_jax.runtime.errors import UserError

IMAGENET = 1_281_167


def due_by_counting(period, batch_size: int, num_steps: int) -> list[int]:
  """Steps at which another multiple of `period` examples has been seen."""
  due, seen, target = [], 0, period
  for step in range(1, num_steps + 1):
    seen += batch_size
    if seen >= target:
      due.append(step)
    while seen >= target:
      target += period
  return due


def due_steps(duration: Duration, num_steps: int) -> list[int]:
  return [step for step in range(1, num_steps + 1) if is_due(duration, step)]


def is_due(duration: Duration, step: int) -> bool:
  return duration.falls_between(Fraction(step - 1), Fraction(step))


@pytest.mark.parametrize(
  ('text', 'epochs', 'batch_size', 'num_examples'),
  [
    ('1 epoch', Fraction(1), 4, 16),
    ('1 epoch', Fraction(1), 3, 10),  # batches straddle epochs
    ('0.5 epochs', Fraction(1, 2), 3, 10),
    ('0.1 epochs', Fraction(1, 10), 7, 1000),  # 0.1 is no binary fraction
    ('2 epochs', Fraction(2), 128, 1001),
    ('1 epoch', Fraction(1), 10, 3),  # several epochs in a step
  ],
)
def test_epochs_are_exact_numbers_of_examples(
  text, epochs, batch_size, num_examples
):
  duration = Duration.parse(text, batch_size, num_examples)
  expected = due_by_counting(epochs * num_examples, batch_size, 500)
  assert due_steps(duration, 500) == expected
  assert duration.steps == expected[0]


def test_epochs_do_not_drift_over_ninety_of_imagenet():
  epoch = Duration.parse('1 epoch', 128, IMAGENET)
  end = Duration.parse('90 epochs', 128, IMAGENET).steps
  assert end == 900_821  # ceil(90 * 1281167 / 128)
  assert len(due_steps(epoch, end)) == 90
  assert is_due(epoch, end)


def test_steps():
  duration = Duration.parse('20 steps', 128, IMAGENET)
  assert due_steps(duration, 100) == [20, 40, 60, 80, 100]
  assert Duration.parse('1 step', 8, 9).steps == 1
  assert Duration.parse(' 5steps ', 8, 9).steps == 5


@pytest.mark.parametrize('text', ['', 'never', '0 steps', '0 epochs'])
def test_never(text):
  duration = Duration.parse(text, 8, 80)
  assert duration.steps == 0
  assert due_steps(duration, 100) == []


@pytest.mark.parametrize(
  'text',
  [
    '10',
    'epochs',
    '-1 epochs',
    '1.5 steps',
    '5 minutes',
    f'{"9" * 5000} steps',
    '1e3 steps',
    10,
    None,
  ],
)
def test_anything_else_is_refused_with_the_forms_accepted(text):
  with pytest.raises(UserError, match=r"not a duration.*'90 epochs'"):
    Duration.parse(text, 8, 80)
