"""How far a run is, whatever batches and data sets it has had."""

from fractions import Fraction

import numpy as np
import pytest

from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training.course import Course, Position
from alexnet_jax.training.schedules import make_schedule
from alexnet_jax.training.settings import configure
from configs import default


def make_course(batch_size=8, num_examples=36, **fields):
  config = default.get_config()
  config.update_from_flattened_dict(
    {
      'batch_size': batch_size,
      'length': '6 epochs',
      'evals.every': '1 epoch',
      'schedule.drops': (1.7, 4.2),
      **fields,
    }
  )
  settings = configure(config)
  return Course.make(settings, num_examples), make_schedule(settings.schedule)


@pytest.mark.parametrize('seed', range(20))
def test_no_change_of_the_batch_or_the_data_moves_a_run_back(seed):
  """Epochs are counted example by example in the oracle."""
  rng = np.random.default_rng(seed)
  course, schedule = make_course()
  step, epoch, seen, evaluated = 0, Fraction(0), 0, []
  rates = []
  while step < course.end:
    if step and rng.random() < 0.1:  # a new process, another batch or data set
      saved = course.position(step).as_json()
      course, schedule = make_course(
        int(rng.integers(1, 30)), course.num_examples + int(rng.integers(0, 9))
      )
      course = course.resumed(Position.of_json(step, saved))
    if step >= course.end:
      break
    rates.append(schedule.learning_rate(course.epoch(step)))
    before = epoch
    for _ in range(course.batch_size):
      epoch += Fraction(1, course.num_examples)
      seen += 1
    step += 1
    assert course.position(step) == Position(step, epoch, seen)
    assert rates[-1] == 0.01 / 10 ** sum(before >= x for x in (1.7, 4.2))
    if course.due(course.evaluate_every, step):
      evaluated.append(course.planned_epoch(step))
      assert int(before) < int(epoch)
    else:
      assert int(before) == int(epoch)
  assert rates == sorted(rates, reverse=True)
  assert epoch >= 6 and epoch - Fraction(course.batch_size, 36) < 6
  assert evaluated == sorted(evaluated)


@pytest.mark.parametrize('batch_size', [4, 16, 24])
def test_another_batch_goes_on_in_the_order_of_the_data(batch_size):
  course, _ = make_course()
  saved = course.position(6)
  again, _ = make_course(batch_size)
  again = again.resumed(saved)
  assert again.first_example() == 48
  assert again.epoch(6) == course.epoch(6) == 48 / 36
  assert again.position(7).examples == 48 + batch_size


def test_what_is_written_in_steps_is_counted_in_steps():
  course, _ = make_course(**{'length': '20 steps', 'evals.every': '7 steps'})
  again = course.resumed(Position(10, Fraction(5), 180))
  assert again.end == 20
  due = [s for s in range(11, 21) if again.due(again.evaluate_every, s)]
  assert due == [14]


def test_noise_ends_with_the_epoch_that_was_seen():
  course, _ = make_course(**{'augment.color_until': '2 epochs'})
  assert [course.within(course.color_until, s) for s in (8, 9)] == [True, False]
  again = course.resumed(Position(4, Fraction(3), 108))
  assert not again.within(again.color_until, 4)
  never, _ = make_course()
  assert never.within(never.color_until, 10**6)
  for text in ('0 epochs', '0 steps'):
    with pytest.raises(UserError, match=f"'{text}' would be never"):
      make_course(**{'augment.color_until': text})
