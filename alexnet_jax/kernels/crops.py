"""Crops: one window of each photograph, mirrored or not (§4.1)."""

import jax
import jax.numpy as jnp
from jax import lax

from alexnet_jax.kernels import dispatch


def crops(
  images: jax.Array, corners: jax.Array, mirrored: jax.Array, size: int
) -> jax.Array:
  """Cuts a window out of each image and mirrors it where asked.

  Args:
    images: [B, H, W, 3].
    corners: int [B, 2], the top row and the left column of each window.
    mirrored: bool [B], which windows are swapped left to right.
    size: side of a window, pixels.

  Returns:
    [B, size, size, 3].
  """

  def cut(image, corner, mirror):  # [H, W, 3]
    start = (corner[0], corner[1], jnp.zeros((), corner.dtype))
    x = lax.dynamic_slice(image, start, (size, size, 3))
    return jnp.where(mirror, x[:, ::-1], x)

  def one_by_one(*rows):
    # XLA on TPUs makes a loop of the cuts anyway; in one of ours each image is
    # mirrored at once. They are laid out for convolutions, images last, while a
    # pixel is three bytes.
    cuts = lax.map(lambda row: cut(*row), rows).transpose(1, 2, 3, 0)
    return lax.optimization_barrier(cuts).transpose(3, 0, 1, 2)

  ways = {'together': jax.vmap(cut), 'one_by_one': one_by_one}
  return dispatch.by_platform('crops', ways, images, corners, mirrored)
