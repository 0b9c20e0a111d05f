"""Parquet files of `datasets` and WebDatasets, written by these libraries: they
give the records that a folder of the same pictures gives."""

import json
import os
import shutil
import sys
import tarfile

import numpy as np
import pyarrow
import pyarrow.parquet as pq
import pytest
from small_pictures import draw_jpeg, prepare, write_tree
from written_sets import written_by_datasets, written_by_webdataset

from alexnet_jax.data import parquet_sets, sources, webdataset_sets
from alexnet_jax.data.photographs import BadImageError
from alexnet_jax.runtime.errors import UserError

NONE = {'validation': 0, 'test': 0}
ODD = os.fsdecode(b'caf\xe9.jpg')  # no UTF-8


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
  counts = {'train/cat': 4, 'train/eel': 3, 'val/cat': 1, 'val/eel': 2}
  tree = write_tree(tmp_path_factory.mktemp('tree'), counts)
  (tree / 'train/cat' / ODD).write_bytes(draw_jpeg(99))
  return tree


@pytest.fixture(scope='module')
def parquet(tree, tmp_path_factory):
  return written_by_datasets(tmp_path_factory.mktemp('parquet'), tree)


@pytest.fixture(scope='module')
def tars(tree, tmp_path_factory):
  return written_by_webdataset(tmp_path_factory.mktemp('tars'), tree)


@pytest.fixture(scope='module')
def of_folder(tree, tmp_path_factory):
  return prepare('folder', tmp_path_factory.mktemp('data'), tree, size=32)


@pytest.mark.parametrize('kind', ['parquet', 'tars'])
def test_records_are_those_of_a_folder(kind, of_folder, request, tmp_path):
  path = request.getfixturevalue(kind)
  source = {'parquet': f'hf:{path}', 'tars': f'webdataset:{path}'}[kind]
  made = prepare(source, tmp_path, size=32, name='pets')
  files = sorted(p.name for p in of_folder.path.glob('pets-*'))
  assert len(files) == 2
  for name in files:
    data = (of_folder.path / name).read_bytes()
    assert (made.path / name).read_bytes() == data
  for name, x in vars(of_folder.statistics).items():
    np.testing.assert_array_equal(vars(made.statistics)[name], x)
  classes = {'parquet': ('cat', 'eel'), 'tars': ('0', '1')}[kind]
  assert made.class_names == classes
  names = {
    'parquet': 'train-00000-of-00002.parquet/4/café.jpg',
    'tars': r'test-set-train-000000.tar/train/cat/caf\udce9.jpg',
  }
  assert made.files('train', [4]) == [names[kind]]


@pytest.mark.parametrize('kind', ['parquet', 'tars'])
def test_shards_that_changed_after_prepare(kind, request, tmp_path, capfd):
  folder = shutil.copytree(request.getfixturevalue(kind), tmp_path / 'copy')
  source = {'parquet': f'hf:{folder}', 'tars': f'webdataset:{folder}'}[kind]
  prepare(source, tmp_path, size=32, name='pets')
  capfd.readouterr()
  prepare(source, tmp_path, size=32, name='pets')
  assert 'changed since' not in capfd.readouterr().err
  first, *_ = sorted(folder.iterdir())
  first.write_bytes(first.read_bytes() + b'more')
  prepare(source, tmp_path, size=32, name='pets')
  assert 'copy has changed since' in capfd.readouterr().err
  first.unlink()
  first.symlink_to('nowhere')
  prepare(source, tmp_path, size=32, name='pets')
  assert 'copy has changed since' in capfd.readouterr().err
  shutil.rmtree(folder)  # to have room
  if kind == 'tars':  # 'hf:PATH' of no path is a name of the hub
    prepare(source, tmp_path, size=32, name='pets')
    assert 'changed since' not in capfd.readouterr().err


def listed(source, shares=NONE):
  kind, _, what = str(source).partition(':')
  if kind == 'hf':
    return parquet_sets.parquet(parquet_sets.find(what), shares)
  return webdataset_sets.webdataset(webdataset_sets.find(what), shares)


def test_classes_of_json_have_names(tree, tmp_path):
  folder = written_by_webdataset(tmp_path, tree, as_json=True)
  pattern = f'{folder}/test-set-{{train-{{000000..000001}},val-000000}}.tar'
  found = listed(f'webdataset:{pattern}')
  assert found.class_names == ('cat', 'eel')
  for split, name in (('train', 'train'), ('validation', 'val')):
    of_tree = sources.read_tree(tree).examples[split]
    for ours, theirs in zip(found.examples[split], of_tree, strict=True):
      assert ours.label == theirs.label
      np.testing.assert_array_equal(ours.read(32), theirs.read(32))
      assert f'/{name}/' in ours.name


def test_a_share_is_held_out_of_each_class(tars):
  found = listed(f'webdataset:{tars}/*train*', {'validation': 0.3, 'test': 0})
  labels = {s: [e.label for e in es] for s, es in found.examples.items()}
  # Of 5 and 3.
  assert labels == {'train': [0, 0, 0, 1, 1], 'validation': [0, 0, 1]}


# ---- what is not used


def test_what_a_tar_has_besides_is_named(tmp_path, capfd):
  wds = pytest.importorskip('webdataset', reason="extra: '.[webdataset]'")
  with wds.TarWriter(str(tmp_path / 'x.tar')) as writer:
    for i in range(2):
      writer.write({'__key__': f'k{i}', 'jpg': draw_jpeg(i), 'cls': 0})
    writer.write({'__key__': 'alone', 'jpg': draw_jpeg(3)})
    writer.write({'__key__': 'text', 'txt': 'a cat', 'cls': 0})
    link = tarfile.TarInfo('k0.lnk')
    link.type, link.linkname = tarfile.SYMTYPE, 'k0.jpg'
    for member in (link, tarfile.TarInfo('nokey')):
      writer.tarstream.addfile(member)
  (tmp_path / 'README').touch()
  found = listed(f'webdataset:{tmp_path}')
  assert len(found.examples['train']) == 2
  unused = sorted(map(str, found.unused))
  assert unused == [
    'README: no .tar',
    'x.tar/alone: no label in .jpg',
    'x.tar/k0.lnk: a link',
    'x.tar/nokey: its name has no key',
    'x.tar/text: 0 pictures in .cls, .txt',
  ]
  told = capfd.readouterr().err
  assert '6 files below' in told and all(one in told for one in unused)


def test_a_shard_that_is_named_twice_is_read_once(tars, tmp_path, capfd):
  (tmp_path / 'train-link.tar').symlink_to(next(tars.glob('*train-000000*')))
  once = listed(f'webdataset:{tars}').examples
  found = listed(f'webdataset:{tars}::{tars}/*val*::{tmp_path}')
  assert {s: len(es) for s, es in found.examples.items()} == {
    split: len(examples) for split, examples in once.items()
  }
  assert len(found.unused) == 2
  assert capfd.readouterr().err.count('named twice') == 2


def test_a_split_without_labels_is_left_out(parquet, tmp_path, capfd):
  folder = shutil.copytree(parquet, tmp_path / 'copy')
  rewrite(folder, 'validation', lambda t: label(t, [-1] * 3))
  (folder / 'validation-00000-of-00001.parquet').rename(
    folder / 'test-00000-of-00001.parquet'
  )
  (folder / 'README.md').touch()
  found = listed(f'hf:{folder}')
  assert list(found.examples) == ['train']
  err = capfd.readouterr().err
  assert '4 files below' in err and 'README.md: no Parquet file' in err
  assert 'test/ (3 files): pictures without label' in err


# ---- what is refused


def label(table, labels):
  labels = pyarrow.array(labels, pyarrow.int64())
  return table.set_column(2, table.field(2), labels)


def rewrite(folder, split, change):
  path = next(folder.glob(f'{split}-*'))
  pq.write_table(change(pq.read_table(path)), path)


def described(table, features):
  about = {b'huggingface': json.dumps({'info': {'features': features}})}
  return table.replace_schema_metadata(about)


IMAGE, CLASSES = {'_type': 'Image'}, {'_type': 'ClassLabel', 'names': ['a']}
REFUSED = {
  'range': (lambda t: label(t, [0, 7, 1]), 'is of class 7, and .* 2 classes'),
  'column': (
    lambda t: t.drop(['image']),
    r'this has width \(Value\), label \(ClassLabel\)$',
  ),
  'kind': (
    lambda t: t.set_column(2, 'label', [pyarrow.array([0.5, 1, 1])]),
    'label of double, which',
  ),
  'classes': (
    lambda t: described(t, {'image': IMAGE, 'label': CLASSES}),
    'has other columns or classes',
  ),
}


@pytest.mark.parametrize('change', REFUSED)
def test_what_a_parquet_file_lacks_is_told(parquet, tmp_path, change):
  folder = shutil.copytree(parquet, tmp_path / 'copy')
  how, words = REFUSED[change]
  rewrite(folder, 'validation', how)
  with pytest.raises(UserError, match=words):
    listed(f'hf:{folder}')


def test_a_parquet_file_without_pictures_is_told(tmp_path):
  path = tmp_path / 'x.parquet'
  table = pyarrow.table({'text': ['a'], 'label': [0]})
  pq.write_table(table, path)
  with pytest.raises(
    UserError, match=r'has text \(not described\), label \(not'
  ):
    listed(f'hf:{path}')
  pq.write_table(described(table, {'label': CLASSES}), path)
  with pytest.raises(UserError, match=r'label \(ClassLabel\)$'):
    listed(f'hf:{tmp_path}')


def test_pictures_that_are_elsewhere_are_told(parquet, tmp_path):
  folder = shutil.copytree(parquet, tmp_path / 'copy')
  paths = [{'bytes': None, 'path': '/x/1.jpg'}] * 3

  def without(table):
    column = pyarrow.array(paths, table.field(0).type)
    return table.set_column(0, table.field(0), column)

  rewrite(folder, 'validation', without)
  row = listed(f'hf:{folder}').examples['validation'][0]
  assert row.name.endswith('parquet/0/1.jpg')
  with pytest.raises(BadImageError, match='only its path is stored'):
    row.read(32)


def test_folders_of_parquet_that_are_no_set_are_told(parquet, tmp_path):
  with pytest.raises(UserError, match=r'has no \.parquet files'):
    listed(f'hf:{tmp_path}')
  for config in ('big', 'small'):
    shutil.copytree(parquet, tmp_path / config)
  with pytest.raises(UserError, match='several sets, big, small: add'):
    listed(f'hf:{tmp_path}')
  assert listed(f'hf:{tmp_path}/big').class_names == ('cat', 'eel')
  next((tmp_path / 'big').glob('train-00001*')).unlink()
  words = r'1 of 2 files are missing, the first is .*-00001-of-00002\.parquet:'
  with pytest.raises(UserError, match=words):
    listed(f'hf:{tmp_path}/big')
  next((tmp_path / 'big').glob('train-00000*')).unlink()
  with pytest.raises(UserError, match='shards of validation, but none'):
    listed(f'hf:{tmp_path}/big')


@pytest.mark.parametrize(
  ('sample', 'words'),
  [
    ({'cls': b'cat'}, r'k1\.cls is no integer'),
    ({'cls': b'0_1'}, r'k1\.cls is no integer'),
    ({'json': b'{'}, r'k1\.json is no JSON object'),
    ({'json': b'{"label": "cat"}'}, r'k1\.json is no integer: add a \.cls'),
    (
      {'cls': b'0', 'json': b'{"label": 1}'},
      r'k1\.cls has class 0, .* 1: mend',
    ),
    ({'cls': b'9'}, r'k1\.jpg is of class 9, .* of 3 pictures'),
    ({'cls': b'-1'}, r'k1\.jpg is of class -1'),
    ({'json': b'{"label": 0, "class_name": "b"}'}, '0 is called a and, in .*b'),
    ({'json': b'{"label": 1, "class_name": "a\\nb"}'}, r"'a\\nb' cannot be"),
  ],
)
def test_labels_that_are_none_are_told(tmp_path, sample, words):
  wds = pytest.importorskip('webdataset', reason="extra: '.[webdataset]'")
  with wds.TarWriter(str(tmp_path / 'x.tar')) as writer:
    first = b'{"label": 0, "class_name": "a"}'
    writer.write({'__key__': 'k0', 'jpg': draw_jpeg(0), 'json': first})
    writer.write({'__key__': 'k1', 'jpg': draw_jpeg(1), **sample})
    writer.write({'__key__': 'k2', 'jpg': draw_jpeg(2), 'cls': 0})
  with pytest.raises(UserError, match=words):
    listed(f'webdataset:{tmp_path}')


@pytest.mark.parametrize('share', [0, 0.01, 0.5, 1])
@pytest.mark.parametrize('kind', ['parquet', 'tars'])
def test_a_shard_cut_short_is_told(kind, request, tmp_path, share):
  folder = shutil.copytree(request.getfixturevalue(kind), tmp_path / 'copy')
  path = next(folder.glob('*train-*0*'))
  data = path.read_bytes().rstrip(b'\0')  # a tar's end is zeros
  path.write_bytes(data[: int(share * len(data)) - 1 if share else 0])
  source = {'parquet': 'hf', 'tars': 'webdataset'}[kind]
  with pytest.raises(UserError, match=f'{path.name} is (damaged|not a whole)'):
    listed(f'{source}:{folder}')


def test_a_key_that_comes_again_later_is_refused(tmp_path):
  wds = pytest.importorskip('webdataset', reason="extra: '.[webdataset]'")
  with wds.TarWriter(str(tmp_path / 'x.tar')) as writer:
    for key, label in (('a', 0), ('b', 1), ('a', 1)):
      writer.write({'__key__': key, 'jpg': draw_jpeg(label), 'cls': label})
  with pytest.raises(UserError, match=r'x\.tar: the key a comes again later'):
    listed(f'webdataset:{tmp_path}')


def test_shards_that_are_not_there_are_told(tars, tmp_path):
  with pytest.raises(UserError, match=r'train-000002\.tar: there is no such'):
    listed(f'webdataset:{tars}/test-set-train-{{000000..000002}}.tar')
  (tmp_path / 'x.tar.gz').touch()
  with pytest.raises(UserError, match=r'unpack \.tar\.gz first'):
    listed(f'webdataset:{tmp_path}/x.tar.gz')


@pytest.mark.parametrize(
  ('library', 'source', 'extra'),
  [
    ('pyarrow', 'hf:.', 'hf'),
    ('huggingface_hub', 'hf:owner/name', 'hub'),
    ('webdataset', 'webdataset:x.tar', 'webdataset'),
  ],
)
def test_the_extra_to_install_is_told(monkeypatch, library, source, extra):
  monkeypatch.setitem(sys.modules, library, None)
  with pytest.raises(UserError, match=rf"pip install -e '\.\[{extra}\]'"):
    listed(source)


# ---- the hub


def test_a_set_of_the_hub_is_read_from_its_cache(
  parquet, tmp_path, monkeypatch
):
  constants = pytest.importorskip(
    'huggingface_hub.constants', reason="what asks hubs is missing: '.[hub]'"
  )
  monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path))
  monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
  commit = 40 * 'c'
  cached = tmp_path / 'datasets--owner--name'
  shutil.copytree(parquet, cached / 'snapshots' / commit / 'small')
  (cached / 'refs').mkdir()
  (cached / 'refs/main').write_text(commit)
  folder = parquet_sets.find('owner/name/small')
  assert folder == cached / 'snapshots' / commit / 'small'
  assert listed('hf:owner/name').class_names == ('cat', 'eel')
  with pytest.raises(UserError, match='hf:owner/other cannot be fetched'):
    parquet_sets.find('owner/other')
  with pytest.raises(UserError, match='no such file or folder, and a name'):
    parquet_sets.find('name')
