"""The layers of §3 as pure functions of one tower's feature maps.

Feature maps are [batch, height, width, channels]. `kernels/` computes them.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from alexnet_jax.kernels import windows
from alexnet_jax.kernels.convolution import convolution
from alexnet_jax.kernels.dispatch import varying_alike as varying_alike
from alexnet_jax.kernels.locally_connected import locally_connected
from alexnet_jax.runtime.errors import UserError

local = locally_connected

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'relu': jax.nn.relu,  # §3.1
  'tanh': jnp.tanh,  # what §3.1 compares it with
}


def conv(x: jax.Array, kernel: jax.Array, stride: int, pad: int) -> jax.Array:
  """Convolution with the authors' ceil geometry (`windows.output_size`).

  Args:
    x: [B, H, W, in].
    kernel: [k, k, in, out].
    stride: pixels between windows.
    pad: zeros on each side, before what the last window hangs over.

  Returns:
    [B, H', W', out].
  """
  edges = tuple(
    windows.edges(extent, kernel.shape[0], stride, pad)
    for extent in x.shape[1:3]
  )
  return convolution(x, kernel, stride, edges)


def dropout(
  x: jax.Array,
  rate: float,
  keys: jax.Array | None,
  form: Literal['paper', 'inverted'] = 'paper',
) -> jax.Array:
  """Dropout (§4.2).

  The two forms are the same function only once the weights have grown to fit:
  from one initialization, 'inverted' trains with 1 / (1 - rate) larger
  activations at each such layer.

  Args:
    x: [B, features].
    rate: share of units set to zero in training.
    keys: [B] typed keys, one per example; None at test time.
    form: 'paper' multiplies by 1 - rate at test time, as §4.2 says;
      'inverted' divides by it in training.

  Returns:
    [B, features].

  Raises:
    UserError: another `form`.
  """
  if form not in ('paper', 'inverted'):
    raise UserError(
      f"model.dropout_form is 'paper' or 'inverted', not {form!r}"
    )
  if keys is None:
    return x * (1 - rate) if form == 'paper' else x
  keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(
    keys
  )
  return jnp.where(keep, x if form == 'paper' else x / (1 - rate), 0)
