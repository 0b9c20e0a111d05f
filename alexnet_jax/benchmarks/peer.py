"""PyTorch beside us: the other side of `torch_peer.py`."""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from alexnet_jax.benchmarks.timing import Sample
from alexnet_jax.models.describe import Layer, describe
from alexnet_jax.models.rows import Table
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

  def measure(self, question: str, times: int) -> Sample:
    """The answer to a question that does its work so many times."""
    return self.ask(question, times=times)

  def peak_memory(self) -> float:
    """The most memory the process has had, in GB."""
    return self.ask('memory')['gigabytes']


@contextlib.contextmanager
def start_peer(python: str | None) -> Iterator[Peer]:
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


def load_network(
  peer: Peer,
  setup: Setup,
  params: dict[str, np.ndarray],
  views: np.ndarray,
  labels: np.ndarray,
  compiled: bool,
  dtype: str = 'float32',
  precision: str = 'highest',
) -> dict[str, Any]:
  """Gives a peer our network and our batch, on a GPU where ours is on one.

  Args:
    peer: of `start_peer`.
    setup: of `make_setup`.
    params: {'conv1/kernel': [towers, k, k, in, out], ...}.
    views: float32 [B, crop, crop, 3].
    labels: int32 [B].
    compiled: let it use torch.compile.
    dtype: of its activations, as of ours.
    precision: of its products; with less than 'highest' a GPU takes TF32.

  Returns:
    'versions' of what it runs with.
  """
  with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / 'peer.npz'
    num_classes = params[f'{setup.table.logits.name}/bias'].size
    spec = describe_for_peer(setup, num_classes)
    arrays = {'spec': np.array(json.dumps(spec)), **_weights(spec, params)}
    np.savez(file, allow_pickle=False, views=views, labels=labels, **arrays)
    return peer.ask(
      'load',
      file=str(file),
      compiled=compiled,
      device='cuda' if jax.devices()[0].platform == 'gpu' else 'cpu',
      half=dtype == 'bfloat16',
      tf32=precision != 'highest',
    )


def ask_logits(peer: Peer) -> np.ndarray:
  """The peer's, of its batch, as at test time: [B, classes]."""
  with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / 'logits.npy'
    peer.ask('logits', file=str(file))
    return np.load(file)


def describe_for_peer(setup: Setup, num_classes: int) -> dict[str, Any]:
  """The network as `torch_peer.AlexNet` takes it: plain numbers.

  Raises:
    UserError: it has what the peer has not.
  """
  table = setup.table
  if table.activation != 'relu':
    raise UserError('--peer: PyTorch stands by with ReLU only')
  if not _is_usual(table):
    raise UserError('--peer: PyTorch stands by with the order of §3 only')
  rule = setup.optimizer
  if (
    rule.kind != 'momentum'
    or rule.ema
    or setup.label_smoothing
    or setup.accumulate > 1
  ):
    raise UserError(
      '--peer: PyTorch takes the steps of §5 only: optimizer.kind=momentum, '
      'without optimizer.ema, label_smoothing and accumulate'
    )
  assert table.lrn is not None
  layers = describe(table, num_classes, setup.augment.crop_size)
  number = len(table.convs)
  return {
    'towers': table.towers,
    'convs': [_describe_conv(layer) for layer in layers[:number]],
    'denses': [_describe_dense(layer) for layer in layers[number:]],
    'maps': layers[number - 1].after[0],  # side of the last ones
    'lrn': table.lrn.arguments,
    'pool': {'kernel_size': table.pool.window, 'stride': table.pool.stride},
    'dropout': table.dropout,
    'dropout_form': table.dropout_form,
    'optimizer': {
      'momentum': setup.optimizer.momentum,
      'weight_decay': setup.optimizer.weight_decay,
      'learning_rate': setup.schedule.learning_rate,
    },
  }


def _is_usual(table: Table) -> bool:
  usual = ('act', 'norm', 'pool')
  return (
    all(tuple(s for s in usual if s in r.then) == r.then for r in table.convs)
    and all(row.reads == 'both' for row in table.denses)
    and table.rounding == 'up'
    and table.lrn is not None
    and not table.lrn.across_towers
  )


def _describe_conv(layer: Layer) -> dict[str, Any]:
  kinds = [step.kind for step in layer.then]
  return {
    'name': layer.name,
    'features': layer.towers * layer.kernel[-1],
    'kernel': layer.kernel[0],
    'stride': layer.stride,
    'edges': layer.edges,
    'reads_both': layer.reads_both,
    'lrn': 'norm' in kinds,
    'pool': 'pool' in kinds,
  }


def _describe_dense(layer: Layer) -> tuple[str, int, int]:
  """Its name, inputs and outputs; the logits are split by input, other layers
  by output."""
  inputs, outputs = layer.kernel
  if layer.is_logits:
    return layer.name, inputs * layer.towers, outputs
  return layer.name, inputs, outputs * layer.towers


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
