"""Hostile bytes: never a hang, a crash without a message, or a stray file.

Properties of a few dozen inputs here; `fuzz` has them by the thousand, and
docs/reliability.md what became of them.
"""

import contextlib
import functools
import io
import operator
import struct
import tarfile
import zlib
from pathlib import Path

import fuzz
import hostile_inputs
import numpy as np
import pytest
import spoiling
from conftest import make_tar
from etils import epath
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from alexnet_jax.data import builders, imagenet, photographs, preparation
from alexnet_jax.data.stats import Statistics
from alexnet_jax.runtime import checkpoint
from alexnet_jax.runtime.cadence import Duration
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training import saved
from alexnet_jax.training.settings import configure
from configs import default

CHANGES = st.lists(
  st.builds(
    spoiling.Change,
    st.sampled_from(spoiling.Change.KINDS),
    where=st.floats(0, 1, exclude_max=True),
    to=st.floats(0, 1),
    size=st.integers(1, 1000),
    junk=st.binary(max_size=300),
  ),
  min_size=1,
  max_size=4,
)


@pytest.mark.parametrize(
  ('kind', 'count'),
  [
    (hostile_inputs.images, 100),
    (hostile_inputs.array_records, 30),
    (hostile_inputs.records, 50),
    (hostile_inputs.tars, 100),
    (hostile_inputs.checkpoints, 15),
    (hostile_inputs.forged_checkpoints, 15),
  ],
)
def test_bad_bytes_are_read_or_refused(kind, count, tmp_path, monkeypatch):
  # Three folders of its own above it: other tests write to those of pytest.
  home = tmp_path / 'a' / 'b' / 'c'
  home.mkdir(parents=True)
  valid, feed = kind(home)

  @settings(
    max_examples=count,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
  )
  @given(st.sampled_from(valid), CHANGES)
  def holds(start, changes):
    feed(start[0] + spoiling.spoil(start[1], changes))

  monkeypatch.chdir(tmp_path)  # the checkout is not this test's alone
  before = fuzz.around(home)
  holds()
  assert fuzz.around(home) == before


@pytest.mark.slow
@pytest.mark.parametrize('kind', hostile_inputs.KINDS)
def test_a_hundred_of_each_kind(kind):
  outcomes = fuzz.run(kind, seed=1, first=0, count=100)
  assert sum(outcomes.values()) == 100
  assert any(
    'refused' in outcome or 'before' in outcome for outcome in outcomes
  )


# ---- Images.


def png(width: int, height: int, rows: bytes) -> bytes:
  """A PNG that says it is so large, whatever its rows hold."""

  def chunk(kind: bytes, data: bytes) -> bytes:
    check = struct.pack('>I', zlib.crc32(kind + data))
    return struct.pack('>I', len(data)) + kind + data + check

  header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
  return b'\x89PNG\r\n\x1a\n' + b''.join(
    (chunk(b'IHDR', header), chunk(b'IDAT', rows), chunk(b'IEND', b''))
  )


@pytest.mark.parametrize(
  ('data', 'words'),
  [
    (png(50_000, 50_000, zlib.compress(bytes(1000))), 'exceeds limit'),
    (png(2**31 - 1, 2**31 - 1, b''), 'exceeds limit'),
    (png(300, 300, zlib.compress(bytes(10**5))), 'truncated'),
    (png(0, 300, b''), 'not an image'),
  ],
)
def test_bombs_are_refused(data, words):
  with pytest.raises(photographs.BadImageError, match=words):
    photographs.square(data)


@pytest.mark.parametrize('size', [(1, 5000), (5000, 1), (1, 1)])
def test_a_pixel_wide(size):
  buffer = io.BytesIO()
  Image.new('RGB', size, (9, 8, 7)).save(buffer, 'PNG')
  assert (photographs.square(buffer.getvalue()) == (9, 8, 7)).all()


def test_programs_are_not_images():
  """Pillow would have Ghostscript run an EPS."""
  eps = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n'
  with pytest.raises(photographs.BadImageError, match='not an image'):
    photographs.square(eps + b'(evil) (w) file closefile\n%%EOF\n')


# ---- Tars.


def member(
  name='n01440764.tar', kind=tarfile.REGTYPE, size=0, pax=None
) -> bytes:
  """A header; GNU's form takes any size, a negative one, too."""
  info = tarfile.TarInfo(name)
  info.type, info.size, info.linkname = kind, size, '../../evil'
  if pax:
    info.pax_headers = pax
    return info.tobuf(tarfile.PAX_FORMAT)
  return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
  'data',
  [
    *(member(size=-n) for n in (1, 512, 1024)),
    *(member(size=n) for n in (4096, 2**40, 2**80)),
    *(member(kind=kind, size=2**50) for kind in (b'x', b'L', b'K', b'S')),
    *(member(kind=kind, size=-512) for kind in (b'x', b'L', b'S', b'5', b'Z')),
    member(pax={'size': '-512'}),
    member(pax={'size': '9' * 40}),
    member(pax={'GNU.sparse.map': '-5,10', 'GNU.sparse.size': '-9'}),
    member(pax={'comment': 'a'})[:1024] * 3000 + member(),
  ],
)
def test_a_tar_of_lies_is_refused(data, tmp_path):
  for name in imagenet.TARS.values():
    (tmp_path / name).write_bytes(data + bytes(1024))
  words = 'ILSVRC2012_img_train.tar is not a whole tar'
  with pytest.raises(UserError, match=words):
    imagenet.imagenet2012(tmp_path)


def test_names_and_links_lead_nowhere(tmp_path, monkeypatch):
  """A whole `prepare` of members whose names climb, and of links."""
  picture = io.BytesIO()
  Image.new('RGB', (9, 9)).save(picture, 'JPEG')
  evil = '../../../../evil.JPEG'
  inner = make_tar({evil: picture.getvalue(), '/evil.JPEG': picture.getvalue()})
  links = b''.join(
    member(evil, kind)
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE)
  )
  train = make_tar({'../../n01440764.tar': links + inner})
  validation = make_tar({'../ILSVRC2012_val_00000001.JPEG': picture.getvalue()})
  home = tmp_path / 'a' / 'b' / 'c'
  home.mkdir(parents=True)
  for name, tar in zip(
    imagenet.TARS.values(), (train, validation), strict=True
  ):
    (home / name).write_bytes(tar)
  monkeypatch.chdir(tmp_path)
  before = fuzz.around(home)
  dataset = preparation.prepare(
    'imagenet2012', data_dir=home / 'data', input_dir=str(home), num_workers=1
  )
  assert dataset.num_examples('train') == 2
  assert fuzz.around(home) == before


# ---- What a data set or a checkpoint says of itself.


def test_statistics_hold_no_pickles(tmp_path):
  """NumPy's files may; reading one would be running it."""

  class Evil:
    def __reduce__(self):
      return Path.touch, (tmp_path / 'evil',)

  file = epath.Path(tmp_path / 'statistics.npz')
  np.savez(file, count=np.array(Evil(), object))
  with pytest.raises(ValueError, match='allow_pickle=False'):
    Statistics.load(file)
  assert not (tmp_path / 'evil').exists()


def test_a_damaged_description_is_named(data_dir, tmp_path):
  dataset = builders.open_dataset('pictures', data_dir)
  for name in ('statistics.npz', 'dataset_info.json', 'features.json'):
    folder = tmp_path / 'pictures' / '1.0.0'
    folder.mkdir(parents=True, exist_ok=True)
    for file in dataset.path.iterdir():
      content = b'{]' if file.name == name else file.read_bytes()
      (folder / file.name).write_bytes(content)
    with pytest.raises(UserError, match=f'{folder} is damaged: '):
      builders.open_dataset('pictures', tmp_path)


# What every run says of itself: objects, texts and lists of numbers or texts.
FIELDS = (
  *(('config', 'model'), ('config', 'augment'), ('config', 'data', 'name')),
  *(('config', 'schedule', 'kind'), ('config', 'optimizer', 'kind')),
  *(('position',), ('environment',), ('data',), ('schedule',)),
  *(('bad_records',), ('class_names',)),
)
WRONG = st.none() | st.booleans() | st.integers() | st.floats()


@settings(max_examples=100, derandomize=True, database=None, deadline=None)
@given(st.sampled_from(FIELDS), WRONG | st.lists(st.none(), min_size=1))
def test_meta_data_of_another_form_are_not_ours(reference, path, wrong):
  with checkpoint.Checkpointer(reference / 'checkpoints') as checkpointer:
    meta = checkpointer.read_meta('last')
  assert saved._is_ours(meta)
  *folders, name = path
  inner = functools.reduce(operator.getitem, folders, meta)
  inner[name] = wrong
  assert not saved._is_ours(meta)
  del inner[name]
  assert not saved._is_ours(meta)


# ---- Values of the configuration.


@settings(derandomize=True, database=None, deadline=None)
@given(st.text())
def test_a_duration_is_read_or_refused(text):
  with contextlib.suppress(UserError):
    assert Duration.parse(text, 128, 1_281_167).steps >= 0


@settings(max_examples=50, derandomize=True, database=None, deadline=None)
@given(st.integers(0, 10**12), st.integers(0, 999))
def test_a_duration_of_any_size_is_exact(whole, thousandths):
  def parse(text):
    with contextlib.suppress(UserError):
      return Duration.parse(text, 128, 1_281_167)

  steps, epochs, *wrong = map(
    parse,
    (
      *(f'{whole} steps', f'{whole}.{thousandths:03} epochs'),
      *(f'-{whole} steps', f'{whole}.5 steps', f'{whole} days'),
    ),
  )
  assert steps and epochs and wrong == [None] * 3
  assert steps.length == steps.steps == whole
  # In thousandths of an image there are whole numbers only.
  images = 1_281_167 * (1000 * whole + thousandths)
  assert epochs.length * 128 * 1000 == images
  assert 0 <= epochs.steps * 128_000 - images < 128_000


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('seed', -1),
    ('seed', 2**31),
    ('batch_size', 0),
    ('batch_size', 10**20),
    ('data.workers', -2),
    ('data.max_bad_records', -1),
    ('augment.color', float('nan')),
    ('model.lrn.size', 101),
    ('model.conv3.init_std', float('inf')),
    ('optimizer.learning_rate_multipliers', (('(', 1.0),)),
    ('optimizer.decay_multipliers', (('', float('nan')),)),
    ('schedule.factor', 0.0),
    ('schedule.drops', ('a',)),
    ('schedule.rules', (('(', ((0.0, 0.1),)),)),
    ('schedule.rules', (('bias', ()),)),
    ('schedule.rules', (('bias', ((0.0, -0.1),)),)),
    ('schedule.rules', (('bias', ((2.0, 0.1), (1.0, 0.2))),)),
    ('schedule.rules', (('bias', 0.1),)),
    ('augment.color_divisor', 0.0),
    ('augment.share', 0),
    ('matmul_precision', 'x'),
  ],
)
def test_numbers_that_make_no_sense_are_refused(field, value):
  config = default.get_config()
  config.update_from_flattened_dict({field: value})
  with pytest.raises(UserError, match=f'config.{field}'):
    configure(config)
