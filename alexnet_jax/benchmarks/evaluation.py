"""How fast photographs on the device become errors: one view, or ten."""

import functools
from collections.abc import Sequence

import jax
import ml_collections
import numpy as np

from alexnet_jax.analysis import communication
from alexnet_jax.benchmarks import flops, results, timing
from alexnet_jax.benchmarks.results import Row
from alexnet_jax.benchmarks.timing import Contender, Sample, Spread
from alexnet_jax.data.photographs import SIZE
from alexnet_jax.runtime import sharding
from alexnet_jax.training.evaluation import make_eval_step
from alexnet_jax.training.state import Setup

VIEWS = (1, 10)  # §4.1


def run(
  config: ml_collections.ConfigDict,
  meshes: Sequence[tuple[int, int]],
  classes: int,
  repeats: int,
) -> list[Row]:
  """Measures a step of an evaluation on each mesh, with each of `VIEWS`.

  Args:
    config: as configs/default.py describes it; `batch_size` is measured.
    meshes: (data, towers) of each.
    classes: outputs of fc8.
    repeats: samples of each.

  Returns:
    A row for each; an image counts once, however many views of it are cut.
  """
  contenders, about = [], {}
  for mesh in meshes:
    config.mesh.data, config.mesh.towers = mesh
    setup = communication.abstract_setup(
      config.copy_and_resolve_references(), classes
    )
    forward = sum(layer.forward for layer in flops.of(setup))
    for views in VIEWS:
      name = f'mesh {mesh[0]},{mesh[1]}, {views} view{"s" * (views > 1)}'
      contenders.append(Contender(name, _measure(setup, classes, views)))
      about[name] = {'views': views, 'flops': forward * views}
  samples = timing.alternate(contenders, repeats)
  rows = []
  for name, taken in samples.items():
    row = {
      'benchmark': 'eval',
      **timing.environment(),
      'name': name,
      'views': about[name]['views'],
      'batch': config.batch_size,
      'width': config.model.width,
      'dtype': config.dtype,
      'repeats': repeats,
    }
    speeds = Spread.of([config.batch_size / s['seconds'] for s in taken])
    row |= speeds.fields('images_per_sec')
    row['gflops'] = about[name]['flops'] * speeds.median / 1e9
    rows.append(row)
  return rows


def table(rows: Sequence[Row]) -> str:
  """What `run` found, for people to read."""
  return '\n'.join(
    [
      results.about(rows[0]),
      f'batch {rows[0]["batch"]}, width {rows[0]["width"]}',
      *(
        f'{row["name"]}: {results.spread(row, "images_per_sec")} images/s, '
        f'{row["gflops"]:.1f} GFLOP/s'
        for row in rows
      ),
    ]
  )


def _measure(setup: Setup, classes: int, views: int) -> functools.partial:
  place, size = setup.batch_sharding, setup.config.batch_size
  rng = np.random.default_rng(0)
  rows = sharding.local_rows(place, size)
  batch = {
    'image': rng.integers(0, 256, (size, SIZE, SIZE, 3), np.uint8),
    'label': rng.integers(0, classes, size, np.int32),
    'mask': np.ones(size, bool),
  }
  placed = sharding.put_batch(
    place, rows, size, {name: x[rows] for name, x in batch.items()}
  )
  networks = (setup.init_state().params,)
  return functools.partial(
    _time, make_eval_step(setup, views), networks, placed
  )


def _time(step, networks, batch, times: int) -> Sample:
  # Read one by one, as an evaluation does.
  return {
    'seconds': timing.seconds(
      lambda: jax.device_get(step(networks, batch)), times
    )
  }
