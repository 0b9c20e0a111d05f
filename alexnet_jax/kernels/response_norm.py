"""Response normalization (§3.3): across a tower's maps, and within a map."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from alexnet_jax.kernels import dispatch, windows


def response_norm(
  x: jax.Array,
  *,
  size: int = 5,
  k: float = 2.0,
  alpha: float = 1e-4,
  beta: float = 0.75,
  alpha_over: Literal['sum', 'mean'] = 'sum',
) -> jax.Array:
  """Local response normalization across channels (§3.3).

  `x / (k + alpha * s) ** beta`, s being the sum of squares of the `size`
  nearest channels (fewer at the border).

  Args:
    x: [..., channels], the maps of one tower only.
    size: channels in a neighbourhood, n in the paper.
    k: the constant under the power.
    alpha: weight of the squares.
    beta: the power.
    alpha_over: what alpha multiplies: the plain 'sum' of squares, as the
      paper's text has it, or their 'mean' (the sum over n), as the authors'
      program, Caffe and PyTorch have it.

  Returns:
    The shape and dtype of `x`; sums are taken in float32.
  """
  numbers = constants(size, k, alpha, beta, alpha_over)
  return dispatch.differentiable('response_norm', LOWERINGS, x, **numbers)


def plain_response_norm(x: jax.Array, **options) -> jax.Array:
  """`response_norm` as its formula, with JAX's own gradient."""
  return values(x, **constants(**options))


def constants(
  size: int = 5,
  k: float = 2.0,
  alpha: float = 1e-4,
  beta: float = 0.75,
  alpha_over: str = 'sum',
) -> dict[str, Any]:
  """`response_norm`'s options as its lowerings take them: `scale` is what
  multiplies the sum of squares."""
  scale = alpha if alpha_over == 'sum' else alpha / size
  return {'size': size, 'k': k, 'scale': scale, 'beta': beta}


def shifted(x: jax.Array, before: int, size: int) -> jax.Array:
  """For each of [..., channels] the sum over a window of `size` channels that
  starts `before` channels earlier, by shifted adds."""
  return _around(x, -1, before, size)


def banded(x: jax.Array, before: int, size: int) -> jax.Array:
  """As `shifted`, by a product with a matrix of ones along its diagonal. TPUs'
  compiler would write shifted adds to memory one by one, in float32."""
  channels = np.arange(x.shape[-1])
  distance = channels[:, None] - channels  # [from, to]
  band = (distance >= -before) & (distance < size - before)
  return lax.dot_general(
    x,
    jnp.asarray(band, x.dtype),
    (((x.ndim - 1,), (0,)), ((), ())),
    precision=lax.Precision.HIGHEST,
  )


def values(x, size, k, scale, beta, window=shifted):
  """The formula, by which [..., channels] keep their shape and dtype."""
  wide = x.astype(np.promote_types(x.dtype, np.float32))
  d = k + scale * window(wide * wide, size // 2, size)
  return (wide * _power(d, beta)[0]).astype(x.dtype)


def gradient(x, g, size, k, scale, beta, window=shifted):
  """The gradient by `x`, where `g` is that of `values`.

  JAX's own keeps every shifted sum and has five more windows; this one keeps
  `x` alone and has one more.
  """
  wide = x.astype(np.promote_types(x.dtype, np.float32))
  g = g.astype(wide.dtype)
  d = k + scale * window(wide * wide, size // 2, size)
  factor, inverse = _power(d, beta)
  # A channel is in the window of those that are in its mirrored window.
  inner = window(g * wide * factor * inverse, (size - 1) // 2, size)
  return (g * factor - 2 * beta * scale * wide * inner).astype(x.dtype)


def _around(x: jax.Array, axis: int, before: int, size: int) -> jax.Array:
  """Sums over the windows around each place, fewer at the border."""
  padding = [(0, 0)] * x.ndim
  padding[axis] = (before, size - 1 - before)
  return windows.total(jnp.pad(x, padding), axis, size)


def _power(d: jax.Array, beta: float) -> tuple[jax.Array, jax.Array]:
  """`d ** -beta` and `1 / d`."""
  if beta != 0.75:
    return d**-beta, 1 / d
  root = lax.rsqrt(d)  # two roots are many times cheaper than a power
  return root * jnp.sqrt(root), root * root


def _banded(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
  """`function` with banded windows, behind a barrier.

  Without it XLA keeps in float32, from the forward pass to the backward, what
  both compute, and writes to memory what producer and consumer share.
  """
  return lambda *arrays, **numbers: function(
    *lax.optimization_barrier(arrays), **numbers, window=banded
  )


LOWERINGS = {
  'shifted': dispatch.Lowering(values, gradient),
  'banded': dispatch.Lowering(_banded(values), _banded(gradient)),
}


def map_norm(
  x: jax.Array, *, size: int, k: float = 1.0, alpha: float, beta: float = 0.75
) -> jax.Array:
  """Response normalization within a map, of the authors' programs.

  `x / (k + alpha / size^2 * s) ** beta`, s being the sum of squares over the
  `size` by `size` places around, those outside being zero.

  Args:
    x: [B, H, W, channels].
    size: side of the neighbourhood, pixels.
    k: the constant under the power.
    alpha: weight of the squares, divided by `size**2` first.
    beta: the power.

  Returns:
    The shape and dtype of `x`; sums are taken in float32.
  """
  wide = x.astype(np.promote_types(x.dtype, np.float32))
  total = wide * wide
  for axis in (1, 2):
    total = _around(total, axis, size // 2, size)
  factor, _ = _power(k + alpha / size**2 * total, beta)
  return (wide * factor).astype(x.dtype)
