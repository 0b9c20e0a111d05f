"""How fast a training step is, beside the arithmetic it needs, the machine's
matrix products and PyTorch."""

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P

from alexnet_jax.analysis import communication
from alexnet_jax.benchmarks import peer, timing
from alexnet_jax.benchmarks.results import Row
from alexnet_jax.benchmarks.timing import Contender, Sample, Spread
from alexnet_jax.data.photographs import SIZE
from alexnet_jax.models.describe import describe
from alexnet_jax.runtime import sharding
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training import schedules, views
from alexnet_jax.training.optimizer import param_names
from alexnet_jax.training.settings import Settings
from alexnet_jax.training.state import Setup
from alexnet_jax.training.step import TrainStep, loss_and_logits

# max|a - b| / max|b| of the logits, by dtype and precision (docs/gpu.md).
_AGREE = {('float32', 'highest'): 1e-4, ('float32', 'default'): 5e-3}
_AGREE_ROUNDED = 4e-2
_PARTS = ('forward', 'backward', 'update')
_PEER = 'PyTorch'
_COMPILED = 'PyTorch, torch.compile'
_AUGMENTATION = 'augmentation'
# Fields that say how many times faster than each peer.
_RATIOS = {_PEER: 'times_torch', _COMPILED: 'times_torch_compile'}


class OurStep:
  """Our step on one mesh, on views that are given."""

  def __init__(self, setup: Setup, cuts: np.ndarray, labels: np.ndarray):
    self.setup = setup
    place, size = setup.batch_sharding, len(labels)
    rows = sharding.local_rows(place, size)
    batch = {'image': cuts[rows], 'label': labels[rows]}
    self._batch = sharding.put_batch(place, rows, size, batch)
    self._state = setup.init_state()
    self._learning_rates = schedules.learning_rates(
      setup.schedule, 0, setup.schedule.learning_rate
    )
    self._step = TrainStep(setup, given=True)
    start = time.perf_counter()
    program = self._step.compile(self._state, self._batch, self._learning_rates)
    self.compile_seconds = time.perf_counter() - start
    self.text = program.as_text() or ''
    params = setup.specs().params

    def loss(params, batch, training: bool):
      labels = setup.replica_rows(batch['label'])
      key = jax.random.fold_in(jax.random.key(0), lax.axis_index(sharding.DATA))
      keys = jax.random.split(key, len(labels)) if training else None
      return loss_and_logits(setup, params, batch['image'], labels, keys)

    def compiled(body, out_specs):
      specs = params, P(setup.towers.batch_axes)
      mapped = jax.shard_map(
        body, mesh=setup.mesh, in_specs=specs, out_specs=out_specs
      )
      return jax.jit(
        jax.default_matmul_precision(setup.matmul_precision)(mapped)
      )

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

  def take(self) -> Any:
    """One step."""
    self._state, sums = self._step(
      self._state, self._batch, self._learning_rates
    )
    return self._state, sums

  def measure(self, times: int) -> Sample:
    """Parts are programs of their own: 'backward' is the gradient's time less
    the forward pass's, 'update' what the step takes more than the gradient,
    which is below zero where the gradient alone is the slower program."""

    whole = timing.time_calls(self.take, times)
    args = self._state.params, self._batch
    forward = timing.time_calls(lambda: self._forward(*args), times)
    gradient = timing.time_calls(lambda: self._gradient(*args), times)
    return {
      'seconds': whole,
      'forward': forward,
      'backward': gradient - forward,
      'update': whole - gradient,
    }


def measure_steps(
  settings: Settings,
  meshes: Sequence[tuple[int, int]],
  num_classes: int,
  repeats: int,
  peers: Sequence[bool] = (),
  python: str | None = None,
) -> list[Row]:
  """Measures the step on each mesh and its peers, in turn.

  Args:
    settings: of `configure`; `batch_size` is measured.
    meshes: (data, towers) of each contender of ours.
    num_classes: outputs of fc8.
    repeats: samples of each.
    peers: PyTorch beside it: False as it is, True with torch.compile.
    python: the program of a Python with torch; None: this one.

  Returns:
    A row of results for each contender, and one for the augmentation.

  Raises:
    UserError: there is no peer, or it is another network.
  """
  batch = settings.batch_size
  cuts, labels = make_examples(settings, num_classes)
  steps: dict[str, OurStep] = {}
  contenders = []
  memory: dict[str, Callable[[], float]] = {}
  versions = {}
  for mesh in meshes:
    placed = communication.on_mesh(settings, *mesh)
    setup = communication.abstract_setup(placed, num_classes)
    name = f'alexnet_jax, mesh {timing.mesh_name(setup.mesh)}'
    if name in steps:  # one device has all towers
      continue
    steps[name] = OurStep(setup, cuts, labels)
    contenders.append(Contender(name, steps[name].measure))
    memory[name] = timing.peak_memory
  first = next(iter(steps.values()))
  setup = first.setup
  way = settings.dtype, settings.matmul_precision
  with contextlib.ExitStack() as stack:
    for compiled in peers:
      there = stack.enter_context(peer.start_peer(python))
      about = peer.load_network(
        there, setup, first.params(), cuts, labels, compiled, *way
      )
      theirs = peer.ask_logits(there)
      for step in steps.values():
        assert_agree(step.logits(), theirs, _AGREE.get(way, _AGREE_ROUNDED))
      name = _COMPILED if compiled else _PEER
      contenders.append(
        Contender(name, functools.partial(there.measure, 'step'))
      )
      memory[name] = there.peak_memory
      versions[name] = about['versions']
    samples = timing.alternate(
      [timing.make_gemm(settings), _augmentation(setup), *contenders], repeats
    )
    peaks = {name: peak() for name, peak in memory.items()}
  rate_of_one = timing.gemm_rate(samples.pop('GEMM'))
  layers = describe(settings.model, num_classes, settings.augment.crop_size)
  work = sum(layer.training_flops for layer in layers)
  common = timing.describe_run('step', settings, repeats) | {
    'lrn': settings.model.has_norm,
    'parallelism': settings.mesh.parallelism,
  }
  rows = []
  for name, taken in samples.items():
    speed = Spread.of([batch / sample['seconds'] for sample in taken])
    row = {**common, 'name': name, **speed.fields('images_per_sec')}
    rows.append(row)
    if name == _AUGMENTATION:
      continue
    rate = work * speed.median
    # Virtual devices of CPUs share what one product has.
    several = name in steps and not timing.on_cpu()
    gemm = rate_of_one * (steps[name].setup.mesh.size if several else 1)
    row |= {
      'versions': versions.get(name, common['versions']),
      'gflops': rate / 1e9,
      'gemm_gflops': gemm / 1e9,
      'gemm_share': rate / gemm,
      'peak_memory_gb': peaks[name],
    }
    if name in steps:
      row['compile_seconds'] = steps[name].compile_seconds
    for part in taken[0].keys() & _PARTS:  # none of a peer on a GPU
      row[f'{part}_seconds'] = Spread.of([s[part] for s in taken]).median
    for other in samples.keys() & _RATIOS.keys() - {name}:
      pairs = zip(samples[other], taken, strict=True)
      ratios = Spread.of([a['seconds'] / b['seconds'] for a, b in pairs])
      row |= ratios.fields(_RATIOS[other])
  return rows


def make_examples(
  settings: Settings, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
  """Views such as training has, pixels less their mean, and labels."""
  rng = np.random.default_rng(0)
  batch, crop = settings.batch_size, settings.augment.crop_size
  cuts = rng.normal(scale=60, size=(batch, crop, crop, 3)).astype(np.float32)
  return cuts, rng.integers(0, num_classes, batch, np.int32)


def _augmentation(setup: Setup) -> Contender:
  """What a step does besides, on photographs: crop, flip, colour, mean."""
  rng = np.random.default_rng(0)
  images = jnp.asarray(
    rng.integers(0, 256, (setup.batch_size, SIZE, SIZE, 3), np.uint8)
  )
  keys = jax.random.split(jax.random.key(0), setup.batch_size)
  cut = jax.jit(
    functools.partial(views.training_views, setup.augment, setup.constants)
  )

  def measure(times: int) -> Sample:
    return {'seconds': timing.time_calls(lambda: cut(images, keys), times)}

  return Contender(_AUGMENTATION, measure)


def assert_agree(
  ours: np.ndarray, theirs: np.ndarray, bound: float = 1e-4
) -> None:
  """Refuses a peer whose logits are not ours: max|a - b| / max|b|."""
  error = np.abs(ours - theirs).max() / np.abs(theirs).max()
  if not error <= bound:
    raise UserError(
      f'the peer is another network: its logits differ by {error:.1e}, which '
      'is a bug; please report it with your configuration'
    )
