"""The two towers of §3.2: where they live, and the only ways they talk.

A value that lives on towers is a list with one array per tower held here. On
the mesh ('data', 'tower'), each device holds the towers that its slice of axis
'tower' holds; without one, all of them are here.
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from alexnet_jax.runtime.checks import Checked, choice
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.runtime.sharding import DATA, are_virtual

TOWER = 'tower'
Maps = list[jax.Array]  # one array per local tower


class TowerParam(nnx.Param):
  """A parameter with a leading axis of size `towers`: a slice per tower."""


class TowerAverage(nnx.BatchStat):
  """Likewise, of what training averages and no gradient moves."""


@dataclasses.dataclass(frozen=True)
class Towers(Checked, part='mesh'):
  """How the towers of a network share the devices: `config.mesh`.

  Attributes:
    axis: the mesh axis they are spread over, inside `shard_map`; None: all
      of them are here.
    parallelism: 'towers', a tower's layers where the tower is; 'owt', the
      convolutions of all towers on each device, on its own rows of the batch,
      and the fully connected layers of its own tower on the rows of all
      (Krizhevsky, *One weird trick*, 2014).
    exchange_dtype: what maps and their gradients are rounded to on the way;
      'float32': as computed.
  """

  axis: str | None = None
  parallelism: Annotated[str, choice('towers', 'owt')] = 'towers'
  exchange_dtype: Annotated[str, choice('float32', 'float16', 'bfloat16')] = (
    'float32'
  )

  @property
  def owt(self) -> bool:
    return self.parallelism == 'owt'

  @property
  def batch_axes(self) -> tuple[str, ...]:
    """The mesh axes that the rows of a batch are spread over."""
    return (DATA, TOWER) if self.owt else (DATA,)

  @property
  def rows_over(self) -> tuple[str, ...]:
    """Inside `shard_map`, `batch_axes`; outside of it none."""
    return self.batch_axes if self.axis else ()

  @property
  def spread(self) -> bool:
    """Whether towers are on several devices."""
    return self.axis is not None and lax.axis_size(self.axis) > 1

  def read_maps(self, xs: Maps, reads: str) -> Maps:
    """What a convolution reads on each local tower: its 'own' maps
    [b, H, W, C], or those of 'both' [b, H, W, towers * C] in their order."""
    if reads != 'both':
      return xs
    return self._join(xs, len(xs), spread=self.spread and not self.owt)

  def read_units(self, xs: Maps, reads: str, first: bool, here: int) -> Maps:
    """What a fully connected layer reads on each local tower.

    Args:
      xs: [b, C] per tower.
      reads: 'own' or 'both'.
      first: it is the first such layer, which with 'owt' gathers rows.
      here: towers held here by the fully connected layers.

    Returns:
      [B, C] or [B, towers * C] per tower held here.
    """
    rows = self.owt and first and self.spread
    if reads == 'both':
      return self._join(xs, here, spread=self.spread, rows=rows)
    return self._regroup(xs) if rows else xs

  def sum_halves(self, xs: Maps) -> jax.Array:
    """The sum over all towers, the same on each: what fc8 ends with."""
    x = sum(xs[1:], start=xs[0])
    return x if self.axis is None else lax.psum(x, self.axis)

  def numbers(self, here: int, convs: bool = False) -> list[jax.Array | int]:
    """Which of all towers the `here` local ones are, with 'owt' those of the
    fully connected layers, or of the `convs`."""
    all_here = self.axis is None or (convs and self.owt)
    first = 0 if all_here else lax.axis_index(self.axis) * here
    return [first + i for i in range(here)]

  def _join(
    self, xs: Maps, readers: int, spread: bool, rows: bool = False
  ) -> Maps:
    """Every tower's maps side by side, for each of the towers here that read
    them: the exchange before conv3, fc6, fc7."""
    x = jnp.concatenate(xs, axis=-1)
    sent = self._rounded(x)
    if spread and rows:
      sent = lax.all_gather(sent, self.axis, axis=0, tiled=True)
    elif spread:
      # Along a new first axis, for XLA would lay out what comes before in the
      # order of what is gathered along: channels, last in every other layer.
      sent = lax.all_gather(sent, self.axis)  # [devices, B, ..., channels]
      sent = jnp.moveaxis(sent, 0, -2)
      sent = sent.reshape(*sent.shape[:-2], -1)
    # The gradient of each reader is rounded before their sum, here or on the
    # way between devices.
    return [sent.astype(x.dtype) for _ in range(readers)]

  def _regroup(self, xs: Maps) -> Maps:
    """From all towers on some rows to some towers on all rows."""
    x = jnp.stack(xs)
    sent = lax.all_to_all(self._rounded(x), self.axis, 0, 1, tiled=True)
    return list(sent.astype(x.dtype))

  def _rounded(self, x: jax.Array) -> jax.Array:
    own = self.exchange_dtype == 'float32'
    return x if own else x.astype(self.exchange_dtype)


# -- the mesh


@dataclasses.dataclass(frozen=True)
class MeshShape:
  """The mesh that a network runs on: `config.mesh`.

  Attributes:
    data: size of axis 'data'; -1: what is left, on the CPUs of one process 1.
    towers: size of axis 'tower'; a single accelerator holds all towers.
    parallelism: of `Towers`.
    exchange_dtype: of `Towers`.
  """

  data: int
  towers: int
  parallelism: str = 'towers'
  exchange_dtype: str = 'float32'

  def __post_init__(self):
    self.make_towers()
    if self.data == 0 or self.data < -1:
      raise UserError(f'config.mesh.data={self.data}: use -1 or at least 1')

  def make_towers(self) -> Towers:
    """How towers share the devices of this mesh."""
    return Towers(TOWER, self.parallelism, self.exchange_dtype)

  def make_mesh(
    self, model_towers: int, devices: Sequence[jax.Device] | None = None
  ) -> Mesh:
    """The mesh ('data', 'tower') on the devices there are.

    Args:
      model_towers: towers of the network.
      devices: all of them by default.

    Raises:
      UserError: there are fewer devices, or the sizes make no sense.
    """
    devices = jax.devices() if devices is None else devices
    data, towers = self.data, self.towers
    if towers < 1 or model_towers % towers:
      raise UserError(
        f'config.mesh.towers={towers} cannot hold the {model_towers} tower(s) '
        f'of config.model.towers: use 1 or {model_towers}'
      )
    if len(devices) == 1 and data <= 1:
      towers = 1
    if data == -1:
      virtual = are_virtual(devices)
      data = 1 if virtual else max(len(devices) // towers, 1)
    wanted = data * towers
    if wanted > len(devices):
      names = ', '.join(str(device) for device in devices)
      raise UserError(
        f'config.mesh.data={data} x config.mesh.towers={towers} asks for '
        f'{wanted} devices, but there are {len(devices)}: {names}. Lower either'
      )
    if wanted < len(devices) and jax.process_count() > 1:
      raise UserError(
        f'config.mesh uses {wanted} of {len(devices)} devices; with several '
        f'processes it must use all: set config.mesh.data to '
        f'{len(devices) // towers}, or start fewer processes'
      )
    grid = np.asarray(devices[:wanted]).reshape(data, towers)
    return Mesh(grid, (DATA, TOWER), axis_types=(AxisType.Explicit,) * 2)


def describe_mesh(mesh: Mesh, model_towers: int, owt: bool = False) -> str:
  """Which tower and which share of the batch each device has, as a table.

  Args:
    mesh: of `MeshShape.make_mesh`.
    model_towers: towers of the network.
    owt: the batch lies over axis 'tower', too, up to fc6.
  """
  data, spread = mesh.devices.shape
  each = model_towers // spread
  lines = [f'mesh: data {data} x tower {spread}, {mesh.devices[0, 0].platform}']
  for row in range(data):
    for column in range(spread):
      held = [str(i + 1) for i in range(column * each, (column + 1) * each)]
      device = mesh.devices[row, column]
      lines.append(
        f'  {device} (process {device.process_index}): '
        f'tower {" and ".join(held)} of {model_towers}, '
        f'part {row + 1} of {data} of the batch'
      )
  if owt:
    lines.append(
      "  'owt': before fc6 a device has all towers, on its share of that part"
    )
  if spread < model_towers and mesh.size == 1:
    lines.append('  one device runs both towers; the numbers are the same')
  return '\n'.join(lines)


def variable_specs(mesh: Any, towers: Towers, variables: Any) -> Any:
  """The partition spec of each leaf of a tree of parameters or a state.

  A tower parameter's leading axis is spread over the mesh's towers; with
  'owt', only that of a fully connected layer. It is over 'data', too, where
  that has one part: the same place, but no sum of gradients over one device,
  for which XLA copies them.

  Args:
    mesh: ('data', 'tower'), abstract or not.
    towers: how they share its devices.
    variables: a tree of `nnx.Variable` and other leaves; shapes will do.
  """
  single = mesh.shape[DATA] == 1
  over = P((DATA, TOWER) if single else TOWER)

  def spec(path: Any, node: Any) -> Any:
    if not isinstance(node, nnx.Variable):
      return P()
    names = [str(getattr(key, 'key', '')) for key in path]
    whole = towers.owt and any(name.startswith('conv') for name in names)
    on_towers = isinstance(node, TowerParam | TowerAverage)
    return node.replace(over if on_towers and not whole else P())

  return jax.tree_util.tree_map_with_path(
    spec, variables, is_leaf=lambda node: isinstance(node, nnx.Variable)
  )
