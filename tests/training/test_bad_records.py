"""Damaged records of a data set: named, or replaced if so many are allowed
(docs/reliability.md)."""

import contextlib
import os
import re
from pathlib import Path

import numpy as np
import pytest
import small_runs

from alexnet_jax.data import builders, pipeline
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training import evaluation as evaluate
from alexnet_jax.training import loop as train

pytestmark = pytest.mark.usefixtures('cached')


@pytest.mark.parametrize('workers', [0, 1])
def test_a_damaged_record_is_an_error(workers, damaged, config, tmp_path):
  config.data.dir = str(damaged('train', 3))
  config.data.workers = workers
  with pytest.raises(UserError) as error:
    train.train_and_evaluate(config, tmp_path / 'run')
  assert re.match(
    r'record 3 of .*/pictures-train.array_record-00000-of-00001 '
    r'\(example 3 of train, train/0/24.png\) is damaged: '
    r'.*hash mismatch.*--overwrite',
    str(error.value),
  )


def test_some_damaged_records_are_replaced(
  damaged, data_dir, config, tmp_path, caplog
):
  """To the bit as if the next good records had been stored twice."""
  config.data.dir = str(damaged('train', 3, 7, 8, 35))
  config.data.max_bad_records = 4
  config.length, config.evals.every = '6 steps', 'never'
  workdir = tmp_path / 'run'
  assert train.train_and_evaluate(config, workdir) == 0
  _, meta = small_runs.saved(config, workdir)
  assert meta['bad_records'] == [3, 7, 8, 35]
  assert 'examples [' in caplog.text and 'train/0/24.png' in caplog.text

  dataset = builders.open_dataset('pictures', config.data.dir)
  options = {'seed': 0, 'batch_size': 36, 'rows': range(36)}
  with contextlib.closing(
    pipeline.training_batches(dataset, **options, max_bad_records=4)
  ) as batches:
    batch = next(batches)
  records = dataset.source('train')
  bad = {3: 4, 7: 9, 8: 9, 35: 0}
  good = [bad.get(i, i) for i in range(36)]
  stored = sorted(records[i]['image'].tobytes() for i in good)
  assert sorted(image.tobytes() for image in batch['image']) == stored
  for image, label, index in zip(
    batch['image'], batch['label'], batch['replaced'], strict=True
  ):
    if index >= 0:
      np.testing.assert_array_equal(image, records[bad[index]]['image'])
      assert label == records[bad[index]]['label']

  # One more is too many: of the first step after the run is resumed, which
  # does not meet all of the others again.
  whole = builders.open_dataset('pictures', data_dir)
  options = {'seed': config.seed, 'batch_size': 8, 'rows': range(8)}
  with contextlib.closing(
    pipeline.training_batches(whole, **options, start=6)
  ) as batches:
    seen = {image.tobytes() for image in next(batches)['image']}
  source = whole.source('train')
  met = {i for i in range(36) if source[i]['image'].tobytes() in seen}
  assert len(met) == 8 and not bad.keys() <= met
  more = min(met - bad.keys())
  damaged('train', more)
  config.length = '7 steps'
  with pytest.raises(UserError) as error:
    train.train_and_evaluate(config, workdir)
  found = sorted([*bad, more])
  message = f'examples {found} of train are damaged, more than'
  assert str(error.value).startswith(message)
  files = ', '.join(dataset.files('train', found))
  assert f'=4 ({files}): raise it' in str(error.value)


def test_a_damaged_record_of_an_evaluation(damaged, reference):
  here = {'data.dir': str(damaged('test', 10)), 'data.max_bad_records': 5}
  with pytest.raises(
    UserError, match=r'\(example 10 of test, test/5/5.png\) is'
  ):
    evaluate.evaluate_checkpoint(reference, 'last', 'test', 1, here)


@pytest.mark.parametrize('length', [0, 1000, 1 << 16, 5 << 16, -1])
def test_a_file_of_records_cut_short(length, damaged, config, tmp_path):
  """Also at the border of a block, where ArrayRecord gives empty records."""
  config.data.dir = str(damaged('train'))
  (file,) = Path(config.data.dir).glob('pictures/*/*-train.array_record*')
  os.truncate(file, length % file.stat().st_size)
  with pytest.raises(UserError, match=f'^{file} is damaged: '):
    train.train_and_evaluate(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()
