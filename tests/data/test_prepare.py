"""`prepare` from files to the data set read back, and its every message."""

import importlib.metadata
import os
import pickle
import re
import shutil
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from PIL import Image
from small_pictures import contents, prepare, write_tree

from alexnet_jax.data import (
  builders,
  preparation,
  shapes,
  sources,
  workers,
)
from alexnet_jax.data.photographs import square
from alexnet_jax.runtime.errors import UserError

# Data sets.


def test_folder_is_read_back_pixel_by_pixel(tmp_path, pets, capfd):
  dataset = prepare('folder', tmp_path, pets)
  assert '46 train, 8 validation, 5 test images of 3' in capfd.readouterr().out
  assert dataset.class_names == ('cat', 'dog', 'eel')
  assert dataset.num_classes == 3
  assert dataset.image_size == 256
  expected = [
    (path, label)
    for label, name in enumerate(dataset.class_names)
    for path in sorted((pets / 'train' / name).iterdir())
  ]
  source = pickle.loads(pickle.dumps(dataset.source('train')))
  assert len(source) == dataset.num_examples('train') == len(expected) == 46
  for example, (path, label) in zip(source, expected, strict=True):
    np.testing.assert_array_equal(example['image'], square(path.read_bytes()))
    assert example['label'] == label

  pixels = np.stack([example['image'] for example in source]).astype(float)
  # Independent of `Sums`; float64 rounding only.
  np.testing.assert_allclose(dataset.statistics.mean_image, pixels.mean(0))
  np.testing.assert_allclose(
    dataset.statistics.rgb_covariance,
    np.cov(pixels.reshape(-1, 3).T, bias=True),
  )
  assert dataset.statistics.count == 46
  names = [path.relative_to(pets).as_posix() for path, _ in expected]
  assert dataset.files('train', range(46)) == names
  assert dataset.files('train', [7, 3]) == [names[7], names[3]]


@pytest.mark.parametrize('encoding', ['raw', 'jpeg'])
def test_small_pictures_keep_their_pixels_at_their_own_size(tmp_path, encoding):
  tree = tmp_path / 'tiny'
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 256, (12, 32, 32, 3), np.uint8)
  for i, image in enumerate(pixels):
    file = tree / 'ab'[i % 2] / f'{i:02}.png'
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(file)
  kwargs = {'size': 32, 'encoding': encoding, 'validation_share': 0.0}
  dataset = prepare('folder', tmp_path, tree, **kwargs)
  assert dataset.image_size == 32
  read = np.stack([example['image'] for example in dataset.source('train')])
  assert read.shape == pixels.shape
  if encoding == 'raw':
    order = [*range(0, 12, 2), *range(1, 12, 2)]
    np.testing.assert_array_equal(read, pixels[order])
  np.testing.assert_allclose(
    dataset.statistics.mean_image, read.mean(0, dtype=np.float64)
  )
  with pytest.raises(UserError, match='made with size = 32, not 256'):
    prepare('folder', tmp_path, tree, **kwargs | {'size': 256})


def test_tfds_alone_reads_it_in_order(tmp_path, pets):
  dataset = prepare('folder', tmp_path, pets)
  builder = tfds.builder_from_directory(dataset.path)
  assert builder.info.disable_shuffling
  alone = builder.as_data_source('test')
  for ours, theirs in zip(dataset.source('test'), alone, strict=True):
    np.testing.assert_array_equal(ours['image'], theirs['image'])
  assert 'tensorflow' not in sys.modules


def test_jpeg_statistics_are_those_of_what_is_read_back(tmp_path, pets):
  raw = prepare('folder', tmp_path, pets)
  jpeg = prepare('folder', tmp_path, pets, name='small', encoding='jpeg')
  source = pickle.loads(pickle.dumps(jpeg.source('train')))
  pixels = np.stack([example['image'] for example in source])
  assert pixels.shape == (46, 256, 256, 3)
  np.testing.assert_allclose(
    jpeg.statistics.mean_image, pixels.mean(0, dtype=np.float64)
  )
  originals = np.stack([example['image'] for example in raw.source('train')])
  error = np.abs(pixels.astype(int) - originals)
  assert 0 < error.mean() < 3
  assert (jpeg.statistics.mean_image != raw.statistics.mean_image).any()


@pytest.mark.parametrize('encoding', ['raw', 'jpeg'])
def test_number_of_workers_changes_no_byte(tmp_path, encoding, monkeypatch):
  monkeypatch.setattr(builders, 'SHARD', workers.CHUNK)
  tree = write_tree(tmp_path / 'tree', {'a': 70, 'b': 40})
  files = []
  for n in (1, 3):
    data_dir = tmp_path / f'data{n}'
    dataset = prepare(
      'folder',
      tmp_path,
      tree,
      data_dir=data_dir,
      num_workers=n,
      encoding=encoding,
    )
    assert len(dataset.source('train')) == 99
    files.append(contents(data_dir))
  assert 'pets/1.0.0/pets-train.array_record-00003-of-00004' in files[0]
  assert files[0] == files[1]


def test_workers_do_not_import_jax():
  with workers.pool(1) as submit:
    code = "'jax' in __import__('sys').modules"
    assert submit(eval, code).result() is False


def test_fingerprint(tmp_path, pets):
  fingerprint = prepare('folder', tmp_path, pets).fingerprint
  assert fingerprint['request']['source'] == 'folder'
  assert fingerprint['request']['input'] == str(pets)
  assert fingerprint['request']['encoding'] == 'raw'
  assert 'bicubic' in fingerprint['filter']
  pillow = importlib.metadata.version('pillow')
  assert fingerprint['decoder'].startswith(f'Pillow {pillow}, libjpeg')
  assert fingerprint['examples'] == {'train': 46, 'validation': 8, 'test': 5}
  assert fingerprint['skipped'] == []
  assert {'alexnet_jax', 'array_record'} <= set(fingerprint['versions'])


# Folders.


@pytest.mark.parametrize(
  ('counts', 'message'),
  [
    ({'.': 2}, 'has no class folders'),
    ({'train': 2, 'validation/a': 1}, 'train has no class folders'),
    ({'test/a': 2}, 'has test/ but no train/'),
    ({'a': 20, 'b': 0}, 'no train photographs of b'),
    ({'a': 2}, 'no validation photographs of a: .*another share'),
    ({'train/a': 2, 'validation/b': 1}, 'classes that train/ lacks: b'),
  ],
)
def test_wrong_trees(tmp_path, counts, message):
  tree = write_tree(tmp_path / 'tree', counts)
  with pytest.raises(UserError, match=message):
    prepare('folder', tmp_path, tree)


def test_class_without_validation_is_a_warning(tmp_path, capsys):
  tree = write_tree(tmp_path / 'tree', {'train/a': 1, 'train/b': 1, 'val/a': 1})
  sources.folder(tree, {})
  assert 'warning: ' in (err := capsys.readouterr().err)
  assert 'no validation photographs of b' in err


# Bad files.


def test_one_class_only_is_said(tmp_path, capsys):
  tree = write_tree(tmp_path / 'tree', {'cat': 3})
  prepare('folder', tmp_path, tree, size=8, validation_share=0.0)
  assert 'tree: cat is the only class' in capsys.readouterr().err


@pytest.mark.parametrize(
  'source', ['hf:', 'webdataset:', 'webdataset:a.tar::', 'tfds:']
)
def test_a_source_without_its_name_is_refused(source, tmp_path):
  """It would be the folder that one is in."""
  with pytest.raises(UserError, match='say which behind the colon'):
    prepare(source, tmp_path, None, name='x')


@pytest.mark.parametrize('share', [-0.1, 1.0, float('nan'), float('inf')])
@pytest.mark.parametrize('field', ['validation_share', 'test_share'])
def test_shares_that_are_none_are_refused(field, share, tmp_path, pets):
  shares = {'validation_share': 0.1, 'test_share': 0.0, field: share}
  with pytest.raises(UserError, match='take shares from 0 on, together below'):
    prepare('folder', tmp_path, pets, **shares)


def test_a_share_for_a_split_that_is_there_is_said(tmp_path, capsys):
  counts = {'train/a': 4, 'train/b': 4, 'test/a': 1, 'test/b': 1}
  tree = write_tree(tmp_path / 'tree', counts)
  prepare('folder', tmp_path, tree, validation_share=0.25, test_share=0.25)
  assert '--test_share=0.25 is not used' in capsys.readouterr().err


def test_bad_file_is_named_and_can_be_skipped(tmp_path, pets, capfd):
  whole = pets / 'train' / 'cat' / '4.jpg'
  whole.write_bytes(whole.read_bytes()[:400])
  (pets / 'train' / 'dog' / 'notes.txt').write_text('shopping')
  with pytest.raises(UserError, match=r'train/cat/4\.jpg: Trunc.*--skip_bad'):
    prepare('folder', tmp_path, pets)
  assert not contents(tmp_path / 'data')

  (pets / 'validation' / 'eel' / '0.jpg').write_bytes(b'')  # the only one
  dataset = prepare('folder', tmp_path, pets, skip_bad=True)
  assert dataset.num_examples('train') == len(dataset.source('train')) == 45
  assert [s.split(':')[0] for s in dataset.fingerprint['skipped']] == [
    'train/cat/4.jpg',
    'train/dog/notes.txt',
    'validation/eel/0.jpg',
  ]
  out, err = capfd.readouterr()
  assert re.findall('^warning: (.*)', err, re.MULTILINE) == [
    'pets: no validation photograph of eel is whole: the class is empty'
  ]
  assert '3 left out' in out
  assert 'train/dog/notes.txt: not an image' in out


def test_a_shard_of_bad_files_only(tmp_path, monkeypatch):
  monkeypatch.setattr(builders, 'SHARD', workers.CHUNK)
  tree = write_tree(tmp_path / 'tree', {'train/a': 40, 'val/a': 1})
  for path in sorted((tree / 'train' / 'a').iterdir())[: workers.CHUNK]:
    path.write_bytes(b'')
  dataset = prepare('folder', tmp_path, tree, skip_bad=True)
  assert len(list(dataset.source('train'))) == 8
  whole = [f'train/a/{name}.jpg' for name in sorted(map(str, range(40)))]
  assert dataset.files('train', range(8)) == whole[workers.CHUNK :]


def test_names_of_files_are_bytes_and_shown_on_a_line(tmp_path):
  tree = write_tree(tmp_path / 'tree', {'a': 1, 'b': 1})
  names = [b'two\nlines.jpg', b'gr\xfcn.jpg', 'grün.jpg'.encode()]
  for name in names:
    shutil.copy(tree / 'a' / '0.jpg', os.fsencode(tree / 'a') + b'/' + name)
  dataset = prepare('folder', tmp_path, tree, validation_share=0.0)
  kept = dataset.path / 'files_train.array_record'
  reader = array_record_module.ArrayRecordReader(str(kept))
  there = reader.read_all()
  assert sorted(there) == sorted(
    [b'a/0.jpg', b'b/0.jpg', *(b'a/' + n for n in names)]
  )
  shown = dict(zip(there, dataset.files('train', range(5)), strict=True))
  assert shown[b'a/two\nlines.jpg'] == 'a/two\\nlines.jpg'
  assert shown[b'a/gr\xfcn.jpg'] == 'a/gr\\udcfcn.jpg'
  assert shown['a/grün.jpg'.encode()] == 'a/grün.jpg'
  content = bytearray(kept.read_bytes())
  content[content.index(b'a/0.jpg')] ^= 1
  kept.write_bytes(content)
  with pytest.raises(UserError, match=f'{kept} is damaged: .*--overwrite'):
    dataset.files('train', [0])
  assert len(list(dataset.source('train'))) == 5  # needs none of them


def test_no_photograph_is_whole(tmp_path):
  tree = write_tree(tmp_path / 'tree', {'train/a': 1, 'val/a': 1})
  (tree / 'val' / 'a' / '0.jpg').write_bytes(b'')
  with pytest.raises(UserError, match='not one validation photograph'):
    prepare('folder', tmp_path, tree, skip_bad=True)


def test_unreadable_file_is_not_skipped(tmp_path, pets):
  (pets / 'train' / 'cat' / 'gone.jpg').symlink_to('/nowhere')
  with pytest.raises(UserError, match=r'cannot read .*gone\.jpg: No such'):
    prepare('folder', tmp_path, pets, skip_bad=True)


# Whole or not there.


def test_second_time_does_nothing_and_changes_are_refused(
  tmp_path, pets, capfd
):
  prepare('folder', tmp_path, pets)
  before = contents(tmp_path / 'data')
  shutil.rmtree(pets)  # not needed any more
  prepare('folder', tmp_path, pets)
  assert 'already there: 46 train' in capfd.readouterr().out
  message = 'made with encoding = raw, not jpeg: .*--overwrite'
  with pytest.raises(UserError, match=message):
    prepare('folder', tmp_path, pets, encoding='jpeg')
  with pytest.raises(UserError, match='no such folder'):
    prepare('folder', tmp_path, pets, overwrite=True)
  assert contents(tmp_path / 'data') == before


def test_overwrite(tmp_path, pets):
  prepare('folder', tmp_path, pets)
  shutil.rmtree(pets / 'train' / 'eel')
  shutil.rmtree(pets / 'validation' / 'eel')
  shutil.rmtree(pets / 'test' / 'eel')
  assert prepare('folder', tmp_path, pets, overwrite=True).num_classes == 2
  home = tmp_path / 'data' / 'pets'
  assert sorted(os.listdir(home)) == ['.lock', '1.0.0']


def test_too_little_disk(tmp_path, pets, monkeypatch):
  usage = shutil.disk_usage(tmp_path)
  monkeypatch.setattr(
    shutil, 'disk_usage', lambda _: usage._replace(free=10_000_000)
  )
  message = r'0\.01 GB free .*raw takes about 0\.01 GB: .*--encoding=jpeg'
  with pytest.raises(UserError, match=message):
    prepare('folder', tmp_path, pets)


def test_shapes_are_drawn_at_the_size_that_is_asked(tmp_path, monkeypatch):
  counts = dict.fromkeys(('train', 'validation', 'test'), 2)
  monkeypatch.setattr(shapes, 'NUM_EXAMPLES', counts)
  dataset = preparation.prepare(
    'shapes', data_dir=tmp_path, name='small', size=64
  )
  source = dataset.source('train')
  # The scene is the same, so its mean is, up to what pixels round.
  large = shapes.draw(shapes.SEED, 'train', 1)
  small = source[1]['image']
  assert small.shape == (64, 64, 3)
  blocks = large.reshape(64, 4, 64, 4, 3).mean((1, 3))
  assert np.abs(small - blocks).mean() < 8


def test_shapes_are_drawn_once(tmp_path, monkeypatch, capfd):
  counts = {'train': 40, 'validation': 10, 'test': 10}
  monkeypatch.setattr(shapes, 'NUM_EXAMPLES', counts)
  preparation.ensure_shapes(tmp_path)
  dataset = builders.open_dataset('shapes', tmp_path)
  assert dataset.class_names == shapes.CLASS_NAMES
  assert dataset.num_examples('train') == 40
  example = dataset.source('validation')[3]
  np.testing.assert_array_equal(
    example['image'], shapes.draw(shapes.SEED, 'validation', 3)
  )
  assert example['label'] == shapes.label('validation', 3)
  capfd.readouterr()
  preparation.ensure_shapes(tmp_path)
  assert capfd.readouterr().out == ''
