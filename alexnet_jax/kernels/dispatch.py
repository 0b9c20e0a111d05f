"""Which platform computes a layer in which way.

A layer's file has its ways by name; this file alone names platforms. A
program is lowered for its own platform, whatever machine compiles it: for a
TPU, on a machine without one, it is the TPU's program. No flag chooses.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

# JAX's name of a platform, and that of its column below.
PLATFORMS = {'cpu': 'cpu', 'cuda': 'gpu', 'rocm': 'gpu', 'tpu': 'tpu'}


class Choice(NamedTuple):
  """A layer's way on each platform, by name; None: the default."""

  default: str
  cpu: str | None = None
  gpu: str | None = None
  tpu: str | None = None


# A GPU's own lowering of a layer is one more way in the layer's file, and its
# name here.
CHOICES = {
  'convolution': Choice('folded', cpu='winograd', gpu='joined', tpu='plain'),
  'relu': Choice('plain', cpu=None, gpu='written', tpu=None),
  'response_norm': Choice('shifted', cpu=None, gpu=None, tpu='banded'),
  'max_pooling': Choice('places', cpu='by_image', gpu=None, tpu='plain'),
  'relu_norm_pool': Choice('parts', cpu=None, gpu='packed', tpu='pallas'),
  'crops': Choice('together', cpu=None, gpu=None, tpu='one_by_one'),
}


def way(layer: str, platform: str, x: jax.Array) -> str:
  """Name of the way in which a platform computes a layer of `x`.

  Args:
    layer: of `CHOICES`.
    platform: 'cpu', 'gpu', 'tpu', or 'default': any other.
    x: the layer's first array.
  """
  choice = CHOICES[layer]
  name = getattr(choice, platform) or choice.default
  # A batch whose size an export leaves open cannot be cut into parts, and
  # bfloat16 has too few digits for Winograd's sums of inputs.
  if name in ('winograd', 'by_image') and not isinstance(x.shape[0], int):
    return choice.default
  if name == 'winograd' and x.dtype == jnp.bfloat16:
    return choice.default
  return name


def by_platform(
  layer: str, ways: Mapping[str, Callable[..., Any]], *arrays: Any
) -> Any:
  """The result of `ways[name](*arrays)`, in the way of the platform that the
  program is compiled for. All ways give arrays of the same shapes."""
  x = jax.tree.leaves(arrays)[0]
  default = CHOICES[layer].default
  names = {p: way(layer, ours, x) for p, ours in PLATFORMS.items()}
  others = {p: ways[name] for p, name in names.items() if name != default}
  return lax.platform_dependent(*arrays, default=ways[default], **others)


class Lowering(NamedTuple):
  """One way to compute a layer, with its gradient.

  Attributes:
    values: the layer's output, of its arrays and options.
    gradients: one for each array, of the arrays, the output's gradient and the
      options.
    keeps: `values` gives a pair: the output, and arrays that `gradients` gets
      after the others. The ways of a layer keep arrays of the same shapes.
  """

  values: Callable[..., Any]
  gradients: Callable[..., Any]
  keeps: bool = False


def autodiff(function: Callable[..., Any]) -> Lowering:
  """A function with the gradients that JAX finds."""

  def gradients(*args, **options):
    *arrays, g = args
    return jax.vjp(functools.partial(function, **options), *arrays)[1](g)

  return Lowering(function, gradients)


def differentiable(
  layer: str, lowerings: Mapping[str, Lowering], *arrays: Any, **options: Any
) -> Any:
  """A layer's output and, in a backward pass, its gradients.

  Each is a choice of its own: JAX's gradient of a choice would keep what any
  of the ways needs.

  Args:
    layer: of `CHOICES`.
    lowerings: by the name of the way.
    *arrays: what the layer has gradients for; arrays or tuples of them.
    **options: what else the lowerings take, by name.
  """

  def values(lowering, *arrays):
    y = lowering.values(*arrays, **options)
    return y if lowering.keeps else (y, ())

  def gradients(lowering, arrays, kept, g):
    kept = (kept,) if lowering.keeps else ()
    found = lowering.gradients(*arrays, *kept, g, **options)
    return found if isinstance(found, tuple) else (found,)

  def choose(direction, *args):
    ways = {
      name: functools.partial(direction, lowering)
      for name, lowering in lowerings.items()
    }
    return by_platform(layer, ways, *args)

  @jax.custom_vjp
  def compute(*arrays):
    return choose(values, *arrays)[0]

  def forward(*arrays):
    y, kept = choose(values, *arrays)
    return y, (arrays, kept)

  compute.defvjp(forward, lambda saved, g: choose(gradients, *saved, g))
  # A kernel is the same on all devices that split the batch. Made varying
  # here, its gradient is summed over them once, not in a lowering's loop.
  leaves, tree = jax.tree.flatten(arrays)
  return compute(*jax.tree.unflatten(tree, varying_alike(*leaves)))


def varying_alike(*arrays: jax.Array) -> list[jax.Array]:
  """Inside `shard_map`: all vary over every axis that one of them does."""
  own = [jax.typeof(x).mat.varying for x in arrays]
  every = frozenset().union(*own)
  return [
    lax.pcast(x, tuple(every - axes), to='varying')
    for x, axes in zip(arrays, own, strict=True)
  ]
