"""The pictures of a folder as sets that other libraries write."""

import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet as pq
import pytest


def pictures(tree: Path, split: str) -> Iterator[tuple[str, bytes, int]]:
  """(path below the tree, bytes, label) in the order of a folder's records."""
  for label, name in enumerate(['cat', 'eel']):
    for path in sorted((tree / split / name).iterdir()):
      yield path.relative_to(tree).as_posix(), path.read_bytes(), label


def written_by_datasets(folder: Path, tree: Path) -> Path:
  """Two files of the training split, in groups of two rows, and one other;
  where the library is missing, in the form that it gives them."""
  write = _as_datasets
  if importlib.util.find_spec('datasets') is None:
    write = _as_pyarrow
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
      write(part, folder / f'{name}-{i:05}-of-{len(parts):05}.parquet')
  return folder


def _as_datasets(rows: list[dict[str, Any]], path: Path) -> None:
  import datasets

  kinds = {
    'image': datasets.Image(),
    'width': datasets.Value('int64'),
    'label': datasets.ClassLabel(names=['cat', 'eel']),
  }
  made = datasets.Dataset.from_list(rows, datasets.Features(kinds))
  made.to_parquet(path, batch_size=2)


def _as_pyarrow(rows: list[dict[str, Any]], path: Path) -> None:
  image = [('bytes', pyarrow.binary()), ('path', pyarrow.string())]
  columns = {
    'image': pyarrow.struct(image),
    'width': pyarrow.int64(),
    'label': pyarrow.int64(),
  }
  features = {
    'image': {'_type': 'Image'},
    'width': {'dtype': 'int64', '_type': 'Value'},
    'label': {'names': ['cat', 'eel'], '_type': 'ClassLabel'},
  }
  about = {'huggingface': json.dumps({'info': {'features': features}})}
  schema = pyarrow.schema(list(columns.items()), metadata=about)
  table = pyarrow.Table.from_pylist(rows, schema)
  pq.write_table(table, path, row_group_size=2)


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
