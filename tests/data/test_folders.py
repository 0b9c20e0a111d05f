"""Splits and classes of a folder of photographs."""

import shutil

from small_pictures import write_tree

from alexnet_jax.data import sources


def test_held_out_share_is_disjoint_complete_and_per_class(tmp_path):
  tree = write_tree(tmp_path / 'tree', {'a': 20, 'b': 11})
  shares = {'validation': 0.2, 'test': 0.1}
  found = sources.folder(tree, shares)
  names = {
    split: [example.name for example in examples]
    for split, examples in found.examples.items()
  }
  dealt = [name for dealt_names in names.values() for name in dealt_names]
  files = [p.relative_to(tree).as_posix() for p in tree.rglob('*.jpg')]
  assert sorted(dealt) == sorted(files)
  counts = {
    split: (sum(n.startswith('a') for n in ns), sum(n[0] == 'b' for n in ns))
    for split, ns in names.items()
  }
  assert counts == {'train': (14, 8), 'validation': (4, 2), 'test': (2, 1)}

  moved = shutil.copytree(tree, tmp_path / 'elsewhere')
  again = sources.folder(moved, shares)
  assert [e.name for e in again.examples['test']] == names['test']


def test_only_missing_splits_are_held_out(tmp_path):
  tree = write_tree(
    tmp_path / 'tree', {'train/a': 10, 'train/b': 10, 'test/a': 2}
  )
  found = sources.folder(tree, {'validation': 0.1, 'test': 0.1})
  counts = {split: len(names) for split, names in found.examples.items()}
  assert counts == {'train': 18, 'validation': 2, 'test': 2}


def test_val_is_validation_and_dots_are_left_out(tmp_path):
  tree = write_tree(
    tmp_path / 'tree', {'train/a': 2, 'train/b/c': 1, 'val/a': 1}
  )
  (tree / 'train' / 'a' / '.DS_Store').write_bytes(b'')
  (tree / 'train' / '.cache').mkdir()
  found = sources.folder(tree, {'validation': 0.5, 'test': 0})
  assert found.class_names == ('a', 'b')
  names = {s: [e.name for e in found.examples[s]] for s in found.examples}
  assert names == {
    'train': ['train/a/0.jpg', 'train/a/1.jpg', 'train/b/c/0.jpg'],
    'validation': ['val/a/0.jpg'],
  }
