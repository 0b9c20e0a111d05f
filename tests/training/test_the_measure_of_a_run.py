"""What a run goes by: top-1 errors move the rate and choose the best (§5)."""

import pytest
import small_runs

from alexnet_jax.training import loop as train

pytestmark = pytest.mark.usefixtures('cached')

# Of the evaluations after steps 5, 9 and 14: top-1 is best at the second,
# top-5 at the first, the loss at the last.
ERRORS = [(0.6, 0.1, 1.5), (0.4, 0.3, 1.4), (0.5, 0.2, 1.3)]


def test_top_1_decides_where_the_others_disagree(config, tmp_path, monkeypatch):
  left = list(ERRORS)

  class Evaluator:
    split, num_examples = 'validation', 100

    def __init__(self, *_):
      pass

    def __call__(self, params):
      return dict(
        zip(('top1_error', 'top5_error', 'loss'), left.pop(0), strict=True)
      )

  monkeypatch.setattr(train, 'Evaluator', Evaluator)
  config.update_from_flattened_dict(
    {
      'length': '15 steps',
      'evals.every': '1 epoch',
      'evals.final_split': '',
      'checkpoint.every': 'never',
      'checkpoint.keep': 1,
      'mesh.towers': 1,
    }
  )
  left.append((0.45, 0.05, 1.2))  # at the end
  assert train.train_and_evaluate(config, tmp_path / 'run') == 0
  assert not left
  # A drop one epoch after the best, at the third.
  rates = [
    row['train/learning_rate']
    for row in small_runs.rows(tmp_path / 'run')
    if 'train/learning_rate' in row
  ]
  assert rates == pytest.approx([0.01] * 14 + [0.001])
  names = {int(path.name) for path in (tmp_path / 'run/checkpoints').iterdir()}
  assert names == {9, 15}
