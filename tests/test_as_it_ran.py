"""The networks of run #145 and its siblings, as config.model has them."""

import jax
import jax.numpy as jnp
import krizhevsky_145
import numpy as np
import pytest
from conftest import max_norm_error
from flax import nnx
from test_alexnet import count, make, photographs

RUN_145 = {
  'lrn.alpha_over': 'mean',
  'then.conv1': ('norm', 'pool', 'act'),
  'then.conv2': ('act', 'norm', 'map_norm', 'pool'),
}


@pytest.mark.parametrize(
  ('width', 'size', 'batch'),
  [
    (0.125, 96, 2),
    pytest.param(1.0, 224, 1, marks=pytest.mark.slow),
  ],
)
def test_run_145_is_the_numpy_program(width, size, batch):
  model = make(num_classes=10, image_size=size, width=width, **RUN_145)
  images = photographs(batch, size)
  params = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model)))
  want = krizhevsky_145.forward(params, images)
  assert max_norm_error(model(jnp.asarray(images)), want) <= 1e-5
  # None of its peculiarities is lost in rounding.
  for field in RUN_145:
    fields = {name: way for name, way in RUN_145.items() if name != field}
    other = make(num_classes=10, image_size=size, width=width, **fields)
    assert max_norm_error(other(jnp.asarray(images)), want) > 1e-4, field


# What differs from the paper, the parameters with 1000 classes, and the side
# of the maps that fc6 reads, by hand.
NO_TALK = {'talk': (), 'features.conv2': 160, 'features.fc6': 4096}
ONE_TOWER = {
  'towers': 1,
  **{'features.conv5': 256, 'features.fc6': 4096, 'features.fc7': 4096},
}
APART = {'pool.window': 2, 'pad.conv2': 1, 'pad.conv5': 0}
SIX = {
  'convs': ('conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'conv6'),
  'talk': ('conv3', 'conv6', 'fc6', 'fc7'),
}


@pytest.mark.parametrize(
  ('overrides', 'parameters', 'side'),
  [
    (RUN_145, 60_965_224, 6),
    (ONE_TOWER, 59_798_312, 6),
    (SIX, 61_555_304, 6),
    (APART, 60_965_224, 6),
    (NO_TALK, 60_714_408, 6),
  ],
  ids=['145', '145_half', '146', '147', '150'],
)
def test_parameters_and_maps_of_the_siblings(overrides, parameters, side):
  model = nnx.eval_shape(lambda: make(**overrides))
  assert count(model) == parameters
  out = jax.eval_shape(
    lambda model, x: model.activations(x),
    model,
    jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32),
  )
  last = 'conv6' if 'convs' in overrides else 'pool5'
  assert out[last][0].shape[1:3] == (side, side)
