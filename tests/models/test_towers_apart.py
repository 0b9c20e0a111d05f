"""Networks whose towers talk otherwise than the paper's, a tower on each
device, against NumPy float64: logits within max|a - b| <= 1e-5 max|b|."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import step_oracle
from conftest import max_norm_error
from flax import nnx
from jax.sharding import PartitionSpec as P
from test_whole_steps import (
  BATCH,
  CLASSES,
  CROP,
  make_config,
  make_statistics,
  make_weights,
  state_of,
)

from alexnet_jax.models.towers import MeshShape
from alexnet_jax.runtime import sharding
from alexnet_jax.training.settings import configure
from alexnet_jax.training.state import make_setup

pytestmark = pytest.mark.usefixtures('cached')

NETWORKS = {
  # Caffe's copies normalize over the maps of both.
  'caffenet': {
    'model.dropout_form': 'inverted',
    'model.lrn.k': 1.0,
    'model.lrn.alpha_over': 'mean',
    'model.lrn.across_towers': True,
    'model.conv1.then': ('act', 'pool', 'norm'),
    'model.conv2.then': ('act', 'pool', 'norm'),
  },
  # fc6 on the rows of all devices, of the maps of its own tower.
  'owt': {'mesh.parallelism': 'owt', 'model.fc6.reads': 'own'},
}


@pytest.mark.parametrize('name', NETWORKS)
def test_logits_of_a_tower_on_each_device(name):
  config = make_config()
  config.update_from_flattened_dict(NETWORKS[name])
  mesh = MeshShape(1, 2).make_mesh(2)
  setup = make_setup(configure(config), mesh, CLASSES, make_statistics())
  weights = make_weights(setup.abstract_state().params)
  rng = np.random.default_rng(0)
  views = (60 * rng.normal(size=(BATCH, CROP, CROP, 3))).astype(np.float32)
  mapped = jax.shard_map(
    lambda params, views: nnx.merge(setup.graphdef, params)(views),
    mesh=mesh,
    in_specs=(setup.specs().params, P(setup.towers.batch_axes)),
    out_specs=P(sharding.DATA),
  )
  place = setup.batch_sharding
  got = jax.jit(mapped)(
    state_of(setup, weights).params, jax.device_put(jnp.asarray(views), place)
  )
  want = step_oracle.logits(config.model, weights, views)
  assert max_norm_error(got, want) <= 1e-5
