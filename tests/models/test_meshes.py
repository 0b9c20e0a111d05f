"""One network, one seed, any mesh: the same draws, the same numbers.

The reference is the mesh (1, 2). Sums of another mesh have another order, and
twenty steps of training let that grow: losses and parameters are held within
1e-4, counts of errors exactly.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_runs
import test_towers
from conftest import max_norm_error
from flax import nnx
from jax.sharding import PartitionSpec as P

from alexnet_jax.models.towers import TOWER
from alexnet_jax.runtime import sharding
from alexnet_jax.training import evaluation as evaluate
from alexnet_jax.training import loop as train
from alexnet_jax.training.optimizer import param_names
from alexnet_jax.training.step import DROPOUT

pytestmark = [pytest.mark.usefixtures('cached'), pytest.mark.fresh]

TOLERANCE = 1e-4
REFERENCE = (1, 2, 'towers')
MESHES = [
  (1, 1, 'towers'),
  (2, 2, 'owt'),
  *(
    pytest.param(*mesh, marks=pytest.mark.slow)
    for mesh in (
      (2, 1, 'towers'),
      (2, 2, 'towers'),
      (4, 2, 'towers'),
      (1, 2, 'owt'),
    )
  ),
]
every_mesh = pytest.mark.parametrize(('data', 'towers', 'parallelism'), MESHES)


def on_mesh(data_dir, data, towers, parallelism, length='20 steps'):
  return small_runs.small_config(
    data_dir,
    length=length,
    mesh__data=data,
    mesh__towers=towers,
    mesh__parallelism=parallelism,
  )


@pytest.fixture(scope='module')
def run(data_dir, tmp_path_factory, cached):
  """Runs of twenty steps, made when they are asked for."""
  folder, done = tmp_path_factory.mktemp('meshes'), {}

  def run(*mesh) -> Path:
    if mesh not in done:
      done[mesh] = folder / '-'.join(map(str, mesh))
      config = on_mesh(data_dir, *mesh)
      assert train.train_and_evaluate(config, done[mesh]) == 0
    return done[mesh]

  return run


def assert_same(config, workdir: Path, reference: Path):
  """Rows of metrics, and every array of the last state."""
  rows, wanted = small_runs.rows(workdir), small_runs.rows(reference)
  assert [row['step'] for row in rows] == [row['step'] for row in wanted]
  for row, other in zip(rows, wanted, strict=True):
    assert row.keys() == other.keys()
    for key in row:
      exact = not key.endswith('/loss') and not key.startswith('health/')
      tolerance = 1e-12 if exact else TOLERANCE
      assert row[key] == pytest.approx(other[key], rel=tolerance), key
  arrays, _ = small_runs.saved(config, workdir)
  others, _ = small_runs.saved(config, reference)
  assert arrays.keys() == others.keys()
  for name, array in arrays.items():
    assert max_norm_error(array, others[name]) <= TOLERANCE, name


@every_mesh
def test_every_mesh_trains_the_same_network(
  data, towers, parallelism, run, config
):
  assert_same(config, run(data, towers, parallelism), run(*REFERENCE))


@pytest.mark.parametrize(
  'meshes',
  [
    [(1, 1, 'towers'), (2, 2, 'owt')],
    pytest.param(
      [(1, 1, 'towers'), (2, 2, 'towers'), (4, 2, 'towers'), (1, 2, 'owt')],
      marks=pytest.mark.slow,
    ),
  ],
)
def test_a_run_that_moves_ends_like_one_that_does_not(
  meshes, data_dir, config, run, tmp_path
):
  """Mid-epoch, from the reference's mesh over others and back."""
  workdir, step = tmp_path / 'run', 0
  for mesh in [REFERENCE, *meshes, REFERENCE]:
    step += 20 // (len(meshes) + 2)
    if mesh == REFERENCE and step > 10:
      step = 20
    there = on_mesh(data_dir, *mesh, length=f'{step} steps')
    assert train.train_and_evaluate(there, workdir) == 0
  # Each stay ended with an evaluation that the other run did not have.
  rows = small_runs.rows(run(*REFERENCE))
  steps = {r['step'] for r in rows if 'validation/loss' in r}
  path = workdir / 'metrics.jsonl'
  kept = [
    line
    for line, row in zip(
      path.read_text().splitlines(), small_runs.rows(workdir), strict=True
    )
    if 'train/loss' in row
    or ('validation/loss' in row and row['step'] in steps)
    or ('test/loss' in row and row['step'] == 20)
  ]
  path.write_text('\n'.join(kept) + '\n')
  assert_same(config, workdir, run(*REFERENCE))


@every_mesh
def test_every_mesh_evaluates_a_checkpoint_alike(
  data, towers, parallelism, run, data_dir
):
  run(data, towers, parallelism)  # compiles the evaluation, too
  fields = ('mesh.data', 'mesh.towers', 'mesh.parallelism')
  there, here = (
    dict(zip(fields, mesh, strict=True))
    for mesh in ((data, towers, parallelism), REFERENCE)
  )
  for split in ('validation', 'test'):
    got, want = (
      evaluate.evaluate_checkpoint(run(*REFERENCE), 'last', split, 1, mesh)
      for mesh in (there, here)
    )
    assert got['loss'] == pytest.approx(want['loss'], rel=1e-6)
    for error in ('top1_error', 'top5_error'):
      assert got[error] == want[error]


# ---- Draws and places.


def dropped(*mesh) -> np.ndarray:
  """Which units of fc6 and fc7 each tower dropped, [towers, 2, B, features]."""
  data, towers, parallelism = mesh
  setup = test_towers.make(
    data,
    towers,
    **{'mesh.parallelism': parallelism},
  )
  size = setup.augment.crop_size

  def body(params, images):
    rows = test_towers.BATCH // setup.mesh.shape[sharding.DATA]
    first = jax.lax.axis_index(sharding.DATA) * rows
    key = jax.random.key(DROPOUT)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(
      key, first + jnp.arange(rows)
    )
    model = nnx.merge(setup.graphdef, params)
    views = images[:, :size, :size].astype(jnp.float32)
    out = model.activations(views, keys)
    return jnp.stack([jnp.stack(out[name]) for name in ('fc6', 'fc7')], 1)

  mapped = jax.shard_map(
    body,
    mesh=setup.mesh,
    in_specs=(setup.specs().params, P(setup.towers.batch_axes)),
    out_specs=P(TOWER, None, sharding.DATA),
  )
  # Where every parameter is 1, only a unit that was dropped is 0.
  params = jax.tree.map(
    lambda x: jax.device_put(np.ones(x.shape, x.dtype), x.sharding),
    setup.abstract_state().params,
  )
  images = test_towers.batch(setup, 0)['image']
  return np.asarray(jax.jit(mapped)(params, images)) == 0


def test_masks_are_the_same_to_the_bit():
  want = dropped(*REFERENCE)
  # Half, of either layer: five standard deviations are 0.04.
  assert np.abs(want.mean((0, 2, 3)) - 0.5).max() < 0.04
  assert len(np.unique(want.reshape(-1, want.shape[-1]), axis=0)) == (
    2 * 2 * test_towers.BATCH  # one of its own for example, layer and tower
  )
  for mesh in ((1, 1, 'towers'), (2, 2, 'owt')):
    np.testing.assert_array_equal(dropped(*mesh), want)


@pytest.mark.parametrize('parallelism', ['towers', 'owt'])
def test_partition_specs(parallelism):
  """Those of partition_specs.json, which a person has read."""
  setup = test_towers.make(2, 2, **{'mesh.parallelism': parallelism})
  golden = json.loads(
    (Path(__file__).parent / 'partition_specs.json').read_text()
  )[parallelism]
  specs = setup.specs()
  names = jax.tree.leaves(param_names(specs.params))
  for tree in (specs.params, specs.opt_state):
    found = [list(spec) for spec in jax.tree.leaves(tree)]
    assert dict(zip(names, found, strict=True)) == golden
  assert list(specs.step) == list(specs.nonfinite_step) == []
