"""Strict JAX, eight CPU devices, and the one tolerance helper."""

import contextlib
import fcntl
import io
import os
import shutil
import signal
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import kept_programs
import numpy as np
import pytest
import small_pictures
import small_runs
import tensorflow_datasets as tfds
from absl import flags
from jax.experimental.compilation_cache import compilation_cache

from alexnet_jax.data import builders
from alexnet_jax.kernels import dispatch

jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_dtype_promotion', 'strict')
# Eight devices wait for each other on two busy cores.
_PATIENCE = '--xla_cpu_collective_call_terminate_timeout_seconds=600'
# The fast tests spend most of their time on compiling, 40 % of which are LLVM's
# optimizations. Those have the slow ones, a GPU's, and all of .ci/newest.
_HASTE = '--xla_backend_optimization_level=0'
# A shell starts what it puts in the background deaf to Ctrl-C, and so would be
# the programs that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
if not flags.FLAGS.is_parsed():
  flags.FLAGS.mark_as_parsed()  # Grain reads absl's flags


def pytest_configure(config):
  config.addinivalue_line(
    'markers',
    'fresh: runs no program that was compiled by an earlier run of the tests',
  )
  fast = 'not slow' in config.option.markexpr
  if 'gpu' not in config.option.markexpr.replace('not gpu', ''):
    # Eight devices, also where there is a GPU, and in programs that it starts.
    os.environ.setdefault('JAX_PLATFORMS', 'cpu')
    jax.config.update('jax_platforms', os.environ['JAX_PLATFORMS'])
  for flag in [_PATIENCE, _HASTE] if fast else [_PATIENCE]:
    # Once, and where no other is chosen: a worker of pytest has its parent's,
    # and programs are kept by the flags' very text.
    given = os.environ.get('XLA_FLAGS', '')
    if flag.partition('=')[0] not in given:
      os.environ['XLA_FLAGS'] = f'{given} {flag}'
  if not hasattr(config, 'workerinput'):  # before the workers of xdist start
    kept_programs.tidy(kept_programs.folder())


def max_norm_error(a, b) -> float:
  """max|a - b| / max|b|: what 'within 1e-5' means, per array.

  Args:
    a: what is tested.
    b: the float64 oracle, or the reference mesh.
  """
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  assert a.shape == b.shape
  scale = np.abs(b).max()
  error = np.abs(a - b).max()
  return float(error / scale if scale else error)


@pytest.fixture
def lowered_for(monkeypatch):
  """Makes everything take the lowering of a platform, here."""

  def lower(platform):
    def choose(layer, ways, *arrays):
      x = jax.tree.leaves(arrays)[0]
      return ways[dispatch.way(layer, platform, x)](*arrays)

    monkeypatch.setattr(dispatch, 'by_platform', choose)

  return lower


@pytest.fixture(scope='session')
def photographs() -> Path:
  """Folder of the archives of real photographs, `ALEXNET_TEST_DATA`."""
  folder = os.environ.get('ALEXNET_TEST_DATA')
  if not folder:
    pytest.skip('ALEXNET_TEST_DATA is not set: no real photographs here')
  return Path(folder)


@pytest.fixture(scope='session')
def imagenet_tars(photographs, tmp_path_factory) -> Path:
  """ILSVRC2012's two tars with 250 real photographs, one of a class, which
  are training and validation at once."""
  train: dict[str, dict[str, bytes]] = {}
  with tarfile.open(photographs / 'imagenet_sample.tar') as sample:
    for member in sample:
      name = Path(member.name).name
      if name.endswith('.JPEG'):
        data = sample.extractfile(member).read()
        train.setdefault(name.split('_')[0], {})[name] = data
  assert len(train) == 250
  path = tfds.core.tfds_path('datasets/imagenet2012/validation_labels.txt')
  answers = path.read_text().split()
  validation = {
    f'ILSVRC2012_val_{answers.index(synset) + 1:08}.JPEG': data
    for synset, files in train.items()
    for data in files.values()
  }
  folder = tmp_path_factory.mktemp('tars')
  synsets = {
    f'{synset}.tar': make_tar(files) for synset, files in train.items()
  }
  (folder / 'ILSVRC2012_img_train.tar').write_bytes(make_tar(synsets))
  (folder / 'ILSVRC2012_img_val.tar').write_bytes(make_tar(validation))
  return folder


@pytest.fixture
def pets(tmp_path) -> Path:
  return small_pictures.write_tree(
    tmp_path / 'pets',
    {
      **{'train/dog': 23, 'train/cat': 20, 'train/eel': 3},
      **{'validation/cat': 4, 'validation/dog': 3, 'validation/eel': 1},
      **{'test/cat': 2, 'test/dog': 2, 'test/eel': 1},
    },
  )


def make_tar(files: dict[str, bytes]) -> bytes:
  """A tar of {name: content}."""
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode='w') as tar:
    for name, data in files.items():
      member = tarfile.TarInfo(name)
      member.size = len(data)
      tar.addfile(member, io.BytesIO(data))
  return buffer.getvalue()


# -- small runs of the real program (test_train, test_faults)


@pytest.fixture(scope='session')
def cache_dir(tmp_path_factory) -> Path:
  """Where programs are that no earlier tests have compiled: most runs compile
  the same ones."""
  return tmp_path_factory.mktemp('compiled')


def programs_of(request, cache_dir: Path) -> Path:
  """Where a test, or a module, finds what is compiled: `fresh` ones nothing
  that is older than this run of the tests."""
  fresh = request.node.get_closest_marker('fresh')
  return cache_dir if fresh else kept_programs.folder()


@pytest.fixture(scope='module')
def cached(request, cache_dir):
  """Keeps what this process compiles, and the programs that it starts."""
  with _kept_in(programs_of(request, cache_dir)):
    yield


@pytest.fixture(autouse=True)
def _fresh(request):
  """For a test that is marked in a module that is not."""
  marked = request.node.get_closest_marker('fresh')
  if marked and 'cached' in request.fixturenames:
    request.getfixturevalue('cached')
    with _kept_in(request.getfixturevalue('cache_dir')):
      yield
  else:
    yield


@contextlib.contextmanager
def _kept_in(folder: Path) -> Iterator[None]:
  options = {
    'jax_compilation_cache_dir': str(folder),
    'jax_persistent_cache_min_compile_time_secs': 0,
  }
  before = {name: getattr(jax.config, name) for name in options}
  with pytest.MonkeyPatch.context() as patch:
    for name, value in options.items():
      patch.setenv(name.upper(), str(value))
    _set(options)
    yield
    _set(before)


def _set(options: dict) -> None:
  for name, value in options.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()  # it looks at the options once


@pytest.fixture(scope='session')
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
  """Makes a folder for all the workers of pytest: one does, the rest wait."""
  root = tmp_path_factory.getbasetemp()
  if 'PYTEST_XDIST_WORKER' in os.environ:
    root = root.parent

  def once(name: str, make: Callable[[Path], object]) -> Path:
    folder = root / name
    with (root / f'{name}.lock').open('w') as lock:
      fcntl.flock(lock, fcntl.LOCK_EX)
      if not (folder / 'made').exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        make(folder)
        (folder / 'made').touch()
    return folder

  return once


@pytest.fixture(scope='session')
def data_dir(once) -> Path:
  """Folder of the data set `pictures`. Not to be changed."""
  made = once(
    'pictures', lambda folder: small_runs.prepare_pictures(folder, 'pictures')
  )
  return made / 'data'


@pytest.fixture
def config(data_dir):
  """Of a small run, to be changed at will."""
  return small_runs.small_config(data_dir)


@pytest.fixture
def program(request, config, cache_dir):
  """The program on a workdir, with `config` or another."""
  programs = programs_of(request, cache_dir)
  return lambda workdir, other=config: small_runs.Program(
    other, workdir, programs
  )


@pytest.fixture(scope='session')
def reference(data_dir, cache_dir, once) -> Path:
  """Workdir of the small run, uninterrupted. Not to be changed.

  Its programs are fresh, for it is what runs are compared with to the bit.
  """

  def run(folder: Path) -> None:
    config = small_runs.small_config(data_dir)
    small_runs.Program(config, folder / 'run', cache_dir).run()

  return once('reference', run) / 'run'


@pytest.fixture
def damaged(data_dir, tmp_path):
  def damage(split: str, *records: int) -> Path:
    """Spoils these records of a copy; called again, more of them."""
    copy = tmp_path / 'damaged'
    if not copy.exists():
      shutil.copytree(data_dir, copy)
    (file,) = copy.glob(f'pictures/*/pictures-{split}.array_record*')
    source = builders.open_dataset('pictures', data_dir).source(split)
    content = bytearray(file.read_bytes())
    for record in records:
      start = content.index(source[record]['image'][100, 50:70].tobytes())
      content[start] ^= 1
    file.write_bytes(content)
    return copy

  return damage
