"""The two towers of §3.2 and the only ways they talk.

A value that lives on towers is a list with one array per tower held here. On
a mesh, each device holds the towers that its slice of axis 'tower' holds;
without one (`axis` None), all of them are here.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

AXIS = 'tower'


class TowerParam(nnx.Param):
  """A parameter with a leading axis of size `towers`: a slice per tower."""


class TowerAverage(nnx.BatchStat):
  """Likewise, of what training averages and no gradient moves."""


def exchange(
  xs: list[jax.Array],
  axis: str | None,
  dtype: str | None = None,
  rows: bool = False,
) -> jax.Array:
  """Every tower's maps to every tower: the talk before conv3, fc6 and fc7.

  Args:
    xs: one [B, ..., channels] per local tower.
    axis: the mesh axis that towers are spread over; None: all are local.
    dtype: what maps, and their gradients, are rounded to on the way.
    rows: `axis` spreads the rows instead, and all towers are local.

  Returns:
    [B, ..., towers * channels], in the order of the towers; the rows of all
    devices with `rows`.
  """
  x = jnp.concatenate(xs, axis=-1)
  sent = x if dtype is None else x.astype(dtype)
  if axis is not None and lax.axis_size(axis) > 1:
    if rows:
      sent = lax.all_gather(sent, axis, axis=0, tiled=True)
    else:
      # Along a new first axis, for XLA would lay out what comes before in the
      # order of what is gathered along: channels, last in every other layer.
      sent = lax.all_gather(sent, axis)  # [towers' devices, B, ..., channels]
      sent = jnp.moveaxis(sent, 0, -2)
      sent = sent.reshape(*sent.shape[:-2], -1)
  return sent.astype(x.dtype)


def regroup(
  xs: list[jax.Array], axis: str | None, dtype: str | None = None
) -> list[jax.Array]:
  """From all towers on some rows to some towers on all rows, as fc6 needs
  them that reads its own tower where `axis` spreads the rows.

  Args:
    xs: one [b, channels] per tower, the rows of this device.
    axis: the mesh axis; None: all is local.
    dtype: what maps, and their gradients, are rounded to on the way.

  Returns:
    One [B, channels] per tower of this device, the rows of all.
  """
  if axis is None or lax.axis_size(axis) == 1:
    return xs
  x = jnp.stack(xs)
  sent = x if dtype is None else x.astype(dtype)
  return list(lax.all_to_all(sent, axis, 0, 1, tiled=True).astype(x.dtype))


def total(xs: list[jax.Array], axis: str | None) -> jax.Array:
  """The sum over all towers, the same on each: what fc8 ends with.

  Args:
    xs: one array per local tower, all of one shape.
    axis: the mesh axis that towers are spread over; None: all are local.
  """
  x = sum(xs[1:], start=xs[0])
  return x if axis is None else lax.psum(x, axis)


def indices(local: int, axis: str | None) -> list[jax.Array | int]:
  """Global numbers of the `local` towers held here."""
  first = 0 if axis is None else lax.axis_index(axis) * local
  return [first + i for i in range(local)]
