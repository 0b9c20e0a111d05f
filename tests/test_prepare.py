"""`prepare` from files to the data set read back, and its every message."""

import contextlib
import importlib.metadata
import io
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import make_tar
from PIL import Image

from alexnet_jax.data import (
  builders,
  imagenet,
  preparation,
  shapes,
  sources,
  workers,
)
from alexnet_jax.data.photographs import square
from alexnet_jax.runtime.errors import UserError


def _picture(seed: int, size: tuple[int, int] = (80, 60)) -> Image.Image:
  rng = np.random.default_rng(seed)
  pixels = rng.integers(0, 256, (6, 8, 3), np.uint8)
  return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def _jpeg(seed: int) -> bytes:
  buffer = io.BytesIO()
  _picture(seed).save(buffer, 'JPEG')
  return buffer.getvalue()


def _tree(root: Path, counts: dict[str, int], seed: int = 0) -> Path:
  """Writes `count` photographs into each folder of `counts`."""
  for folder, count in counts.items():
    (root / folder).mkdir(parents=True, exist_ok=True)
    for i in range(count):
      (root / folder / f'{i}.jpg').write_bytes(_jpeg(seed := seed + 1))
  return root


@pytest.fixture
def pets(tmp_path) -> Path:
  return _tree(
    tmp_path / 'pets',
    {
      **{'train/dog': 23, 'train/cat': 20, 'train/eel': 3},
      **{'validation/cat': 4, 'validation/dog': 3, 'validation/eel': 1},
      **{'test/cat': 2, 'test/dog': 2, 'test/eel': 1},
    },
  )


def _prepare(source: str, tmp_path: Path, input_dir=None, **kwargs):
  kwargs = {'data_dir': tmp_path / 'data', 'num_workers': 1} | kwargs
  if source == 'folder':
    kwargs.setdefault('name', 'pets')
  return preparation.prepare(source, input_dir=input_dir, **kwargs)


def _files(folder: Path) -> dict[str, bytes]:
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob('*'))
    if path.is_file() and path.name != '.lock'
  }


# Data sets.


def test_folder_is_read_back_pixel_by_pixel(tmp_path, pets, capfd):
  dataset = _prepare('folder', tmp_path, pets)
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


def test_tfds_alone_reads_it_in_order(tmp_path, pets):
  dataset = _prepare('folder', tmp_path, pets)
  builder = tfds.builder_from_directory(dataset.path)
  assert builder.info.disable_shuffling
  alone = builder.as_data_source('test')
  for ours, theirs in zip(dataset.source('test'), alone, strict=True):
    np.testing.assert_array_equal(ours['image'], theirs['image'])
  assert 'tensorflow' not in sys.modules


def test_jpeg_statistics_are_those_of_what_is_read_back(tmp_path, pets):
  raw = _prepare('folder', tmp_path, pets)
  jpeg = _prepare('folder', tmp_path, pets, name='small', encoding='jpeg')
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
  tree = _tree(tmp_path / 'tree', {'a': 70, 'b': 40})
  files = []
  for n in (1, 3):
    data_dir = tmp_path / f'data{n}'
    dataset = _prepare(
      'folder',
      tmp_path,
      tree,
      data_dir=data_dir,
      num_workers=n,
      encoding=encoding,
    )
    assert len(dataset.source('train')) == 99
    files.append(_files(data_dir))
  assert 'pets/1.0.0/pets-train.array_record-00003-of-00004' in files[0]
  assert files[0] == files[1]


def test_workers_do_not_import_jax():
  with workers.pool(1) as submit:
    code = "'jax' in __import__('sys').modules"
    assert submit(eval, code).result() is False


def test_fingerprint(tmp_path, pets):
  fingerprint = _prepare('folder', tmp_path, pets).fingerprint
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


def test_held_out_share_is_disjoint_complete_and_per_class(tmp_path):
  tree = _tree(tmp_path / 'tree', {'a': 20, 'b': 11})
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
  tree = _tree(tmp_path / 'tree', {'train/a': 10, 'train/b': 10, 'test/a': 2})
  found = sources.folder(tree, {'validation': 0.1, 'test': 0.1})
  counts = {split: len(names) for split, names in found.examples.items()}
  assert counts == {'train': 18, 'validation': 2, 'test': 2}


def test_val_is_validation_and_dots_are_left_out(tmp_path):
  tree = _tree(tmp_path / 'tree', {'train/a': 2, 'train/b/c': 1, 'val/a': 1})
  (tree / 'train' / 'a' / '.DS_Store').write_bytes(b'')
  (tree / 'train' / '.cache').mkdir()
  found = sources.folder(tree, {'validation': 0.5, 'test': 0})
  assert found.class_names == ('a', 'b')
  names = {s: [e.name for e in found.examples[s]] for s in found.examples}
  assert names == {
    'train': ['train/a/0.jpg', 'train/a/1.jpg', 'train/b/c/0.jpg'],
    'validation': ['val/a/0.jpg'],
  }


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
  tree = _tree(tmp_path / 'tree', counts)
  with pytest.raises(UserError, match=message):
    _prepare('folder', tmp_path, tree)


def test_class_without_validation_is_a_warning(tmp_path, capsys):
  tree = _tree(tmp_path / 'tree', {'train/a': 1, 'train/b': 1, 'val/a': 1})
  sources.folder(tree, {})
  assert 'warning: ' in (err := capsys.readouterr().err)
  assert 'no validation photographs of b' in err


# Bad files.


def test_bad_file_is_named_and_can_be_skipped(tmp_path, pets, capfd):
  whole = pets / 'train' / 'cat' / '4.jpg'
  whole.write_bytes(whole.read_bytes()[:400])
  (pets / 'train' / 'dog' / 'notes.txt').write_text('shopping')
  with pytest.raises(UserError, match=r'train/cat/4\.jpg: Trunc.*--skip_bad'):
    _prepare('folder', tmp_path, pets)
  assert not _files(tmp_path / 'data')

  dataset = _prepare('folder', tmp_path, pets, skip_bad=True)
  assert dataset.num_examples('train') == len(dataset.source('train')) == 45
  assert [s.split(':')[0] for s in dataset.fingerprint['skipped']] == [
    'train/cat/4.jpg',
    'train/dog/notes.txt',
  ]
  out = capfd.readouterr().out
  assert '2 left out' in out
  assert 'train/dog/notes.txt: not an image' in out


def test_a_shard_of_bad_files_only(tmp_path, monkeypatch):
  monkeypatch.setattr(builders, 'SHARD', workers.CHUNK)
  tree = _tree(tmp_path / 'tree', {'train/a': 40, 'val/a': 1})
  for path in sorted((tree / 'train' / 'a').iterdir())[: workers.CHUNK]:
    path.write_bytes(b'')
  dataset = _prepare('folder', tmp_path, tree, skip_bad=True)
  assert len(list(dataset.source('train'))) == 8


def test_no_photograph_is_whole(tmp_path):
  tree = _tree(tmp_path / 'tree', {'train/a': 1, 'val/a': 1})
  (tree / 'val' / 'a' / '0.jpg').write_bytes(b'')
  with pytest.raises(UserError, match='not one validation photograph'):
    _prepare('folder', tmp_path, tree, skip_bad=True)


def test_unreadable_file_is_not_skipped(tmp_path, pets):
  (pets / 'train' / 'cat' / 'gone.jpg').symlink_to('/nowhere')
  with pytest.raises(UserError, match=r'cannot read .*gone\.jpg: No such'):
    _prepare('folder', tmp_path, pets, skip_bad=True)


# ImageNet.

_LABELS = tfds.core.tfds_path('datasets/imagenet2012/labels.txt')
_ANSWERS = tfds.core.tfds_path('datasets/imagenet2012/validation_labels.txt')


def _ilsvrc(root: Path, train=None, validation=None) -> Path:
  """The two tars: three synsets, not in the order of the labels."""
  ids = _LABELS.read_text().split()
  if train is None:
    train = {
      f'{ids[i]}.tar': make_tar(
        {f'{ids[i]}_{n}.JPEG': _jpeg(i + n) for n in (1, 2)}
      )
      for i in (7, 2, 999)
    }
  if validation is None:
    validation = {
      f'ILSVRC2012_val_{i:08}.JPEG': _jpeg(i) for i in (3, 1, 50000)
    }
  root.mkdir()
  (root / 'ILSVRC2012_img_train.tar').write_bytes(make_tar(train))
  (root / 'ILSVRC2012_img_val.tar').write_bytes(make_tar(validation))
  return root


def test_imagenet_from_its_tars(tmp_path, capfd):
  tars = _ilsvrc(tmp_path / 'tars')
  before = _files(tars)
  dataset = _prepare('imagenet2012', tmp_path, tars)
  assert dataset.name == 'imagenet2012'
  assert dataset.num_classes == 1000
  train = list(dataset.source('train'))
  assert [example['label'] for example in train] == [7, 7, 2, 2, 999, 999]
  np.testing.assert_array_equal(train[3]['image'], square(_jpeg(4)))
  answers = _ANSWERS.read_text().split()
  validation = list(dataset.source('validation'))
  assert [dataset.class_names[example['label']] for example in validation] == [
    answers[2],
    answers[0],
    answers[49_999],
  ]
  np.testing.assert_array_equal(validation[0]['image'], square(_jpeg(3)))
  err = capfd.readouterr().err
  assert 'warning: ILSVRC2012_img_train.tar has 6 images of 3 classes' in err
  assert 'warning: ILSVRC2012_img_val.tar has 3 images' in err
  assert _files(tars) == before


@pytest.mark.parametrize('tar', imagenet.TARS.values())
def test_missing_or_misnamed_tar(tmp_path, tar):
  tars = _ilsvrc(tmp_path / 'tars')
  (tars / tar).rename(tars / 'ILSVRC2012_img_vla.tar')
  message = rf'{tar} is not in .*there: .*ILSVRC2012_img_vla\.tar'
  with pytest.raises(UserError, match=message):
    _prepare('imagenet2012', tmp_path, tars)


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
    _prepare('imagenet2012', tmp_path, _ilsvrc(tmp_path / 'tars', **tars))


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
  train = {'n01440764.tar': make_tar({'n01440764_7.JPEG': _jpeg(0)[:300]})}
  tars = _ilsvrc(tmp_path / 'tars', train)
  name = 'ILSVRC2012_img_train.tar/n01440764.tar/n01440764_7.JPEG'
  with pytest.raises(UserError, match=name):
    _prepare('imagenet2012', tmp_path, tars)


def test_real_imagenet_photographs(tmp_path, imagenet_tars):
  dataset = _prepare('imagenet2012', tmp_path, imagenet_tars, num_workers=2)
  pairs = zip(
    *(dataset.source(split) for split in ('train', 'validation')), strict=True
  )
  for ours, theirs in pairs:
    assert ours['label'] == theirs['label']
    np.testing.assert_array_equal(ours['image'], theirs['image'])
  assert dataset.num_examples('validation') == 250


# Whole or not there.


def test_second_time_does_nothing_and_changes_are_refused(
  tmp_path, pets, capfd
):
  _prepare('folder', tmp_path, pets)
  before = _files(tmp_path / 'data')
  shutil.rmtree(pets)  # not needed any more
  _prepare('folder', tmp_path, pets)
  assert 'already there: 46 train' in capfd.readouterr().out
  message = 'made with encoding = raw, not jpeg: .*--overwrite'
  with pytest.raises(UserError, match=message):
    _prepare('folder', tmp_path, pets, encoding='jpeg')
  with pytest.raises(UserError, match='no such folder'):
    _prepare('folder', tmp_path, pets, overwrite=True)
  assert _files(tmp_path / 'data') == before


def test_overwrite(tmp_path, pets):
  _prepare('folder', tmp_path, pets)
  shutil.rmtree(pets / 'train' / 'eel')
  shutil.rmtree(pets / 'validation' / 'eel')
  shutil.rmtree(pets / 'test' / 'eel')
  assert _prepare('folder', tmp_path, pets, overwrite=True).num_classes == 2
  home = tmp_path / 'data' / 'pets'
  assert sorted(os.listdir(home)) == ['.lock', '1.0.0']


def test_too_little_disk(tmp_path, pets, monkeypatch):
  usage = shutil.disk_usage(tmp_path)
  monkeypatch.setattr(
    shutil, 'disk_usage', lambda _: usage._replace(free=10_000_000)
  )
  message = r'0\.01 GB free .*raw takes about 0\.01 GB: .*--encoding=jpeg'
  with pytest.raises(UserError, match=message):
    _prepare('folder', tmp_path, pets)


def _start(tmp_path: Path, tree: Path, **environment: str) -> subprocess.Popen:
  return subprocess.Popen(
    [
      *(sys.executable, '-m', 'alexnet_jax.prepare', '--source=folder'),
      *(f'--input={tree}', '--name=pets', f'--data_dir={tmp_path / "data"}'),
      '--workers=2',
    ],
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    start_new_session=True,
    env=os.environ | environment,
  )


def _children(pid: int) -> list[int]:
  tasks = Path(f'/proc/{pid}/task').glob('*/children')
  return [int(child) for task in tasks for child in task.read_text().split()]


def _wait_for(condition, seconds: float = 30) -> None:
  deadline = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.01)


def _big_tree(root: Path, count: int) -> Path:
  folder = _tree(root, {'a': 0}) / 'a'
  _picture(0, (1600, 1200)).save(folder / '0.jpg')
  for i in range(1, count):
    (folder / f'{i}.jpg').hardlink_to(folder / '0.jpg')
  return root


def test_killed_run_leaves_nothing_whole_and_the_next_finishes(tmp_path):
  tree = _big_tree(tmp_path / 'tree', 300)
  home = tmp_path / 'data' / 'pets'
  run = _start(tmp_path, tree)
  _wait_for(lambda: list(home.glob('incomplete/**/*array_record*')))
  children = _children(run.pid)
  assert len(children) >= 2
  run.kill()
  run.communicate()
  with pytest.raises(UserError, match='no data set pets'):
    builders.open_dataset('pets', tmp_path / 'data')
  # The workers notice (a zombie, where nothing reaps, has no command line).
  _wait_for(
    lambda: (
      not any(
        Path(f'/proc/{child}/cmdline').exists()
        and Path(f'/proc/{child}/cmdline').read_bytes()
        for child in children
      )
    )
  )

  run = _start(tmp_path, tree)
  output, _ = run.communicate(timeout=60)
  assert run.returncode == 0, output
  assert sorted(os.listdir(home)) == ['.lock', '1.0.0']
  dataset = builders.open_dataset('pets', tmp_path / 'data')
  assert len(dataset.source('train')) == 270


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path):
  tree = _big_tree(tmp_path / 'tree', 60)
  rng = random.Random(0)
  kills = 0
  while kills < 20:
    run = _start(tmp_path, tree)
    with contextlib.suppress(subprocess.TimeoutExpired):
      run.wait(rng.uniform(0, 4))
    if run.poll() is None:
      kills += 1
    run.kill()
    run.communicate()
    with contextlib.suppress(UserError):
      dataset = builders.open_dataset('pets', tmp_path / 'data')
      assert len(list(dataset.source('train'))) == 54
      shutil.rmtree(dataset.path)


def test_interrupt_stops_at_once_and_clears_up(tmp_path):
  run = _start(tmp_path, _big_tree(tmp_path / 'tree', 300))
  home = tmp_path / 'data' / 'pets'
  _wait_for(lambda: list(home.glob('incomplete/**/*array_record*')))
  os.killpg(run.pid, signal.SIGINT)  # Ctrl-C: the workers get it too
  run.communicate(timeout=20)
  assert run.returncode != 0
  assert os.listdir(home) == ['.lock']


def test_two_at_once_make_it_once(tmp_path, pets):
  runs = [_start(tmp_path, pets) for _ in range(2)]
  outputs = [run.communicate(timeout=60)[0] for run in runs]
  assert [run.returncode for run in runs] == [0, 0], outputs
  assert sum('waiting for another process' in out for out in outputs) <= 1
  assert sum('already there' in out for out in outputs) == 1, outputs


def test_killed_worker_is_reported(tmp_path):
  run = _start(tmp_path, _big_tree(tmp_path / 'tree', 300))
  home = tmp_path / 'data' / 'pets'
  _wait_for(lambda: list(home.glob('incomplete/**/*array_record*')))
  children = _children(run.pid)  # a tracker of multiprocessing's, and workers
  command_lines = [Path(f'/proc/{child}/cmdline') for child in children]
  spawned = [b'spawn_main' in line.read_bytes() for line in command_lines]
  os.kill(children[spawned.index(True)], signal.SIGKILL)
  output, _ = run.communicate(timeout=20)
  assert run.returncode == 2
  assert 'error: a worker process was killed' in output
  assert 'Traceback' not in output
  assert os.listdir(home) == ['.lock']


# The rest of the command line, and shapes.


@pytest.mark.parametrize(
  ('kwargs', 'message'),
  [
    ({'name': None}, 'needs --name'),
    ({'name': 'My Pets'}, 'lower-case letters'),
    ({'input_dir': None}, 'needs --input'),
    ({'input_dir': '/nowhere'}, '/nowhere: no such folder'),
    ({'validation_share': 1.0}, '--validation_share=1.0'),
    ({'test_share': -0.1}, 'shares from 0'),
  ],
)
def test_wrong_arguments(tmp_path, pets, kwargs, message):
  with pytest.raises(UserError, match=message):
    _prepare('folder', tmp_path, **{'input_dir': pets} | kwargs)


@pytest.mark.parametrize(
  ('name', 'arguments'),
  [
    ('shapes', '--source=shapes'),
    ('imagenet2012', '--source=imagenet2012 --input='),
    ('pets', '--source=folder --input=FOLDER --name=pets'),
  ],
)
def test_missing_data_set_names_the_command(tmp_path, name, arguments):
  with pytest.raises(UserError) as error:
    builders.open_dataset(name, tmp_path)
  message = str(error.value)
  assert f'python -m alexnet_jax.prepare {arguments}' in message
  assert f'--data_dir={tmp_path}' in message
  assert '\n' not in message


def test_unknown_split(tmp_path, pets):
  dataset = _prepare('folder', tmp_path, pets)
  with pytest.raises(UserError, match="no split 'dev': it has train"):
    dataset.source('dev')


def test_command_line_prints_no_traceback(tmp_path):
  run = _start(tmp_path, Path('/nowhere'))
  output, _ = run.communicate(timeout=30)
  assert run.returncode == 2
  assert output == 'error: --input=/nowhere: no such folder\n'


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
