"""Imports go one way, and each library has one owner (docs/design.md)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import alexnet_jax

ROOT = Path(alexnet_jax.__file__).parent
FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob('*.py'))
VERBS = [
  f for f in FILES if '/' not in f and f not in ('__init__.py', 'library.py')
]
_BASE = {'kernels', 'models', 'data', 'runtime'}
ROOMS = {
  'runtime': {'runtime'},
  'kernels': {'kernels', 'runtime'},
  'models': {'models', 'kernels', 'runtime'},
  'data': {'data', 'runtime'},
  'formats': {'formats', *_BASE},
  'training': {'training', 'formats', *_BASE},
  'analysis': {'analysis', 'training', 'formats', *_BASE},
  'benchmarks': {'benchmarks', 'training', 'analysis', *_BASE},
  'drawing': {'drawing', 'training', 'analysis', *_BASE},
}
# Who may import a library: a folder, files, or nobody.
OWNERS = {
  'grain': ('data/',),
  'tensorflow_datasets': ('data/',),
  'array_record': ('data/',),
  'fsspec': ('runtime/files.py',),
  'orbax': ('runtime/checkpoint.py',),
  'tensorboard': ('runtime/writers.py',),
  'wandb': ('runtime/trackers.py',),
  'trackio': ('runtime/trackers.py',),
  'mlflow': ('runtime/trackers.py',),
  'matplotlib': ('drawing/',),
  'submitit': (),
  'tensorflow': ('export.py',),
  'onnx': ('formats/onnx.py',),
  'google.protobuf': ('formats/caffe.py',),
  # What these load may be a program.
  'pickle': (),
  'cloudpickle': (),
  'dill': (),
  'joblib': (),
  'marshal': (),
  'shelve': (),
  # A program of its own, for another Python.
  'torch': (
    'benchmarks/torch_peer.py',
    'formats/torchvision.py',
    'formats/alexnet_torch.py',
  ),
  'safetensors': ('formats/safetensors.py', 'formats/alexnet_torch.py'),
  'huggingface_hub': ('runtime/hub.py',),
  'pyarrow': ('data/parquet_sets.py',),
  'webdataset': ('data/webdataset_sets.py',),
  'configs': (),
  'tests': (),
  # Only verbs read flags; `errors.run` parses them for all, and `options` says
  # which was meant.
  'absl.flags': (*VERBS, 'runtime/errors.py', 'runtime/options.py'),
  'ml_collections.config_flags': (*VERBS, 'runtime/options.py'),
}


def imported(source):
  """Full names of all that a program imports, wherever it does."""
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      dots = '.' * node.level
      yield from (f'{dots}{node.module}.{alias.name}' for alias in node.names)


def broken_rules(file, source):
  """What `source`, as the package's file, must not import."""
  room = file.split('/')[0]
  for name in imported(source):
    parts = name.split('.')
    if parts[0] == 'alexnet_jax':
      top = room in (*VERBS, 'library.py')
      allowed = set(ROOMS) if top else ROOMS.get(room, set())
      # `from alexnet_jax import data` has the room as its second part, too.
      # The public names come from the library, on first use.
      if top or file == '__init__.py':
        allowed = allowed | {'library'}
      if parts[1:2] != ['__version__'] and not allowed & set(parts[1:2]):
        yield name
    elif not parts[0]:
      yield name  # relative: a reader has to count dots
    for library, owners in OWNERS.items():
      inside = f'{name}.'.startswith(f'{library}.')
      if inside and not any(
        file == o or (o[-1] == '/' and file.startswith(o)) for o in owners
      ):
        yield name


@pytest.mark.parametrize('file', FILES)
def test_imports_keep_the_rules(file):
  assert not list(broken_rules(file, (ROOT / file).read_text()))


@pytest.mark.parametrize(
  ('file', 'source'),
  [
    ('models/x.py', 'from alexnet_jax.data import stats'),
    ('models/x.py', 'from alexnet_jax import data'),
    ('models/x.py', 'from ..data import stats'),
    ('data/x.py', 'import alexnet_jax.models.layers'),
    ('data/x.py', 'def f():\n  from alexnet_jax.training import step'),
    ('runtime/x.py', 'from alexnet_jax.data.stats import Statistics'),
    ('training/x.py', 'from alexnet_jax import main'),
    ('training/x.py', 'from alexnet_jax.benchmarks import timing'),
    ('newroom/x.py', 'from alexnet_jax.data import stats'),
    ('training/x.py', 'import grain.python as pygrain'),
    ('runtime/metrics.py', 'import tensorboard'),
    ('training/x.py', 'from orbax import checkpoint'),
    ('training/x.py', 'from configs import default'),
    ('models/x.py', 'import torch.nn'),
    ('training/x.py', 'from absl import flags, logging'),
    ('training/x.py', 'from ml_collections import config_flags'),
    ('training/x.py', 'from alexnet_jax.drawing import canvas'),
    ('figures.py', 'from matplotlib import pyplot'),
  ],
)
def test_a_broken_rule_is_found(file, source):
  assert list(broken_rules(file, source))


@pytest.mark.parametrize(
  ('file', 'source'),
  [
    ('training/x.py', 'from alexnet_jax.data import stats'),
    ('training/x.py', 'from absl import logging'),
    ('models/x.py', 'from alexnet_jax.runtime.errors import UserError'),
    ('data/x.py', 'import grain'),
    ('runtime/writers.py', 'from tensorboard.compat import proto'),
    ('main.py', 'from absl import flags'),
    ('prepare.py', 'from alexnet_jax.data import preparation'),
  ],
)
def test_a_kept_rule_is_not(file, source):
  assert not list(broken_rules(file, source))


# -- what a fresh process loads; verbs are imported by the data workers, too


@pytest.mark.parametrize('module', ['', *(f'.{v[:-3]}' for v in VERBS)])
def test_importing_is_light(module):
  heavy = {'jax', 'flax', 'grain', 'tensorflow_datasets', 'orbax'}
  heavy |= {'matplotlib'}
  heavy |= set() if module else {'numpy', 'absl'}
  check = f'import sys, alexnet_jax{module}; print({heavy} & set(sys.modules))'
  done = subprocess.run(
    [sys.executable, '-c', check],
    cwd=ROOT.parent,
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout == 'set()\n'
