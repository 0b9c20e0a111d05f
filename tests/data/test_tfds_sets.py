"""Sets that TFDS has prepared, as `prepare` takes them: what is stored is what
the set's own builder was given, whatever its files."""

import json
import shutil

import numpy as np
import pytest
import tiny_sets
from array_record.python import array_record_module
from small_pictures import prepare
from tensorboard.summary.writer.record_writer import RecordWriter

from alexnet_jax.data import tfds_sets
from alexnet_jax.runtime.errors import UserError


@pytest.fixture(scope='module')
def built(tmp_path_factory):
  """TFDS's folder, with the sets of `tiny_sets` in ArrayRecord files."""
  folder = tmp_path_factory.mktemp('tfds')
  for builder in (tiny_sets.TinyCifar, tiny_sets.TinyNumbers):
    builder(data_dir=folder, file_format='array_record').download_and_prepare()
  return folder


@pytest.fixture(scope='module')
def records(built, tmp_path_factory):
  """A copy in the TFRecord files that TFDS writes by default, by TensorBoard,
  which has a writer of its own."""
  folder = tmp_path_factory.mktemp('records')
  shutil.copytree(built / 'tiny_cifar', folder / 'tiny_cifar')
  for file in folder.rglob('*.array_record-*'):
    reader = array_record_module.ArrayRecordReader(str(file))
    name = file.name.replace('array_record', 'tfrecord')
    with open(file.with_name(name), 'wb') as stream:
      writer = RecordWriter(stream)
      for record in reader.read_all():
        writer.write(record)
    reader.close()
    file.unlink()
  edit(folder, fileFormat='tfrecord')
  return folder


def edit(folder, **fields):
  (file,) = folder.glob('tiny_cifar/*/dataset_info.json')
  file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def copied(folder, tmp_path):
  return shutil.copytree(folder, tmp_path / 'copy')


def tiny(folder, tmp_path, **kwargs):
  kwargs = {'size': 32, 'validation_share': 0.25} | kwargs
  return prepare('tfds:tiny_cifar', tmp_path, str(folder), **kwargs)


@pytest.mark.parametrize('kind', ['built', 'records'])
def test_pixels_and_labels_are_those_of_the_builder(kind, request, tmp_path):
  dataset = tiny(request.getfixturevalue(kind), tmp_path)
  assert dataset.class_names == tiny_sets.LABELS
  assert dataset.name == 'tiny_cifar' and dataset.image_size == 32
  left = {
    tiny_sets.pixels(split, index).tobytes(): (split, index % 3)
    for split, count in tiny_sets.COUNTS.items()
    for index in range(count)
  }
  # Of 8 of each class, a quarter was held out.
  counts = {'train': 18, 'validation': 6, 'test': 6}
  for split, count in counts.items():
    source = dataset.source(split)
    assert len(source) == count
    for example in (source[i] for i in range(count)):
      origin = 'test' if split == 'test' else 'train'
      assert left.pop(example['image'].tobytes()) == (origin, example['label'])
  assert not left
  train = dataset.source('train')
  pixels = np.stack([train[i]['image'] for i in range(18)]).astype(float)
  np.testing.assert_allclose(dataset.statistics.mean_image, pixels.mean(0))


def test_the_version_is_remembered(built, tmp_path, capsys):
  tiny(built, tmp_path)
  tiny(built, tmp_path)
  assert 'is already there' in capsys.readouterr().out
  newer = copied(built, tmp_path)
  (newer / 'tiny_cifar/3.0.2').rename(newer / 'tiny_cifar/3.0.3')
  edit(newer, version='3.0.3')
  with pytest.raises(UserError, match='made with input = .*/tiny_cifar/3.0.2'):
    tiny(newer, tmp_path)


def test_what_is_not_there_is_told(built, tmp_path):
  with pytest.raises(UserError, match='tfds build mnist --data_dir='):
    prepare('tfds:mnist', tmp_path, str(built))
  with pytest.raises(UserError, match='no such set'):
    prepare('tfds:tiny_cifar:9.9.9', tmp_path, str(built))
  with pytest.raises(UserError, match='SHARDS or tfds:NAME'):
    prepare('tdfs:mnist', tmp_path, str(built), name='x')


def test_a_set_without_photographs_is_refused(built, tmp_path):
  with pytest.raises(
    UserError, match=r'one Image .* this has id \(Text\), label \(Scalar\)'
  ):
    prepare('tfds:tiny_numbers', tmp_path, str(built))


def test_a_set_is_not_written_over(records, tmp_path):
  folder = copied(records, tmp_path)
  (folder / 'tiny_cifar/3.0.2').rename(folder / 'tiny_cifar/1.0.0')
  edit(folder, version='1.0.0')
  with pytest.raises(UserError, match="1.0.0 is TFDS's: choose another"):
    tiny(folder, tmp_path, data_dir=folder)


def test_files_of_another_kind_are_refused(records, tmp_path):
  folder = copied(records, tmp_path)
  edit(folder, fileFormat='riegeli')
  with pytest.raises(UserError, match='--file_format=array_record'):
    tiny(folder, tmp_path)


@pytest.mark.parametrize(
  ('keep', 'words'),
  [
    (-3, 'ends within a record'),  # in the last record
    (4, 'ends within a record'),  # in the first length
    (None, 'it holds 23 records, not 24'),
  ],
)
def test_a_file_cut_short_is_named(records, tmp_path, keep, words):
  folder = copied(records, tmp_path)
  (file,) = folder.rglob('*-train.tfrecord*')
  data = file.read_bytes()
  if keep is None:
    *_, (keep, _) = tfds_sets._records(str(file))
  file.write_bytes(data[:keep])
  with pytest.raises(UserError, match=f'train.tfrecord.*damaged: .*{words}'):
    tiny(folder, tmp_path)


@pytest.mark.parametrize('seed', range(8))
def test_one_flipped_bit_is_noticed(records, tmp_path, seed):
  """Wherever it is: in a length, a label, a picture or a checksum."""
  folder = copied(records, tmp_path)
  (file,) = folder.rglob('*-train.tfrecord*')
  data = bytearray(file.read_bytes())
  rng = np.random.default_rng(seed)
  data[rng.integers(len(data))] ^= 1 << rng.integers(8)
  file.write_bytes(data)
  with pytest.raises(UserError, match=r'train.tfrecord.*damaged'):
    tiny(folder, tmp_path)
