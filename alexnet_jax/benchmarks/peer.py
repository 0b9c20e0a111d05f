"""PyTorch beside us: the other side of `torch_peer.py`."""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.kernels import windows
from alexnet_jax.models import table
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training.state import Setup

_PROGRAM = Path(__file__).with_name('torch_peer.py')


class Peer:
  """A process of PyTorch that answers one question at a time."""

  def __init__(self, process: subprocess.Popen):
    self._process = process

  def ask(self, question: str, **arguments) -> dict[str, Any]:
    """The answer; what can be asked are the methods of `torch_peer.Server`.

    Raises:
      UserError: the process ended, with what it said last.
    """
    process = self._process
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
      print(
        json.dumps({'ask': question, **arguments}),
        file=process.stdin,
        flush=True,
      )
    if line := process.stdout.readline():
      return json.loads(line)
    raise UserError(
      f'the peer ended while asked for {question!r}; what it says is above. It '
      'needs a Python with torch: --peer_python=PATH'
    )


@contextlib.contextmanager
def started(python: str | None) -> Iterator[Peer]:
  """Starts a peer, which ends with the block.

  Args:
    python: the program of a Python that has torch; None: this one.
  """
  command = [python or sys.executable, str(_PROGRAM)]
  try:
    process = subprocess.Popen(
      command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
  except OSError as error:
    raise UserError(f'--peer_python={python}: {error.strerror}') from error
  try:
    yield Peer(process)
  finally:
    process.kill()
    process.communicate()


def load(
  peer: Peer,
  setup: Setup,
  params: dict[str, np.ndarray],
  views: np.ndarray,
  labels: np.ndarray,
  compiled: bool,
) -> dict[str, Any]:
  """Gives a peer our network and our batch.

  Args:
    peer: of `started`.
    setup: of `make_setup`.
    params: {'conv1/kernel': [towers, k, k, in, out], ...}.
    views: float32 [B, crop, crop, 3].
    labels: int32 [B].
    compiled: let it use torch.compile.

  Returns:
    'versions' of what it runs with.
  """
  with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / 'peer.npz'
    spec = describe(setup, params)
    arrays = {'spec': np.array(json.dumps(spec)), **_weights(spec, params)}
    np.savez(file, allow_pickle=False, views=views, labels=labels, **arrays)
    return peer.ask('load', file=str(file), compiled=compiled)


def logits(peer: Peer) -> np.ndarray:
  """The peer's, of its batch, as at test time: [B, classes]."""
  with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / 'logits.npy'
    peer.ask('logits', file=str(file))
    return np.load(file)


def describe(setup: Setup, params: dict[str, np.ndarray]) -> dict[str, Any]:
  """The network as `torch_peer.AlexNet` takes it: plain numbers.

  Raises:
    UserError: it has what the peer has not.
  """
  model, config = setup.config.model, setup.config
  if model.activation != 'relu':
    raise UserError('--peer: PyTorch stands by with ReLU only')
  rows, readers = table.rows(model)
  usual = ('act', 'norm', 'pool')
  if (
    any([s for s in usual if s in r.then] != list(r.then) for r in rows)
    or not all(row.talk for row in readers)
    or (model.rounding, model.lrn.across_towers) != ('up', False)
  ):
    raise UserError('--peer: PyTorch stands by with the order of §3 only')
  convs, size = [], config.augment.crop_size
  for row in rows:
    kernel = params[f'{row.name}/kernel']
    outputs = windows.output_size(size, row.kernel, row.stride, row.pad)
    hang = (outputs - 1) * row.stride + row.kernel - size - row.pad
    convs.append(
      {
        'name': row.name,
        'features': kernel.shape[0] * kernel.shape[-1],
        'kernel': row.kernel,
        'stride': row.stride,
        'edges': (row.pad, hang),
        'talk': row.talk,
        'lrn': 'norm' in row.then and model.lrn.enabled,
        'pool': 'pool' in row.then,
      }
    )
    size = outputs
    if 'pool' in row.then:
      size = windows.output_size(size, model.pool.window, model.pool.stride)
  denses = []
  for name in (*(row.name for row in readers), 'fc8'):
    towers, inputs, outputs = params[f'{name}/kernel'].shape
    last = name == 'fc8'  # split by input, the others by output
    denses.append(
      (
        name,
        inputs * (towers if last else 1),
        outputs * (1 if last else towers),
      )
    )
  return {
    'towers': model.towers,
    'convs': convs,
    'denses': denses,
    'maps': size,  # side of the last ones
    'lrn': model.lrn.to_dict(),
    'pool': {'kernel_size': model.pool.window, 'stride': model.pool.stride},
    'dropout': model.dropout,
    'dropout_form': model.dropout_form,
    'optimizer': {
      'momentum': config.optimizer.momentum,
      'weight_decay': config.optimizer.weight_decay,
      'rate': config.schedule.rate,
    },
  }


def _weights(
  spec: dict[str, Any], params: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """Our parameters in PyTorch's layouts: features first, towers in them."""
  weights = {}
  for row in spec['convs']:
    kernel = params[f'{row["name"]}/kernel']  # [towers, k, k, in, out]
    kernel = kernel.transpose(0, 4, 3, 1, 2)
    weights[f'{row["name"]}.weight'] = kernel.reshape(-1, *kernel.shape[2:])
  for name, inputs, outputs in spec['denses']:
    kernel = params[f'{name}/kernel']  # [towers, in, out]
    if name == 'fc8':
      matrix = kernel.reshape(inputs, outputs).T
    else:
      matrix = kernel.transpose(0, 2, 1).reshape(outputs, inputs)
    if name == 'fc6':
      # A tower's maps after the other's in both; channels first in theirs.
      side = spec['maps']
      matrix = matrix.reshape(outputs, spec['towers'], side, side, -1)
      matrix = matrix.transpose(0, 1, 4, 2, 3).reshape(outputs, inputs)
    weights[f'{name}.weight'] = np.ascontiguousarray(matrix)
  names = [row['name'] for row in spec['convs']]
  for name in (*names, *(name for name, _, _ in spec['denses'])):
    weights[f'{name}.bias'] = params[f'{name}/bias'].reshape(-1)
  return weights
