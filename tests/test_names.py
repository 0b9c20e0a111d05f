"""Names come back as they were, or are refused before anything is written."""

import os
import shutil

import numpy as np
import pytest
import small_pictures
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alexnet_jax import library
from alexnet_jax.data import builders, sources
from alexnet_jax.drawing import canvas
from alexnet_jax.runtime import errors, files
from alexnet_jax.runtime.checkpoint import Checkpointer
from alexnet_jax.runtime.errors import UserError

# Any bytes but two, as Python sees them.
NAMES = st.one_of(
  st.text(st.characters(exclude_characters='/\0', codec='utf-8')),
  st.binary(max_size=20).map(os.fsdecode),
  st.sampled_from([' a ', 'a b ', '$x_1$', '[1]', 'a*', '\ufeff', 'a\u2028b']),
).filter(
  lambda name: (
    0 < len(os.fsencode(name)) < 200
    and not {'/', '\0'} & set(name)
    and not name.startswith('.')
  )
)
QUICK = settings(
  deadline=None,
  derandomize=True,
  database=None,
  max_examples=60,
  suppress_health_check=list(HealthCheck),
)


@QUICK
@given(names=st.sets(NAMES, min_size=1, max_size=5))
def test_classes_come_back_or_are_refused(tmp_path, names):
  shutil.rmtree(tmp_path / 'tree', ignore_errors=True)
  for name in names:
    (tmp_path / 'tree' / 'train' / name).mkdir(parents=True)
    (tmp_path / 'tree' / 'train' / name / 'x').touch()
  try:
    found = sources.read_tree(tmp_path / 'tree')
  except UserError as error:
    kept = '\n' in str(error) or 'cannot be the name of a class' not in str(
      error
    )
    if kept or all(map(_on_one_line, names)):
      raise
    return
  assert found.class_names == tuple(sorted(names))
  assert all(map(_on_one_line, names))


def _on_one_line(name: str) -> bool:
  try:
    name.encode()
  except UnicodeEncodeError:
    return False
  return len(name.splitlines()) == 1 and not any(
    c < ' ' or '\x7f' <= c < '\xa0' for c in name
  )


def test_odd_names_through_a_data_set(tmp_path):
  names = [' a ', '"b"', '$c$', '[d]*', 'é', '\ufeff', '\xa0', 'a']
  tree = tmp_path / 'tree'
  small_pictures.write_tree(tree, {name: 1 for name in names})
  odd = os.fsdecode(b'\xff\n.jpg')
  shutil.copy(tree / 'a' / '0.jpg', tree / 'a' / odd)
  (tree / 'a' / (bad := os.fsdecode(b'\xfe\r'))).touch()
  dataset = small_pictures.prepare(
    'folder', tmp_path, tree, size=8, validation_share=0.0, skip_bad=True
  )
  assert dataset.class_names == tuple(sorted(names))
  assert dataset.num_examples('train') == 9
  (skipped,) = dataset.fingerprint['skipped']
  assert skipped.startswith(f'a/{bad}: ')


def test_a_bad_file_is_named_on_one_line(tmp_path):
  tree = small_pictures.write_tree(tmp_path / 'tree', {'a': 1})
  (tree / 'a' / 'x\ny').touch()
  with pytest.raises(UserError, match=r'^a/x\\ny: not an image') as caught:
    small_pictures.prepare('folder', tmp_path, tree, validation_share=0.0)
  assert '\n' not in str(caught.value)


def test_ordinary_names_are_there_for_tfds(tmp_path):
  assert builders._label(['a b', 'é']).names == ['a b', 'é']
  assert builders._label(['a', ' a']).num_classes == 2


@settings(QUICK, max_examples=6)
@given(name=NAMES)
def test_a_folder_of_any_name_holds_checkpoints_or_is_refused(tmp_path, name):
  try:
    folder = files.folder(tmp_path / name)
  except UserError:
    assert not (tmp_path / name).exists()
    return
  state = {'w': np.arange(3.0, dtype=np.float32)}
  with Checkpointer(folder / 'checkpoints') as checkpointer:
    checkpointer.save(1, state, {'name': name})
  with Checkpointer(folder / 'checkpoints') as checkpointer:
    restored, meta = checkpointer.restore('last', state)
  np.testing.assert_array_equal(restored['w'], state['w'])
  assert meta == {'name': name}
  assert os.path.isdir(tmp_path / name / 'checkpoints')


@pytest.mark.parametrize(
  'name', ['run[1]', 'a*', 'a?', 'a\\b', 'gs:', os.fsdecode(b'\xff')]
)
def test_folders_that_others_would_misread_are_refused(tmp_path, name):
  with pytest.raises(UserError, match='cannot be used for runs and data sets'):
    small_pictures.prepare('shapes', tmp_path, data_dir=tmp_path / name / 'x')
  assert not list(tmp_path.iterdir())
  with pytest.raises(UserError, match='cannot be used for runs and data sets'):
    library.load(tmp_path / name)  # perhaps a run that was renamed


@pytest.mark.parametrize('name', [' a ', 'a]', '$a{b}%d', 'a,b', 'é\u2028'])
def test_data_sets_in_a_folder_of_an_odd_name(tmp_path, name):
  tree = small_pictures.write_tree(tmp_path / 'tree', {'a': 1})
  data_dir = tmp_path / name
  small_pictures.prepare(
    'folder', tmp_path, tree, data_dir=data_dir, size=8, validation_share=0.0
  )
  dataset = builders.open_dataset('pets', data_dir)
  assert dataset.source('train')[0]['label'] == 0
  assert sorted(os.listdir(tmp_path)) == sorted(['tree', name])


def test_a_class_is_drawn_as_it_is_called(tmp_path):
  fig = canvas.figure(2, 2)
  fig.text(0.1, 0.5, r'$\frac{1}$ $5 [x] ')
  canvas.save(fig, tmp_path / 'a[1]$.svg')
  assert r'$\frac{1}$ $5 [x]' in (tmp_path / 'a[1]$.svg').read_text()


def test_the_home_folder(monkeypatch, tmp_path):
  monkeypatch.setenv('HOME', str(tmp_path))
  assert os.fspath(files.folder('~/runs/x')) == str(tmp_path / 'runs' / 'x')
  assert os.fspath(files.folder('a/~')) == 'a/~'
  (tmp_path / 'a[1]').write_bytes(b'')
  assert os.fspath(files.source('~/a[1]')) == str(tmp_path / 'a[1]')
  assert errors._at_home('--data_dir=~/x') == f'--data_dir={tmp_path}/x'
  assert errors._at_home('--file=a~') == '--file=a~'


def test_printable():
  assert errors.printable('a\nb\u2028é 日') == 'a\\nb\\u2028é 日'
  assert errors.printable(os.fsdecode(b'\xff')) == '\\udcff'
