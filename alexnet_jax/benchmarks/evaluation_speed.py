"""How fast photographs on the device become errors: one view, or ten."""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from alexnet_jax.analysis import communication
from alexnet_jax.benchmarks import timing
from alexnet_jax.benchmarks.results import Row
from alexnet_jax.benchmarks.timing import Contender, Sample, Spread
from alexnet_jax.data.photographs import SIZE
from alexnet_jax.models.describe import describe
from alexnet_jax.runtime import sharding
from alexnet_jax.training.evaluation import make_eval_step
from alexnet_jax.training.settings import Settings
from alexnet_jax.training.state import Setup

VIEWS = (1, 10)  # §4.1


def measure_evaluations(
  settings: Settings,
  meshes: Sequence[tuple[int, int]],
  num_classes: int,
  repeats: int,
) -> list[Row]:
  """Measures a step of an evaluation on each mesh, with each of `VIEWS`.

  Args:
    settings: of `configure`; `batch_size` is measured.
    meshes: (data, towers) of each.
    num_classes: outputs of fc8.
    repeats: samples of each.

  Returns:
    A row for each; an image counts once, however many views of it are cut.
  """
  layers = describe(settings.model, num_classes, settings.augment.crop_size)
  flops = sum(layer.forward_flops for layer in layers)
  contenders, views_of = [], {}
  for mesh in meshes:
    placed = communication.on_mesh(settings, *mesh)
    setup = communication.abstract_setup(placed, num_classes)
    for views in VIEWS:
      there = timing.mesh_name(setup.mesh)
      name = f'mesh {there}, {views} view{"s" * (views > 1)}'
      if name in views_of:  # one device has all towers
        continue
      measure = _make_measure(setup, num_classes, views)
      contenders.append(Contender(name, measure))
      views_of[name] = views
  rows = []
  for name, taken in timing.alternate(contenders, repeats).items():
    row = timing.describe_run('eval', settings, repeats)
    row |= {'name': name, 'views': views_of[name]}
    speeds = Spread.of([settings.batch_size / s['seconds'] for s in taken])
    row |= speeds.fields('images_per_sec')
    row['gflops'] = flops * views_of[name] * speeds.median / 1e9
    rows.append(row)
  return rows


def _make_measure(
  setup: Setup, num_classes: int, views: int
) -> Callable[[int], Sample]:
  place, size = setup.batch_sharding, setup.batch_size
  rng = np.random.default_rng(0)
  rows = sharding.local_rows(place, size)
  batch = {
    'image': rng.integers(0, 256, (size, SIZE, SIZE, 3), np.uint8),
    'label': rng.integers(0, num_classes, size, np.int32),
    'mask': np.ones(size, bool),
  }
  placed = sharding.put_batch(
    place, rows, size, {name: x[rows] for name, x in batch.items()}
  )
  networks = (setup.init_state().params,)
  step = make_eval_step(setup, views)

  def evaluate():  # read one by one, as an evaluation does
    return jax.device_get(step(networks, placed))

  return lambda times: {'seconds': timing.time_calls(evaluate, times)}
