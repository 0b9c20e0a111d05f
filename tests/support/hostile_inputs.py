"""What takes bytes in, and valid bytes for it.

Each kind gets an empty folder, and gives valid inputs and a function of bad
ones that says what became of them.
"""

import contextlib
import io
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import small_runs
from absl import flags
from ml_collections import config_flags
from PIL import Image

from alexnet_jax.data import builders, imagenet, photographs, preparation
from alexnet_jax.runtime import checkpoint, errors, files, sharding
from alexnet_jax.training import loop as train
from alexnet_jax.training import state
from alexnet_jax.training.run import Run
from configs import default

READ, REFUSED, SAME = 'read', 'refused', 'read, to the bit'


def _refused(error: Exception, where: object) -> str:
  """The message says where, and something."""
  assert str(error) and str(where) in str(error)
  return REFUSED


Input = tuple[bytes, bytes]  # what stays, and what is spoilt
Feed = Callable[[bytes], str]


def images(_: Path) -> tuple[list[Input], Feed]:
  """Bytes of an image file, to `photographs.square`."""
  rng = np.random.default_rng(0)
  rgb = Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8))
  deep = Image.fromarray(rng.integers(0, 65536, (20, 30), np.uint16))
  exif = Image.Exif()
  exif[0x0112] = 6
  saved = [
    *((rgb, kind, {}) for kind in ('PNG', 'GIF', 'BMP', 'WEBP', 'PPM', 'TIFF')),
    (rgb, 'JPEG', {'exif': exif}),
    (rgb, 'JPEG', {'progressive': True}),
    (rgb.convert('CMYK'), 'JPEG', {}),
    (rgb.convert('CMYK'), 'TIFF', {'compression': 'tiff_lzw'}),
    (rgb, 'TIFF', {'compression': 'jpeg'}),
    (rgb.quantize(16), 'PNG', {'transparency': 3}),
    (rgb.quantize(16), 'BMP', {}),
    (rgb.convert('1'), 'TIFF', {'compression': 'group4'}),
    (rgb.convert('LA'), 'PNG', {}),
    (rgb.convert('RGBA'), 'WEBP', {'lossless': True}),
    (rgb, 'GIF', {'save_all': True, 'append_images': [rgb.rotate(90)]}),
    (deep, 'PNG', {}),
    (deep, 'TIFF', {}),
    (rgb.resize((1, 500)), 'PNG', {}),
    (rgb.resize((2000, 1)), 'JPEG', {}),
  ]
  valid = []
  for image, kind, options in saved:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    valid.append((b'', buffer.getvalue()))

  def feed(data: bytes) -> str:
    try:
      pixels = photographs.square(data)
    except photographs.BadImageError as error:
      return _refused(error, '')
    assert pixels.shape == (256, 256, 3) and pixels.dtype == np.uint8
    return READ

  return valid, feed


def array_records(folder: Path) -> tuple[list[Input], Feed]:
  """The file of a split, to `Dataset.source`: never another pixel."""
  dataset = _dataset(folder)
  (file,) = Path(dataset.path).glob('*-test.array_record*')
  whole = list(dataset.source('test'))

  def feed(data: bytes) -> str:
    file.write_bytes(data)
    try:
      found = list(dataset.source('test'))
    except errors.UserError as error:
      return _refused(error, file)
    assert len(found) == len(whole)
    for a, b in zip(found, whole, strict=True):
      assert a['label'] == b['label']
      np.testing.assert_array_equal(a['image'], b['image'])
    return SAME

  return [(b'', file.read_bytes())], feed


def records(folder: Path) -> tuple[list[Input], Feed]:
  """A record, whole for ArrayRecord, to `Dataset.source`."""
  dataset = _dataset(folder)
  (file,) = Path(dataset.path).glob('*-test.array_record*')
  module = builders.array_record_module
  reader = module.ArrayRecordReader(str(file))
  valid = [reader.read([i])[0] for i in range(2)]

  def feed(data: bytes) -> str:
    writer = module.ArrayRecordWriter(str(file), 'group_size:1,uncompressed')
    for record in (valid[0], data):
      writer.write(record)
    writer.close()
    source = dataset.source('test')
    assert source[0]['label'] == 0
    try:
      found = source[1]
    except errors.UserError as error:
      return _refused(error, f'record 1 of {file}')
    assert found['image'].shape == (256, 256, 3) and 0 <= found['label'] < 2
    return READ

  return [(b'', record) for record in valid], feed


def _dataset(folder: Path) -> builders.Dataset:
  for split, count in (('train', 1), ('validation', 1), ('test', 1)):
    for label in 'ab':
      path = folder / 'input' / split / label
      path.mkdir(parents=True)
      for i in range(count):
        colour = (60 * ord(label) % 256, 40 * i, 99)
        Image.new('RGB', (256, 256), colour).save(path / f'{i}.png')
  with _silent():
    return preparation.prepare(
      'folder',
      data_dir=folder / 'data',
      name='bad',
      input_dir=str(folder / 'input'),
      encoding='jpeg',
      num_workers=1,
    )


def tars(folder: Path) -> tuple[list[Input], Feed]:
  """ILSVRC2012's training tar, to `imagenet2012`, and every photograph that it
  finds to `Photograph.read`."""
  picture = io.BytesIO()
  Image.new('RGB', (8, 8), (1, 2, 3)).save(picture, 'JPEG')
  synset, name = 'n01440764', 'n01440764_1.JPEG'
  valid = []
  for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
    inner = _tar(form, [(name, picture.getvalue()), (name, b'no picture')])
    # Names too long for the header come in extra ones; links have none.
    outer = [(f'{synset}.tar', inner), ('l', None)]
    valid.append((b'', _tar(form, outer)))
    if form != tarfile.USTAR_FORMAT:
      inner = _tar(form, [('x' * 300 + name, picture.getvalue())])
      outer = [(f'{"../" * 60}{synset}.tar', inner)]
      valid.append((b'', _tar(form, outer)))
  answer = 'ILSVRC2012_val_00000001.JPEG'
  path = {split: folder / tar for split, tar in imagenet.TARS.items()}
  path['validation'].write_bytes(
    _tar(tarfile.USTAR_FORMAT, [(answer, picture.getvalue())])
  )

  def feed(data: bytes) -> str:
    path['train'].write_bytes(data)
    try:
      with _silent():
        found = imagenet.imagenet2012(folder).examples['train']
    except errors.UserError as error:
      return _refused(error, path['train'])
    for photograph in found:
      with contextlib.suppress(photographs.BadImageError):
        photograph.read()
    return READ

  return valid, feed


def _tar(form: int, members: list[tuple[str, bytes | None]]) -> bytes:
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode='w', format=form) as tar:
    for name, data in members:
      member = tarfile.TarInfo(name)
      if data is None:
        member.type, member.linkname = tarfile.SYMTYPE, '/etc/passwd'
        tar.addfile(member)
      else:
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
  return buffer.getvalue()


def checkpoints(folder: Path) -> tuple[list[Input], Feed]:
  """A file of the last checkpoint: the one before it is restored."""
  return _checkpoints(folder, honest=False)


def forged_checkpoints(folder: Path) -> tuple[list[Input], Feed]:
  """The same, with a manifest made to agree."""
  return _checkpoints(folder, honest=True)


def _checkpoints(folder: Path, honest: bool) -> tuple[list[Input], Feed]:
  root = checkpoint.epath.Path(folder / 'checkpoints')
  with checkpoint.Checkpointer(root) as checkpointer:
    for step in (1, 2):
      arrays = {'w': jnp.full((3,), step, jnp.float32), 'step': jnp.int32(step)}
      checkpointer.save(step, arrays, {'step': step}, 0.5)
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    arrays,
  )
  last = folder / 'checkpoints' / '2'
  intact = shutil.copytree(last, folder / 'intact')
  names = [p.relative_to(last) for p in last.rglob('*') if p.is_file()]
  if honest:
    names = [name for name in names if name.name != files.MANIFEST]

  # The first byte of an input says which file it is of.
  def feed(data: bytes) -> str:
    shutil.rmtree(last)
    shutil.copytree(intact, last)
    file = last / names[data[0] % len(names)]
    same = data[1:] == file.read_bytes()
    file.write_bytes(data[1:])
    if honest:
      (last / files.MANIFEST).unlink()
      files.write_manifest(root / '2')
    with checkpoint.Checkpointer(root) as checkpointer:
      try:
        restored = checkpointer.restore('last', abstract)
      except errors.UserError as error:
        assert honest
        return _refused(error, last)
    assert restored is not None
    arrays, meta = restored
    if honest:
      assert isinstance(meta, dict)
      return READ
    step = int(arrays['step'])
    assert meta == {'step': step} and set(np.unique(arrays['w'])) == {step}
    if step == 2:
      # A manifest may change in its white space, or lack a file.
      assert same or file.name == files.MANIFEST
      return SAME
    return 'the one before'

  valid = [
    (bytes([i]), (last / name).read_bytes()) for i, name in enumerate(names)
  ]
  return valid, feed


@contextlib.contextmanager
def _silent() -> Iterator[None]:
  with (
    contextlib.redirect_stdout(io.StringIO()),
    contextlib.redirect_stderr(io.StringIO()),
  ):
    yield


class _AcceptedError(Exception):
  pass


def overrides(folder: Path) -> tuple[list[Input], Feed]:
  """`--config.<field>=<value>`, to all of a run but its arithmetic."""
  dataset = _dataset(folder)
  values = (
    *('', '0', '-1', '7', '1e300', 'nan', '-inf', '9' * 30, 'true', 'None'),
    *('()', '(1,)', '("(", 1)', '(("", 1),)', '(("(", 1.0),)', '(("a", "b"),)'),
    *('0 epochs', '-1 steps', '1e9 epochs', '9 weeks', '../x', '/', '\0', '{}'),
    *('__import__("os").system("touch evil")', '${HOME}', '1' + '0' * 5000),
  )
  fields = small_runs.flat(default.get_config())
  valid = [
    (f'{field}='.encode(), value.encode())
    for field in fields
    for value in values
  ]
  small = {'data.name': dataset.name, 'data.dir': f'{folder}/data'}
  small |= {'model.width': 0.01, 'augment.crop_size': 64, 'mesh.towers': 1}

  def accept(run: Run, _) -> None:
    rows = sharding.batch_sharding(run.setup.mesh)
    size, abstract = run.course.batch_size, jax.ShapeDtypeStruct
    batch = {
      'image': abstract((size, 256, 256, 3), 'uint8', sharding=rows),
      'label': abstract((size,), 'int32', sharding=rows),
    }
    rates = run.learning_rates
    jax.eval_shape(run.train_step, run.setup.abstract_state(), batch, rates)
    raise _AcceptedError

  def feed(data: bytes) -> str:
    argv = ['main', f'--config={small_runs.ROOT}/configs/default.py']
    argv += [f'--config.{field}={value}' for field, value in small.items()]
    argv += [f'--config.{data.decode("latin1")}']
    parsed = flags.FlagValues()
    config_flags.DEFINE_config_file(
      'config', flag_values=parsed, lock_config=True
    )
    with (
      mock.patch.object(sys, 'argv', argv),
      mock.patch.object(state.Setup, 'init_state', return_value=None),
      mock.patch.object(Run, 'open_batches', accept),
      _silent(),
    ):
      try:
        parsed(argv)
      except Exception as error:  # what errors.run explains
        _refused(ValueError(errors._explain(error)), '')
        return 'refused as a flag'
      try:
        train.train_and_evaluate(parsed['config'].value, folder / 'run')
      except errors.UserError as error:
        return _refused(error, '')
      except _AcceptedError:
        return READ
    return 'no step to do'

  return valid, feed


KINDS = [
  *(images, array_records, records, tars),
  *(checkpoints, forged_checkpoints, overrides),
]
