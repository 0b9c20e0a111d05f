"""Locally connected layers, of the authors' nets for CIFAR-10."""

import jax
import jax.numpy as jnp


def locally_connected(
  x: jax.Array, kernel: jax.Array, bias: jax.Array, pad: int
) -> jax.Array:
  """A convolution whose places share no weights: each has its own kernel.

  Args:
    x: [B, H, W, in].
    kernel: [H', W', k, k, in, out].
    bias: [H', W', out].
    pad: zeros on each side.

  Returns:
    [B, H', W', out].
  """
  rows, columns, size, _, _, out = kernel.shape
  x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  taps = [
    x[:, i : i + rows, j : j + columns]
    for i in range(size)
    for j in range(size)
  ]
  patches = jnp.concatenate(taps, axis=-1)  # [B, H', W', k k in]
  matrices = kernel.reshape(rows, columns, -1, out)
  return jnp.einsum('bhwi,hwio->bhwo', patches, matrices) + bias
