"""What a folder of pictures holds is used, or counted and named."""

import collections
import contextlib
import os
import random
import re
import socket
import stat
from concurrent import futures
from pathlib import Path

import pytest
import small_pictures
from random_trees import EMPTY, REASONS, check_tree, draw_tree

from alexnet_jax.data import given, listing, sources, workers
from alexnet_jax.runtime.errors import UserError

SHARES = {'validation': 0.0, 'test': 0.0}


def touch(root: Path, *names: str) -> Path:
  """Files that are taken for pictures: nothing is decoded in a listing."""
  for name in names:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(b'x')
  return root


def used(source: sources.Source) -> dict[str, list[str]]:
  return {s: [e.name for e in found] for s, found in source.examples.items()}


def unused(source: sources.Source) -> dict[str, tuple[int, str]]:
  return {one.name: (one.files, one.why) for one in source.unused}


@pytest.fixture
def locks(monkeypatch):
  """Folders of mode 0 cannot be read, not even by root."""
  iterdir = Path.iterdir

  def refuse(path):
    if not path.stat().st_mode & stat.S_IRUSR:
      raise PermissionError(13, 'Permission denied', str(path))
    return iterdir(path)

  monkeypatch.setattr(Path, 'iterdir', refuse)


def test_links_to_folders_are_followed(tmp_path):
  touch(tmp_path / 'more', '2.png', 'deep/3.png')
  tree = touch(tmp_path / 'tree', 'a/1.png', 'b/1.png')
  (tree / 'a' / 'more').symlink_to(tmp_path / 'more')
  (tree / 'c').symlink_to(tmp_path / 'more')
  found = sources.read_tree(tree)
  a = ['a/1.png', 'a/more/2.png', 'a/more/deep/3.png']
  c = ['c/2.png', 'c/deep/3.png']
  assert used(found) == {'train': [*a, 'b/1.png', *c]}
  assert not found.unused


@pytest.mark.parametrize('target', ['.', '..', '../..', '/'])
def test_links_in_a_circle_end(tmp_path, target):
  tree = touch(tmp_path / 'tree', 'train/a/1.png', 'train/b/1.png')
  (tree / 'train' / 'a' / 'up').symlink_to(target)
  found = sources.read_tree(tree)
  assert used(found) == {'train': ['train/a/1.png', 'train/b/1.png']}
  assert unused(found) == {
    'train/a/up/': (0, 'a link to a folder that holds it')
  }


def test_a_link_to_all_classes_is_no_class(tmp_path):
  tree = touch(tmp_path / 'tree', 'train/a/1.png')
  (tree / 'train' / 'all').symlink_to('.')
  assert sources.read_tree(tree).class_names == ('a',)


def test_folders_that_link_to_each_other(tmp_path):
  """Each is listed once, under its own name."""
  names = [f'a/{i}/{i}.png' for i in range(9)]
  tree = touch(tmp_path / 'tree', *names)
  for i in range(9):
    for j in range(9):
      (tree / f'a/{i}/to{j}').symlink_to(f'../{j}')
  found = sources.read_tree(tree)
  assert used(found) == {'train': names}
  assert len(found.unused) == 81 and not any(u.files for u in found.unused)


@pytest.mark.parametrize('name', ['validation', 'valid', 'val', 'Val', 'VALID'])
@pytest.mark.parametrize('train', ['train', 'Train', 'training'])
def test_names_of_splits(tmp_path, name, train):
  tree = touch(tmp_path, f'{train}/a/1', f'{name}/a/2', 'Test/a/3')
  assert used(sources.read_tree(tree)) == {
    'train': [f'{train}/a/1'],
    'validation': [f'{name}/a/2'],
    'test': ['Test/a/3'],
  }


def test_two_folders_of_one_split(tmp_path):
  tree = touch(tmp_path, 'train/a/1', 'val/a/1', 'validation/a/2')
  with pytest.raises(UserError, match='has val/ and validation/, each of'):
    sources.read_tree(tree)


def test_what_is_not_used_is_counted_and_named(tmp_path, locks, capsys):
  tree = touch(
    tmp_path,
    *('train/a/1', 'train/b/2', 'train/stray', 'readme', 'train/a/.hidden'),
    *('extra/x/1', 'extra/2', 'train/.cache/1', 'train/a/locked/1'),
  )
  os.mkfifo(tree / 'train/a/pipe')
  (tree / 'train/a/locked').chmod(0)
  with socket.socket(socket.AF_UNIX) as server:
    server.bind(str(tree / 'train/b/socket'))
    found = sources.folder(tree, SHARES)
  assert used(found) == {'train': ['train/a/1', 'train/b/2']}
  astray = (1, 'in no folder of a class')
  hidden = 'its name starts with a dot'
  assert unused(found) == {
    'readme': astray,
    'train/stray': astray,
    'extra/': (2, 'beside train/, of no split'),
    'train/.cache/': (1, hidden),
    'train/a/.hidden': (1, hidden),
    'train/a/locked/': (0, 'it cannot be read: Permission denied'),
    'train/a/pipe': (1, 'a FIFO'),
    'train/b/socket': (1, 'a socket'),
  }
  warned = capsys.readouterr().err
  assert warned.startswith(f'warning: 8 files below {tree} are not used:\n')
  for one in found.unused:
    assert f'  {one}\n' in warned


def test_a_long_list_is_cut(tmp_path, capsys):
  listing.warn_unused(tmp_path, [listing.Unused('x', 'y')] * 30)
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 22 and lines[-1] == '  and 10 more'


def test_a_split_that_cannot_be_read(tmp_path, locks):
  tree = touch(tmp_path, 'train/a/1', 'val/a/1')
  (tree / 'val').chmod(0)
  with pytest.raises(UserError, match='val cannot be read: Permission denied'):
    sources.read_tree(tree)


def test_a_glob_takes_folders_as_the_shell_would(tmp_path, monkeypatch):
  monkeypatch.chdir(touch(tmp_path, 'a.png', 'b/1.png', 'b/c/2.png'))
  os.mkfifo('d')
  assert sources.named(['*']) == ['a.png', 'b/1.png', 'b/c/2.png', 'd']
  assert sources.named(['?']) == sources.named(['b', 'd'])
  assert sources.named(['b/**']) == ['b/1.png', 'b/c/2.png']


@pytest.mark.parametrize('path', ['fifo', '/dev/zero', '.'])
def test_what_is_no_file_is_not_read(path, tmp_path, monkeypatch):
  """A FIFO would be waited for, and a device never ends."""
  monkeypatch.chdir(tmp_path)
  os.mkfifo('fifo')
  problems: list[str] = []
  assert given.read_good([path], 8, problems) == []
  assert problems == [f'cannot read {path}: it is no file']


def test_named_photographs_warn_of_what_is_left_out(tmp_path, capsys):
  touch(tmp_path / 'more', '2.png')
  tree = touch(tmp_path / 'tree', '1.png', '.hidden.png')
  os.mkfifo(tree / 'pipe')
  (tree / 'more').symlink_to(tmp_path / 'more')
  found = sources.named([str(tree)])
  assert found == [f'{tree}/1.png', f'{tree}/more/2.png']
  warned = capsys.readouterr().err
  assert '2 files' in warned and 'pipe: a FIFO' in warned


def test_prepare_keeps_what_was_not_used(tmp_path, capfd):
  tree = small_pictures.write_tree(tmp_path / 'tree', {'a': 2, 'b': 2})
  os.mkfifo(tree / 'a' / 'pipe')
  dataset = small_pictures.prepare(
    'folder', tmp_path, tree, validation_share=0.0
  )
  assert dataset.fingerprint['unused'] == ['a/pipe: a FIFO']
  out, err = capfd.readouterr()
  assert 'warning: 1 files below' in err
  assert '1 not used: metadata.json there names them' in out


def test_pictures_that_came_after_prepare(tmp_path, capfd):
  tree = small_pictures.write_tree(tmp_path / 'tree', {'a': 2, 'b': 2})
  arguments = {'validation_share': 0.0}
  small_pictures.prepare('folder', tmp_path, tree, **arguments)
  capfd.readouterr()
  small_pictures.prepare('folder', tmp_path, tree, **arguments)
  assert capfd.readouterr().err == ''
  picture = tree / 'a' / '9.jpg'
  picture.write_bytes(small_pictures.draw_jpeg(9))
  small_pictures.prepare('folder', tmp_path, tree, **arguments)
  out, err = capfd.readouterr()
  assert 'already there: 4 train' in out
  assert 'changed since' in err and '5 files now, 4 then' in err
  dataset = small_pictures.prepare(
    'folder', tmp_path, tree, overwrite=True, **arguments
  )
  assert dataset.num_examples('train') == 5


@contextlib.contextmanager
def work_here(count: int):
  """`workers.pool`, in this process."""
  with futures.ThreadPoolExecutor(count) as threads:
    yield lambda task, chunk: threads.submit(task, chunk)


def test_200_random_trees_are_prepared(tmp_path, locks, monkeypatch):
  """The oracle knows where each picture was put, and lists nothing."""
  monkeypatch.setattr(workers, 'pool', work_here)
  sums = collections.Counter[str]()
  for seed in range(200):
    (folder := tmp_path / str(seed)).mkdir()
    sums += _prepare_tree(folder, seed)
  print(dict(sums))
  assert sums['refused'] <= 20


def _prepare_tree(tmp_path: Path, seed: int) -> collections.Counter[str]:
  jpeg = small_pictures.draw_jpeg(seed)
  drawn = draw_tree(
    random.Random(seed), tmp_path, lambda path: path.write_bytes(jpeg)
  )
  taken = check_tree(drawn)
  try:
    dataset = small_pictures.prepare(
      'folder', tmp_path, drawn.root, size=8, validation_share=0.0
    )
  except UserError as error:
    if not re.search(EMPTY if taken else REASONS, str(error)):
      raise
    return collections.Counter(refused=1)
  found = sources.read_tree(drawn.root)
  assert dataset.class_names == found.class_names
  assert dataset.fingerprint['unused'] == [str(one) for one in found.unused]
  count = 0
  for split, examples in found.examples.items():
    read = [example['label'] for example in dataset.source(split)]
    assert read == [example.label for example in examples]
    count += len(read)
  unused = sum(one.files for one in found.unused)
  return collections.Counter(
    prepared=1, pictures=len(drawn.pictures), used=count, unused=unused
  )
