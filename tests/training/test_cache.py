"""config.data.cache='device' and 'mesh' are the stream, to the bit."""

import jax
import jax.numpy as jnp
import numpy as np
import psutil
import pytest
import small_runs

from alexnet_jax.analysis import hlo
from alexnet_jax.data import pipeline
from alexnet_jax.runtime import sharding
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training import cache
from alexnet_jax.training.settings import configure
from alexnet_jax.training.state import open_setup
from alexnet_jax.training.step import TrainStep

pytestmark = pytest.mark.usefixtures('cached')


def states(config, steps=3, start=2):
  """The state after some steps, one entry per array."""
  settings = configure(config)
  dataset, setup = open_setup(settings)
  kept = cache.load(settings.data, setup.mesh, dataset)
  step = TrainStep(setup, cache=kept and kept.arrays)
  state, place = setup.init_state(), setup.batch_sharding
  rows = sharding.local_rows(place, config.batch_size)
  which = dict(seed=5, batch_size=config.batch_size, rows=rows, start=start)
  if kept:
    stream = kept.batches(dataset, **which)
  else:
    stream = pipeline.training_batches(dataset, **which)
  for _, batch in zip(range(steps), stream, strict=False):
    batch.pop('replaced')
    batch = sharding.put_batch(place, rows, config.batch_size, batch)
    state, _ = step(state, batch, jnp.float32([0.01]))
  stream.close()
  return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


@pytest.mark.fresh
@pytest.mark.parametrize(
  ('data', 'towers', 'parallelism'),
  [
    (1, 1, 'towers'),
    pytest.param(2, 2, 'towers', marks=pytest.mark.slow),
    pytest.param(2, 2, 'owt', marks=pytest.mark.slow),
  ],
)
def test_every_mesh_learns_the_same_from_either(
  data, towers, parallelism, data_dir
):
  streamed, *kept = (
    states(
      small_runs.small_config(
        data_dir,
        mesh__data=data,
        mesh__towers=towers,
        mesh__parallelism=parallelism,
        data__cache=kind,
      )
    )
    for kind in ('none', 'device', 'mesh')
  )
  for other in kept:
    for a, b in zip(streamed, other, strict=True):
      assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize(
  ('data', 'towers', 'parallelism'),
  [(8, 1, 'towers'), (2, 2, 'towers'), (2, 2, 'owt')],
)
def test_each_device_keeps_its_share(data, towers, parallelism, data_dir):
  """36 examples: on eight devices five each, and four more than there are."""
  settings = configure(
    small_runs.small_config(
      data_dir,
      mesh__data=data,
      mesh__towers=towers,
      mesh__parallelism=parallelism,
      data__cache='mesh',
    )
  )
  dataset, setup = open_setup(settings)
  kept = cache.load(settings.data, setup.mesh, dataset)
  images, labels = kept.arrays['image'], kept.arrays['label']
  share = -(-36 // data)
  assert images.shape == (share * data, 256, 256, 3)
  assert {s.data.shape[0] for s in images.addressable_shards} == {share}
  place = setup.batch_sharding
  rows = sharding.local_rows(place, 8)
  which = dict(seed=3, batch_size=8, rows=rows, start=1)
  streamed = pipeline.training_batches(dataset, **which)
  batches = kept.batches(dataset, **which)
  for _ in range(5):  # an epoch has four and a half
    want, got = next(streamed), next(batches)
    got = sharding.put_batch(place, rows, 8, {'index': got['index']})
    np.testing.assert_array_equal(kept.images(got), want['image'])
    np.testing.assert_array_equal(
      cache._take(labels, got['index']), want['label']
    )
  streamed.close()

  program = cache._take.lower(images, got['index']).compile().as_text()
  sent = hlo.read_collectives(program, setup.mesh.shape)
  assert [(one.axes, one.dtype) for one in sent] == [
    (('data',), 's32'),
    (('data',), 'u8'),
  ]
  positions, pixels = sent
  each = 8 // data // (towers if parallelism == 'owt' else 1)
  assert positions.bytes == 4 * each * (data - 1)
  # A device's part of the batch from each of the others.
  assert pixels.operation == 'reduce-scatter'
  assert pixels.bytes == each * 256 * 256 * 3 * (data - 1)


@pytest.mark.fresh
@pytest.mark.slow
def test_a_run_with_the_cache_is_one_without(
  config, program, reference, tmp_path
):
  """Interrupted and resumed in an epoch, too."""
  config.data.cache = 'device'
  there = program(tmp_path / 'run', config)
  process = there.start_until(7)
  small_runs.kill(process)
  there.run()
  small_runs.assert_equal_runs(config, tmp_path / 'run', reference)


def test_damaged_records_are_replaced_alike(config, damaged):
  config.data.dir = str(damaged('train', 3, 4))
  config.data.max_bad_records = 2
  config.data.cache = 'device'
  settings = configure(config)
  dataset, setup = open_setup(settings)
  which = dict(seed=1, batch_size=12, rows=range(12))
  streamed = pipeline.training_batches(dataset, **which, max_bad_records=2)
  cached = cache.load(settings.data, setup.mesh, dataset)
  kept = cached.batches(dataset, **which)
  seen = set()
  for _ in range(3):  # an epoch of 36
    want, got = next(streamed), next(kept)
    np.testing.assert_array_equal(got['replaced'], want['replaced'])
    for name in ('image', 'label'):
      array = np.asarray(cached.arrays[name])[got['index']]
      np.testing.assert_array_equal(array, want[name])
    seen |= set(got['replaced'].tolist())
  assert seen == {-1, 3, 4}
  streamed.close()
  kept.close()


def test_what_cannot_be_is_told(config, monkeypatch):
  config.data.cache = 'devise'
  with pytest.raises(
    UserError, match="'device', 'mesh', 'none'., not 'devise'"
  ):
    configure(config)
  config.data.cache = 'device'
  settings = configure(config)
  dataset, setup = open_setup(settings)
  memory = psutil.virtual_memory()._replace(available=10_000_000)
  monkeypatch.setattr(psutil, 'virtual_memory', lambda: memory)
  with pytest.raises(UserError, match='takes 0.0 GB on each device'):
    cache.load(settings.data, setup.mesh, dataset)
