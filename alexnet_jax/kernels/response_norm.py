"""Response normalization (§3.3): across a tower's maps, and within a map."""

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from alexnet_jax.kernels import tpu, windows
from alexnet_jax.runtime.errors import UserError


def lrn(
  x: jax.Array,
  *,
  size: int = 5,
  k: float = 2.0,
  alpha: float = 1e-4,
  beta: float = 0.75,
  alpha_over: Literal['sum', 'mean'] = 'sum',
) -> jax.Array:
  """Local response normalization across channels (§3.3).

  `x / (k + alpha * s) ** beta`, s over the `size` nearest channels (fewer at
  the border).

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

  Raises:
    UserError: another `alpha_over`.
  """
  return _lrn(x, size, k, scale_of(alpha, size, alpha_over), beta)


def scale_of(alpha: float, size: int, alpha_over: str) -> float:
  """What multiplies the sum of squares.

  Raises:
    UserError: another `alpha_over`.
  """
  if alpha_over not in ('sum', 'mean'):
    raise UserError(f"alpha_over is 'sum' or 'mean', not {alpha_over!r}")
  return alpha if alpha_over == 'sum' else alpha / size


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _lrn(x: jax.Array, size: int, k: float, scale: float, beta: float):
  """Differentiated by hand, for autodiff keeps every shifted sum: keeps `x`
  alone, and the backward pass has one more window instead of five."""
  return _by_platform(values, x, size=size, k=k, scale=scale, beta=beta)


def _by_platform(function: Callable, *args: jax.Array, **choice):
  return lax.platform_dependent(
    *args,
    tpu=functools.partial(tpu.apart(function), window=tpu.banded, **choice),
    default=functools.partial(function, window=shifted, **choice),
  )


def shifted(x: jax.Array, before: int, size: int) -> jax.Array:
  """Sums over windows of channels, wherever there is no better way."""
  return _around(x, -1, before, size)


def values(x, window, size, k, scale, beta):
  """LRN as its formula, `window` being what adds up channels."""
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  d = k + scale * window(wide * wide, size // 2, size)
  return (wide * _power(d, beta)[0]).astype(x.dtype)


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


def _lrn_forward(x, size, k, scale, beta):
  return _lrn(x, size, k, scale, beta), x


def _lrn_backward(size, k, scale, beta, x, g):
  choice = {'size': size, 'k': k, 'scale': scale, 'beta': beta}
  return (_by_platform(gradient, x, g, **choice),)


def gradient(x, g, window, size, k, scale, beta):
  """Of the sum of `values(x, ...) * g`, by `x`."""
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  g = g.astype(wide.dtype)
  d = k + scale * window(wide * wide, size // 2, size)
  factor, inverse = _power(d, beta)
  # A channel is in the window of those that are in its mirrored window.
  inner = window(g * wide * factor * inverse, (size - 1) // 2, size)
  return (g * factor - 2 * beta * scale * wide * inner).astype(x.dtype)


_lrn.defvjp(_lrn_forward, _lrn_backward)


def map_norm(
  x: jax.Array,
  *,
  size: int,
  k: float = 1.0,
  alpha: float,
  beta: float = 0.75,
) -> jax.Array:
  """Response normalization within a map, of the authors' programs.

  `x / (k + alpha / size^2 * s) ** beta`, s the sum of squares over the `size`
  by `size` places around, those outside being zero.

  Args:
    x: [B, H, W, channels].
    size: side of the neighbourhood, pixels.
    k: the constant under the power.
    alpha: weight of the squares, divided by `size**2` first.
    beta: the power.

  Returns:
    The shape and dtype of `x`; sums are taken in float32.
  """
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  total = wide * wide
  for axis in (1, 2):
    total = _around(total, axis, size // 2, size)
  factor, _ = _power(k + alpha / size**2 * total, beta)
  return (wide * factor).astype(x.dtype)
