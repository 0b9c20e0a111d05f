"""The pictures of a folder as sets that other libraries write."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


def pictures(tree: Path, split: str) -> Iterator[tuple[str, bytes, int]]:
  """(path below the tree, bytes, label) in the order of a folder's records."""
  for label, name in enumerate(['cat', 'eel']):
    for path in sorted((tree / split / name).iterdir()):
      yield path.relative_to(tree).as_posix(), path.read_bytes(), label


def written_by_datasets(folder: Path, tree: Path) -> Path:
  """Two files of the training split, in groups of two rows, and one other."""
  datasets = pytest.importorskip('datasets', reason='it writes the set')
  kinds = {
    'image': datasets.Image(),
    'width': datasets.Value('int64'),
    'label': datasets.ClassLabel(names=['cat', 'eel']),
  }
  for split, name in (('train', 'train'), ('val', 'validation')):
    rows = [
      {
        'image': {'bytes': data, 'path': os.fsencode(path).decode('latin')},
        'width': 80,
        'label': label,
      }
      for path, data, label in pictures(tree, split)
    ]
    parts = [rows[:5], rows[5:]] if split == 'train' else [rows]
    for i, part in enumerate(parts):
      made = datasets.Dataset.from_list(part, datasets.Features(kinds))
      made.to_parquet(
        folder / f'{name}-{i:05}-of-{len(parts):05}.parquet', batch_size=2
      )
  return folder


def written_by_webdataset(
  folder: Path, tree: Path, as_json: bool = False
) -> Path:
  """Two tars of the training split, and one other."""
  wds = pytest.importorskip('webdataset', reason="extra: '.[webdataset]'")
  for split in ('train', 'val'):
    pattern = str(folder / f'test-set-{split}-%06d.tar')
    with wds.ShardWriter(pattern, maxcount=5, verbose=0) as writer:
      for path, data, label in pictures(tree, split):
        about = {'label': label, 'class_name': ['cat', 'eel'][label]}
        kinds = {'json': about} if as_json else {'cls': label}
        key = path.removesuffix('.jpg')
        writer.write({'__key__': key, 'jpg': data, **kinds})
  return folder
