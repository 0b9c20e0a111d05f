"""The paper's experiment, begun: real tars, real photographs, full width."""

import subprocess
import sys

import pytest
import small_runs

from alexnet_jax.data import imagenet, preparation
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training import evaluation


def test_synsets_have_words():
  """Those of imagenette, both ends of the list, and two of one word."""
  words = {
    'n01440764': 'tench',
    'n02102040': 'English springer',
    'n02979186': 'cassette player',
    'n03000684': 'chain saw',
    'n03028079': 'church',
    'n03394916': 'French horn',
    'n03417042': 'garbage truck',
    'n03425413': 'gas pump',
    'n03445777': 'golf ball',
    'n03888257': 'parachute',
    'n15075141': 'toilet tissue',
    'n02012849': 'crane (bird)',
    'n03126707': 'crane (machine)',
  }
  found = imagenet.readable([*words, 'n00000000', 'cat'])
  assert found == (
    *(f'{word} ({name})' for name, word in words.items()),
    *('n00000000', 'cat'),
  )
  everything = imagenet.readable(imagenet._tfds_lines('labels.txt'))
  assert len(set(everything)) == 1000
  short = imagenet.shortened(everything)
  assert len(set(short)) == 1000 and short[0] == 'tench'
  both = [name for name in short if '(n' in name]  # of one word
  assert both == ['maillot (n03710637)', 'maillot (n03710721)']
  assert imagenet.shortened(['a (n1)', 'cat']) == ('a (n1)', 'cat')


def test_folders_of_imagenet_v2_are_numbers(tmp_path):
  for label in range(1000):
    (tmp_path / str(label)).mkdir()
    (tmp_path / str(label) / 'x.jpeg').touch()
  (tmp_path / '10/a.jpeg').touch()
  found = imagenet.imagenet_v2(tmp_path)
  assert found.class_names[10] == 'n01530575'  # brambling
  assert list(found.examples) == ['test']
  names = {e.name: e.label for e in found.examples['test']}
  assert len(names) == 1001 and list(names.values()) == sorted(names.values())
  assert all(name.split('/')[0] == str(label) for name, label in names.items())
  (tmp_path / '7/x.jpeg').unlink()
  with pytest.raises(UserError, match='no photographs in 7/'):
    imagenet.imagenet_v2(tmp_path)
  (tmp_path / '7').rename(tmp_path / 'seven')
  with pytest.raises(UserError, match='are 0 to 999: its 1000 folders have'):
    imagenet.imagenet_v2(tmp_path)


@pytest.mark.usefixtures('cached')
def test_a_set_that_is_a_test_split_alone(
  reference, data_dir, tmp_path, monkeypatch
):
  """ImageNet-V2, of six classes: the test split's pictures in folders 0 to 5
  have the errors of that split, whatever their own mean image."""
  names = list(map(str, range(small_runs.CLASSES)))
  monkeypatch.setattr(imagenet, '_tfds_lines', lambda _: names)
  made = preparation.prepare(
    'imagenet_v2',
    data_dir=tmp_path,
    input_dir=str(data_dir.parent / 'pictures_input/test'),
    num_workers=1,
  )
  assert made.fingerprint['examples'] == {'test': small_runs.IMAGES['test']}
  other = {'data.name': 'imagenet_v2', 'data.dir': str(tmp_path)}
  wanted, found = (
    evaluation.evaluate_checkpoint(reference, 'last', 'test', 1, fields)
    for fields in ({}, other)
  )
  assert found['top1_error'] == wanted['top1_error']
  assert found['loss'] == pytest.approx(wanted['loss'], rel=1e-5)


@pytest.mark.slow
def test_eight_steps_and_an_evaluation_from_the_tars(imagenet_tars, tmp_path):
  def run(verb, *flags):
    program = [sys.executable, '-m', f'alexnet_jax.{verb}', *flags]
    process = subprocess.Popen(
      program,
      cwd=small_runs.ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    return small_runs.finish(process)

  data, workdir = tmp_path / 'data', tmp_path / 'run'
  run(
    'prepare',
    '--source=imagenet2012',
    f'--input={imagenet_tars}',
    f'--data_dir={data}',
  )
  common = (
    '--config=configs/imagenet2012.py',
    f'--config.data.dir={data}',
    '--config.data.workers=2',
    '--config.batch_size=32',
    '--config.length=8 steps',
    '--config.log_every=4 steps',
    f'--workdir={workdir}',
  )
  run('main', *common)
  rows = small_runs.rows(workdir)
  # An epoch is 250 images, 7.8 steps of 32: evaluated when it ends.
  (evaluated,) = (row for row in rows if 'validation/loss' in row)
  assert evaluated['step'] == 8
  errors = evaluated['validation/top1_error'] * 250
  assert abs(errors - round(errors)) < 1e-6, 'counts of 250'
  trained = [row for row in rows if 'train/loss' in row]
  assert [row['step'] for row in trained] == [4, 8]
  # 1000 classes start near chance, and eight steps do not blow it up.
  assert all(row['train/loss'] < 8 for row in trained)
  out = run('main', *common, '--mode=eval', '--checkpoint=8', '--views=1')
  assert 'imagenet2012, validation: 250 images, 1 view, step 8' in out
  last = evaluated['validation/top1_error']
  spread = 100 * (last * (1 - last) / 250) ** 0.5
  digits = 1 if spread >= 1 else 2
  if spread:
    assert f'top-1 error {100 * last:.{digits}f} ± ' in out
