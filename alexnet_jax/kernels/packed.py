"""ReLU, response normalization and max pooling for GPUs.

XLA decides what it writes to memory, and what it computes once more in place
of reading it; barriers say where it writes. The forward pass writes the
rectified maps, which the library's convolution does by itself, the normalized
ones, maxima and places. The backward pass reads a place and its gradient as
one word, and writes two maps before the second sum over channels.

Towers whose sums are one convolution's stay side by side.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from alexnet_jax.kernels import pooling, response_norm

Towers = tuple[jax.Array, ...]
_barrier = lax.optimization_barrier
_NOWHERE = 0xFFFF  # the place of a window that is not there


def relu_norm_pool(
  xs: Towers, biases: Towers, norm: Mapping[str, Any], pool: Mapping[str, int]
) -> tuple[Towers, tuple[Towers, Towers]]:
  """The maxima, and what `gradients` reads: rectified maps, and places.

  Args:
    xs: [B, H, W, channels] of each tower.
    biases: [channels] of each tower.
    norm: of `response_norm.constants`.
    pool: of `max_pooling`.
  """
  y = jnp.concatenate(xs, -1) + jnp.concatenate(biases)
  y = _barrier(jax.nn.relu(y))
  wide, factor, _ = _factors(_by_tower(y, len(xs)), **norm)
  normed = _together((wide * factor).astype(y.dtype))
  # Behind a barrier, else XLA looks for the places again in the backward pass.
  maxima, places = _barrier(
    tuple(
      zip(
        *(
          pooling.maxima_and_places(x, **pool)
          for x in jnp.split(normed, len(xs), -1)
        ),
        strict=True,
      )
    )
  )
  return maxima, (tuple(jnp.split(y, len(xs), -1)), places)


def gradients(
  xs: Towers,
  biases: Towers,
  kept: tuple[Towers, Towers],
  gs: Towers,
  norm: Mapping[str, Any],
  pool: Mapping[str, int],
) -> tuple[Towers, Towers]:
  """Gradients by `xs` and `biases`, where `gs` [B, H', W', channels] are those
  of the maxima.

  In bfloat16 the two maps in between are rounded to it, sums are not.
  """
  del biases
  ys, places = (jnp.concatenate(x, -1) for x in kept)
  # Behind a barrier, else the forward pass writes roots in float32 for here.
  y = _by_tower(_barrier(ys), len(xs))
  packed = _words(places, jnp.concatenate(gs, -1), y.shape[1:3], **pool)
  words = [_by_tower(x, len(xs)) for x in _barrier(packed)]
  wide, factor, inverse = _factors(y, **norm)
  g = _to_places(words, y.shape[1:3], **pool).astype(wide.dtype)
  inner, outer = _barrier(
    (
      (g * wide * factor * inverse).astype(y.dtype),
      (g * factor).astype(y.dtype),
    )
  )
  size, slope = norm['size'], 2 * norm['beta'] * norm['scale']
  # A channel is in the window of those that are in its mirrored window.
  inner = response_norm.shifted(inner.astype(wide.dtype), (size - 1) // 2, size)
  g = outer.astype(wide.dtype) - slope * wide * inner
  g = _barrier(_together(jnp.where(y > 0, g, 0).astype(y.dtype)))
  bias = g.sum((0, 1, 2))
  return tuple(jnp.split(g, len(xs), -1)), tuple(jnp.split(bias, len(xs)))


def _by_tower(x: jax.Array, towers: int) -> jax.Array:
  """[..., towers * channels] as [..., towers, channels]."""
  return x.reshape(*x.shape[:-1], towers, x.shape[-1] // towers)


def _together(x: jax.Array) -> jax.Array:
  return x.reshape(*x.shape[:-2], -1)


def _factors(x, size, k, scale, beta):
  """`x` in float32, `d ** -beta` and `1 / d`, where `d = k + scale * sum`."""
  wide = x.astype(np.promote_types(x.dtype, np.float32))
  d = k + scale * response_norm.shifted(wide * wide, size // 2, size)
  if beta != 0.75:
    return wide, d**-beta, 1 / d
  root = lax.rsqrt(d)  # a GPU has an instruction for it, for a root it has not
  return wide, root * root * lax.rsqrt(root), root * root


def _words(places, g, shape, window, stride) -> tuple[jax.Array, ...]:
  """Places and gradients with the windows that are not there, as one array
  where both fit 32 bits.

  `_to_places` counts places in rows of `_pitch`, so that a place outside the
  window has a number of its own.

  Args:
    places: of `maxima_and_places`, [B, H', W', C].
    g: [B, H', W', C].
    shape: (H, W) of the maps.
    window: pixels a window covers.
    stride: pixels between windows.
  """
  pitch = _pitch(window, stride)
  places = places.astype(jnp.uint32)
  places = places // window * pitch + places % window
  before = (window - 1) // stride  # windows that start earlier and reach it
  zeros = [
    (before, max(-(-extent // stride) - have, 0))
    for extent, have in zip(shape, g.shape[1:3], strict=True)
  ]

  def around(x, fill):
    edges = (0, 0), *zeros, (0, 0)
    return jnp.pad(x, edges, constant_values=np.array(fill, x.dtype))

  if g.dtype != jnp.bfloat16:
    return around(places.astype(jnp.uint16), _NOWHERE), around(g, 0)
  high = lax.bitcast_convert_type(g, jnp.uint16).astype(jnp.uint32) << 16
  return (around(high | places, _NOWHERE),)


def _to_places(words, shape, window, stride) -> jax.Array:
  """As `pooling.to_places`, [B, H, W, ...] in float32, of `_words`.

  The interleaved parts of the maps are axes of their own, so nothing is
  concatenated: each place looks at the windows that reach it.
  """
  batch, _, _, *channels = words[0].shape
  before, pitch = (window - 1) // stride, _pitch(window, stride)
  rows, columns = (-(-extent // stride) for extent in shape)
  parts = batch, rows, stride, columns, stride, *channels
  number = pitch * lax.broadcasted_iota(jnp.uint32, parts, 2)
  number += lax.broadcasted_iota(jnp.uint32, parts, 4)
  sums = []
  for i in range(before + 1):
    for j in range(before + 1):
      top, left = before - i, before - j
      places, g = _apart(
        [
          x[:, top : top + rows, None, left : left + columns, None]
          for x in words
        ]
      )
      here = places == number + np.uint32(stride * (pitch * i + j))
      sums.append(jnp.where(here, g, 0))
  total = sum(sums[1:], start=sums[0])
  x = total.reshape(batch, rows * stride, columns * stride, *channels)
  return x[:, : shape[0], : shape[1]]


def _apart(words: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
  """Places and gradients of `_words`."""
  if len(words) == 2:
    return words[0].astype(jnp.uint32), words[1]
  (word,) = words
  high = word & np.uint32(0xFFFF0000)
  return word & np.uint32(0xFFFF), lax.bitcast_convert_type(high, jnp.float32)


def _pitch(window: int, stride: int) -> int:
  return stride * (1 + (window - 1) // stride)
