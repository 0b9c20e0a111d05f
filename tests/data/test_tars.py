"""ILSVRC2012's tars, read as they are, and what may be wrong with them."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import make_tar
from PIL import Image, ImageOps
from small_pictures import contents, draw_jpeg, prepare

from alexnet_jax.data import (
  imagenet,
)
from alexnet_jax.data.photographs import square
from alexnet_jax.runtime.errors import UserError

_LABELS = tfds.core.tfds_path('datasets/imagenet2012/labels.txt')
_ANSWERS = tfds.core.tfds_path('datasets/imagenet2012/validation_labels.txt')


def _ilsvrc(root: Path, train=None, validation=None) -> Path:
  """The two tars: three synsets, not in the order of the labels."""
  ids = _LABELS.read_text().split()
  if train is None:
    train = {
      f'{ids[i]}.tar': make_tar(
        {f'{ids[i]}_{n}.JPEG': draw_jpeg(i + n) for n in (1, 2)}
      )
      for i in (7, 2, 999)
    }
  if validation is None:
    validation = {
      f'ILSVRC2012_val_{i:08}.JPEG': draw_jpeg(i) for i in (3, 1, 50000)
    }
  root.mkdir()
  (root / 'ILSVRC2012_img_train.tar').write_bytes(make_tar(train))
  (root / 'ILSVRC2012_img_val.tar').write_bytes(make_tar(validation))
  return root


def test_imagenet_from_its_tars(tmp_path, capfd):
  tars = _ilsvrc(tmp_path / 'tars')
  before = contents(tars)
  dataset = prepare('imagenet2012', tmp_path, tars)
  assert dataset.name == 'imagenet2012'
  assert dataset.num_classes == 1000
  train = list(dataset.source('train'))
  assert [example['label'] for example in train] == [7, 7, 2, 2, 999, 999]
  np.testing.assert_array_equal(train[3]['image'], square(draw_jpeg(4)))
  answers = _ANSWERS.read_text().split()
  validation = list(dataset.source('validation'))
  assert [dataset.class_names[example['label']] for example in validation] == [
    answers[2],
    answers[0],
    answers[49_999],
  ]
  np.testing.assert_array_equal(validation[0]['image'], square(draw_jpeg(3)))
  err = capfd.readouterr().err
  assert 'warning: ILSVRC2012_img_train.tar has 6 images of 3 classes' in err
  assert 'warning: ILSVRC2012_img_val.tar has 3 images' in err
  assert contents(tars) == before


@pytest.mark.parametrize('tar', imagenet.TARS.values())
def test_missing_or_misnamed_tar(tmp_path, tar):
  tars = _ilsvrc(tmp_path / 'tars')
  (tars / tar).rename(tars / 'ILSVRC2012_img_vla.tar')
  message = rf'{tar} is not in .*there: .*ILSVRC2012_img_vla\.tar'
  with pytest.raises(UserError, match=message):
    prepare('imagenet2012', tmp_path, tars)


@pytest.mark.parametrize(
  ('tars', 'message'),
  [
    ({'train': {'a_1.JPEG': b'x'}}, 'holds a_1.JPEG.*one tar per synset'),
    (
      {'train': {'n00000000.tar': make_tar({})}},
      'n00000000 is not one of the 1,000',
    ),
    (
      {'train': {'n01440764.tar': make_tar({})}},
      'no photographs in n01440764.tar',
    ),
    ({'train': {'n01440764.tar': b''}}, 'train.tar is not a whole tar'),
    ({'train': {'n01440764.tar': b'x' * 900}}, 'train.tar is not a whole tar'),
    (
      {'train': {'n01440764.tar': make_tar({'a.JPEG': b'x' * 9000})[:6000]}},
      'train.tar is not a whole tar.*a.JPEG is cut off',
    ),
    ({'validation': {'a_1.JPEG': b'x'}}, 'holds a_1.JPEG; the official'),
    (
      {'validation': {'ILSVRC2012_val_00050001.JPEG': b'x'}},
      'holds ILSVRC2012_val_00050001.JPEG; .*ILSVRC2012_val_00050000.JPEG',
    ),
  ],
)
def test_tars_with_wrong_contents(tmp_path, tars, message):
  with pytest.raises(UserError, match=message):
    prepare('imagenet2012', tmp_path, _ilsvrc(tmp_path / 'tars', **tars))


@pytest.mark.parametrize('tar', imagenet.TARS.values())
def test_cut_off_tar(tmp_path, tar):
  path = _ilsvrc(tmp_path / 'tars') / tar
  data = path.read_bytes()
  with tarfile.open(path) as whole:
    last = whole.getmembers()[-1]
  end = last.offset_data + -(-last.size // 512) * 512
  for length in (*range(0, end, 200), end, end + 511):
    path.write_bytes(data[:length])
    with pytest.raises(UserError, match=f'{tar} is not a whole tar'):
      imagenet.imagenet2012(path.parent)


def test_bad_photograph_in_a_tar_is_named(tmp_path):
  train = {'n01440764.tar': make_tar({'n01440764_7.JPEG': draw_jpeg(0)[:300]})}
  tars = _ilsvrc(tmp_path / 'tars', train)
  name = 'ILSVRC2012_img_train.tar/n01440764.tar/n01440764_7.JPEG'
  with pytest.raises(UserError, match=name):
    prepare('imagenet2012', tmp_path, tars)


def test_real_imagenet_photographs(tmp_path, photographs, imagenet_tars):
  """The same from both tars, in their order; every 25th as Pillow has it, with
  the number of its synset among all, sorted."""
  dataset = prepare('imagenet2012', tmp_path, imagenet_tars, num_workers=2)
  pairs = zip(
    *(dataset.source(split) for split in ('train', 'validation')), strict=True
  )
  for ours, theirs in pairs:
    assert ours['label'] == theirs['label']
    np.testing.assert_array_equal(ours['image'], theirs['image'])
  assert dataset.num_examples('validation') == 250
  ids = sorted(_LABELS.read_text().split())
  assert (ids[0], ids[999]) == (
    'n01440764',
    'n15075141',
  )  # tench, toilet tissue
  train = dataset.source('train')
  with tarfile.open(photographs / 'imagenet_sample.tar') as sample:
    members = [m for m in sample if m.name.endswith('.JPEG')]
    for index in range(0, 250, 25):
      name = Path(members[index].name).name
      assert ids[train[index]['label']] == name.split('_')[0]
      with Image.open(sample.extractfile(members[index])) as image:
        rgb = ImageOps.exif_transpose(image).convert('RGB')
      side = min(rgb.size)
      left, top = ((n - side) / 2 for n in rgb.size)
      box = (left, top, left + side, top + side)
      want = rgb.resize((256, 256), Image.Resampling.BICUBIC, box=box)
      np.testing.assert_array_equal(train[index]['image'], want)


def test_members_that_are_no_plain_files_are_named(tmp_path, capfd):
  """In a tar of the tar, too. What is sparse does not lie there as it is."""
  kinds = {
    tarfile.DIRTYPE: 'a folder',
    tarfile.LNKTYPE: 'a link',
    tarfile.SYMTYPE: 'a link',
    tarfile.FIFOTYPE: 'a FIFO',
    tarfile.CHRTYPE: 'a device',
    tarfile.BLKTYPE: 'a device',
    tarfile.GNUTYPE_SPARSE: 'not a plain file',
    b'Z': 'not a plain file',
  }

  def with_others(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO(make_tar(files))
    with tarfile.open(fileobj=buffer, mode='a') as tar:
      for number, kind in enumerate(kinds):
        member = tarfile.TarInfo(f'x{number}.JPEG')
        member.type, member.linkname = kind, next(iter(files))
        tar.addfile(member)
    return buffer.getvalue()

  train = {
    'n01440764.tar': with_others({'a.JPEG': b'x', 'b.JPEG': b'x'}),
    'n02123045.tar': make_tar({'c.JPEG': b'x'}),
  }
  root = _ilsvrc(tmp_path / 'tars')
  tars = [root / tar for tar in imagenet.TARS.values()]
  tars[0].write_bytes(with_others(train))
  tars[1].write_bytes(with_others({'ILSVRC2012_val_00000003.JPEG': b'x'}))
  source = imagenet.imagenet2012(root)
  names = {s: [e.name for e in found] for s, found in source.examples.items()}
  assert names == {
    'train': [
      f'{tars[0].name}/{name}.JPEG'
      for name in ('n01440764.tar/a', 'n01440764.tar/b', 'n02123045.tar/c')
    ],
    'validation': [f'{tars[1].name}/ILSVRC2012_val_00000003.JPEG'],
  }
  whole = [tars[0].name, f'{tars[0].name}/n01440764.tar', tars[1].name]
  assert sorted(map(str, source.unused)) == sorted(
    f'{tar}/x{number}.JPEG: {kind}'
    for tar in whole
    for number, kind in enumerate(kinds.values())
  )
  err = capfd.readouterr().err
  assert f'warning: 24 files below {root} are not used:\n  ' in err
  assert f'  {whole[1]}/x1.JPEG: a link\n' in err
