"""What computing in bfloat16 leaves in float32: LRN's sums and fc8's.

Each layer against NumPy float64 on what the layer before it gave: then only
its own roundings are between them. A bfloat16 has 8 binary digits, so one
rounding moves a number by at most 2 ** -8 of it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import step_layers
from conftest import max_norm_error
from flax import nnx
from test_whole_steps import BATCH, CLASSES, CROP, make_config, make_weights

from alexnet_jax.kernels.response_norm import response_norm
from alexnet_jax.models.alexnet import AlexNet
from alexnet_jax.models.networks import read_table

pytestmark = pytest.mark.usefixtures('cached')

ROUNDING = 2.0**-8
PARTS = 'kernel', 'bias'
LRN = {'size': 5, 'k': 2.0, 'alpha': 1e-4, 'beta': 0.75, 'alpha_over': 'sum'}


def wide(x):
  return np.asarray(x).astype(np.float64)


def narrow(x):
  """As the network computes with it."""
  return x.astype(jnp.bfloat16).astype(np.float64)


def assert_rounded_once(got, want):
  """A float32 that is wrong in its last digits may round the other way."""
  error = np.abs(wide(got) - want)
  allowed = 1.001 * ROUNDING * np.abs(want) + 1e-6 * np.abs(want).max()
  assert (error <= allowed).all(), (error / allowed).max()


def test_each_layer_is_numpys_but_for_its_roundings():
  config = make_config().model
  config.dropout = 0.5
  table = read_table(config.to_dict())
  graphdef, shapes = nnx.split(
    nnx.eval_shape(
      lambda: AlexNet(
        table, CLASSES, CROP, dtype='bfloat16', rngs=nnx.Rngs(params=0)
      )
    )
  )
  weights = make_weights(shapes)
  params = jax.tree_util.tree_map_with_path(
    lambda path, _: jnp.asarray(weights[path[0].key][path[1].key]), shapes
  )
  images = 60 * np.random.default_rng(0).normal(size=(BATCH, CROP, CROP, 3))
  # Else XLA leaves out roundings between two layers, which is no harm, but
  # nothing that a layer gave to the next would be seen.
  exact = {'xla_allow_excess_precision': False}

  def activations(params, images):
    return nnx.merge(graphdef, params).activations(images)

  with jax.numpy_dtype_promotion('standard'):
    out = jax.jit(activations, compiler_options=exact)(
      params, jnp.asarray(images, jnp.float32)
    )
  for name in ('lrn1', 'lrn2'):
    for x, got in zip(out[f'conv{name[-1]}'], out[name], strict=True):
      assert got.dtype == jnp.bfloat16
      assert_rounded_once(got, step_layers.lrn(wide(x), **LRN)[0])
  for name in ('fc6', 'fc7'):
    before = {'fc6': 'pool5', 'fc7': 'fc6'}[name]
    xs = [wide(x).reshape(BATCH, -1) for x in out[before]]
    x = np.concatenate(xs, -1)
    for tower, got in enumerate(out[name]):
      kernel, bias = (narrow(weights[name][p][tower]) for p in PARTS)
      want = np.maximum(x @ kernel + bias, 0) / 2
      # The product, and the sum with the bias.
      assert max_norm_error(wide(got), want) <= 2 * ROUNDING, name
  kernel = narrow(weights['fc8']['kernel'])
  halves = [wide(x) @ kernel[t] for t, x in enumerate(out['fc7'])]
  assert out['fc8'].dtype == jnp.float32
  want = sum(halves) + weights['fc8']['bias']
  assert max_norm_error(out['fc8'], want) <= 1e-5


@pytest.mark.parametrize('platform', ['default', 'tpu'])
def test_lrn_and_its_gradient_round_once(lowered_for, platform):
  lowered_for(platform)
  rng = np.random.default_rng(0)
  x, g = (
    jnp.asarray(scale * rng.normal(size=(2, 3, 3, 16)), jnp.bfloat16)
    for scale in (100, 1)
  )
  with jax.numpy_dtype_promotion('standard'):
    got, pull = jax.vjp(lambda x: response_norm(x, **LRN), x)
    (gradient,) = pull(g)
  want, back = step_layers.lrn(wide(x), **LRN)
  assert_rounded_once(got, want)
  assert_rounded_once(gradient, back(wide(g))[0])
