"""How fast a training step is, beside the arithmetic it needs, the machine's
matrix products and PyTorch."""

import contextlib
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P

from alexnet_jax.analysis import communication
from alexnet_jax.benchmarks import flops, peer, results, timing
from alexnet_jax.benchmarks.results import Row
from alexnet_jax.benchmarks.timing import Contender, Sample, Spread
from alexnet_jax.data.photographs import SIZE
from alexnet_jax.runtime import sharding
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training import schedules
from alexnet_jax.training import views as augment
from alexnet_jax.training.optimizer import param_names
from alexnet_jax.training.state import Setup
from alexnet_jax.training.step import TrainStep, loss_and_logits

_AGREE = 1e-4  # max|a - b| / max|b| of the logits
_PARTS = ('forward', 'backward', 'update')
_PEER = 'PyTorch'
_COMPILED = 'PyTorch, torch.compile'
_AUGMENTATION = 'augmentation'
# Fields that say how many times faster than each peer.
_RATIOS = {_PEER: 'times_torch', _COMPILED: 'times_torch_compile'}


class Step:
  """Our step on one mesh, on views that are given."""

  def __init__(self, setup: Setup, views: np.ndarray, labels: np.ndarray):
    self.setup = setup
    place, size = setup.batch_sharding, len(labels)
    rows = sharding.local_rows(place, size)
    batch = {'image': views[rows], 'label': labels[rows]}
    self._batch = sharding.put_batch(place, rows, size, batch)
    self._state = setup.init_state()
    schedule = setup.config.schedule
    self._rates = schedules.rates(schedule, 0, schedule.rate)
    self._step = TrainStep(setup, given=True)
    params = setup.specs().params

    def loss(params, batch, training: bool):
      labels = setup.replica_rows(batch['label'])
      key = jax.random.fold_in(jax.random.key(0), lax.axis_index(sharding.DATA))
      keys = jax.random.split(key, len(labels)) if training else None
      return loss_and_logits(setup, params, batch['image'], labels, keys)

    def compiled(body, out_specs):
      specs = params, P(setup.batch_axes)
      mapped = jax.shard_map(
        body, mesh=setup.mesh, in_specs=specs, out_specs=out_specs
      )
      precision = setup.config.matmul_precision
      return jax.jit(jax.default_matmul_precision(precision)(mapped))

    self._forward = compiled(lambda p, b: loss(p, b, True)[0], P())
    self._gradient = compiled(
      lambda p, b: jax.grad(lambda p: loss(p, b, True)[0])(p), params
    )
    self._logits = compiled(
      lambda p, b: loss(p, b, False)[1][0], P(sharding.DATA)
    )

  def logits(self) -> np.ndarray:
    """[B, classes], as at test time."""
    return np.asarray(self._logits(self._state.params, self._batch))

  def params(self) -> dict[str, np.ndarray]:
    """{'conv1/kernel': [towers, k, k, in, out], ...}."""
    params = self._state.params
    names = jax.tree.leaves(param_names(params))
    return dict(
      zip(names, map(np.asarray, jax.tree.leaves(params)), strict=True)
    )

  def measure(self, times: int) -> Sample:
    """Parts are programs of their own: 'backward' is the gradient's time less
    the forward pass's, 'update' what the step takes more than the gradient,
    which is below zero where the gradient alone is the slower program."""

    def step():
      self._state, sums = self._step(self._state, self._batch, self._rates)
      return self._state, sums

    whole = timing.seconds(step, times)
    args = self._state.params, self._batch
    forward = timing.seconds(lambda: self._forward(*args), times)
    gradient = timing.seconds(lambda: self._gradient(*args), times)
    return {
      'seconds': whole,
      'forward': forward,
      'backward': gradient - forward,
      'update': whole - gradient,
    }


def run(
  config: ml_collections.ConfigDict,
  meshes: Sequence[tuple[int, int]],
  classes: int,
  repeats: int,
  peers: Sequence[bool] = (),
  python: str | None = None,
) -> list[Row]:
  """Measures the step on each mesh and its peers, in turn.

  Args:
    config: as configs/default.py describes it; `batch_size` is measured.
    meshes: (data, towers) of each contender of ours.
    classes: outputs of fc8.
    repeats: samples of each.
    peers: PyTorch beside it: False as it is, True with torch.compile.
    python: the program of a Python with torch; None: this one.

  Returns:
    A row of results for each contender, and one for the augmentation.

  Raises:
    UserError: there is no peer, or it is another network.
  """
  batch = config.batch_size
  views, labels = examples(config, classes)
  steps, contenders = [], []
  memory: dict[str, Callable[[], float]] = {}
  versions = {}
  for data, towers in meshes:
    config.mesh.data, config.mesh.towers = data, towers
    setup = communication.abstract_setup(
      config.copy_and_resolve_references(), classes
    )
    steps.append(Step(setup, views, labels))
    name = f'alexnet_jax, mesh {data},{towers}'
    contenders.append(Contender(name, steps[-1].measure))
    memory[name] = timing.peak_memory
  setup = steps[0].setup
  with contextlib.ExitStack() as stack:
    for compiled in peers:
      there = stack.enter_context(peer.started(python))
      params = steps[0].params()
      about = peer.load(there, setup, params, views, labels, compiled)
      theirs = peer.logits(there)
      for step in steps:
        assert_agree(step.logits(), theirs)
      name = _COMPILED if compiled else _PEER
      contenders.append(Contender(name, functools.partial(_ask_step, there)))
      memory[name] = functools.partial(_ask_memory, there)
      versions[name] = about['versions']
    samples = timing.alternate(
      [timing.gemm(), _augmentation(setup), *contenders], repeats
    )
    peaks = {name: peak() for name, peak in memory.items()}
  gemm = timing.gemm_rate(samples.pop('GEMM'))
  work = sum(layer.training for layer in flops.of(setup))
  common = {
    'benchmark': 'step',
    **timing.environment(),
    'batch': batch,
    'width': config.model.width,
    'lrn': config.model.lrn.enabled,
    'dtype': config.dtype,
    'parallelism': config.mesh.parallelism,
    'repeats': repeats,
  }
  rows = []
  for name, taken in samples.items():
    speed = Spread.of([batch / sample['seconds'] for sample in taken])
    row = {**common, 'name': name, **speed.fields('images_per_sec')}
    rows.append(row)
    if name == _AUGMENTATION:
      continue
    rate = work * speed.median
    row |= {
      'versions': versions.get(name, common['versions']),
      'gflops': rate / 1e9,
      'gemm_gflops': gemm / 1e9,
      'gemm_share': rate / gemm,
      'peak_memory_gb': peaks[name],
    }
    for part in _PARTS:
      row[f'{part}_seconds'] = Spread.of([s[part] for s in taken]).median
    for other in samples.keys() & _RATIOS.keys() - {name}:
      pairs = zip(samples[other], taken, strict=True)
      ratios = Spread.of([a['seconds'] / b['seconds'] for a, b in pairs])
      row |= ratios.fields(_RATIOS[other])
  return rows


def table(rows: Sequence[Row]) -> str:
  """What `run` found, for people to read."""
  form = '{:<24} {:>18} {:>8} {:>6} {:>8} {:>8} {:>8} {:>8}'.format
  head = ('images/s', 'GFLOP/s', 'share', *_PARTS, 'peak GB')
  first = rows[-1]
  lines = [
    results.about(first),
    f'batch {first["batch"]}, width {first["width"]}, LRN '
    f'{"on" if first["lrn"] else "off"}, {first["dtype"]}; the products of '
    f'float32 matrices run at {first["gemm_gflops"]:.0f} GFLOP/s here',
    form('', *head),
  ]
  for row in rows:
    cells = [results.spread(row, 'images_per_sec')]
    if 'gflops' in row:
      cells += [f'{row["gflops"]:.1f}', f'{row["gemm_share"]:.0%}']
      cells += [f'{row[f"{part}_seconds"]:.3f} s' for part in _PARTS]
      cells += [f'{row["peak_memory_gb"]:.2f}']
    lines.append(form(row['name'], *cells, *[''] * (len(head) - len(cells))))
  lines += [
    f'{row["name"]}: {results.spread(row, field, 2)} times as fast as {other}'
    for row in rows
    for other, field in _RATIOS.items()
    if field in row
  ]
  return '\n'.join(lines)


def examples(
  config: ml_collections.ConfigDict, classes: int
) -> tuple[np.ndarray, np.ndarray]:
  """Views such as training has, pixels less their mean, and labels."""
  rng = np.random.default_rng(0)
  batch, crop = config.batch_size, config.augment.crop_size
  views = rng.normal(scale=60, size=(batch, crop, crop, 3)).astype(np.float32)
  return views, rng.integers(0, classes, batch, np.int32)


def _augmentation(setup: Setup) -> Contender:
  """What a step does besides, on photographs: crop, flip, colour, mean."""
  config = setup.config
  rng = np.random.default_rng(0)
  images = jnp.asarray(
    rng.integers(0, 256, (config.batch_size, SIZE, SIZE, 3), np.uint8)
  )
  keys = jax.random.split(jax.random.key(0), config.batch_size)
  cut = jax.jit(
    functools.partial(augment.training_views, config.augment, setup.constants)
  )
  return Contender(
    _AUGMENTATION,
    lambda times: {'seconds': timing.seconds(lambda: cut(images, keys), times)},
  )


def assert_agree(ours: np.ndarray, theirs: np.ndarray) -> None:
  error = np.abs(ours - theirs).max() / np.abs(theirs).max()
  if not error <= _AGREE:
    raise UserError(
      f'the peer is another network: its logits differ by {error:.1e}, which '
      'is a bug; please report it with your configuration'
    )


def _ask_step(there: peer.Peer, times: int) -> Sample:
  return there.ask('step', times=times)


def _ask_memory(there: peer.Peer) -> float:
  return there.ask('memory')['gigabytes']
