"""The rows of the network's table, checked: what layers get (§3.5).

A row has the size that it has at the table's width, and the std that its
weights are drawn with.
"""

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Any

from alexnet_jax.kernels import geometry
from alexnet_jax.models import table
from alexnet_jax.runtime.checks import FLOAT32, MANY, Checked, Range, choice
from alexnet_jax.runtime.errors import UserError

Power = Annotated[float, Range(0, 1000)]
Positive = Annotated[float, Range(0, FLOAT32)]
Offset = Annotated[float, Range(1e-12, FLOAT32)]  # 0 to a power may be infinite
Size = Annotated[int, Range(1, 100)]
Bias = Annotated[float, Range(-1000, 1000)]


@dataclasses.dataclass(frozen=True)
class Conv(Checked, part='model.{name}'):
  """A convolution and what follows it.

  Attributes:
    name: such as 'conv1'; 'local3' is locally connected: every place has
      kernels of its own.
    features: maps of one tower.
    kernel: side of a kernel, pixels.
    stride: pixels between windows.
    pad: zeros on each side.
    reads: 'image', its 'own' tower's maps, or those of 'both'.
    then: of `table.AFTER_CONV`, in order.
    init_std: of the initial weights.
    init_bias: the initial biases.
  """

  name: str
  features: Annotated[int, Range(1, MANY)]
  kernel: Size
  stride: Size
  pad: Annotated[int, Range(0, 100)]
  reads: Annotated[str, choice('image', 'own', 'both')]
  then: tuple[str, ...]
  init_std: float
  init_bias: Bias

  def __post_init__(self):
    super().__post_init__()
    _check_then(self, table.AFTER_CONV)
    if self.local and self.stride > 1:
      raise UserError(f'config.{self.part}.stride is 1, not {self.stride}')

  @property
  def local(self) -> bool:
    return self.name.startswith('local')

  def output(self, step: str) -> str:
    """What the output of a step of `then` is called: 'pool1'.

    An activation function that comes first belongs to the convolution.
    """
    if step == 'act' and self.then[0] == 'act':
      return self.name
    kind = {'norm': 'lrn', 'avg_pool': 'pool'}.get(step, step)
    return kind + self.name.removeprefix('conv').removeprefix('local')


@dataclasses.dataclass(frozen=True)
class Dense(Checked, part='model.{name}'):
  """A fully connected layer: `features` units of one tower, or of the last
  layer 0, for the classes; `then` of `table.AFTER_DENSE`."""

  name: str
  features: Annotated[int, Range(0, MANY)]
  reads: Annotated[str, choice('own', 'both')]
  then: tuple[str, ...]
  init_std: float
  init_bias: Bias

  def __post_init__(self):
    super().__post_init__()
    if self.features:
      _check_then(self, table.AFTER_DENSE)


@dataclasses.dataclass(frozen=True)
class ResponseNorm(Checked, part='model.lrn'):
  """Local response normalization (§3.3)."""

  enabled: bool
  size: Size
  k: Offset
  alpha: Positive
  beta: Power
  alpha_over: Annotated[str, choice('sum', 'mean')]
  across_towers: bool

  @property
  def arguments(self) -> dict[str, Any]:
    """Of `kernels.response_norm.response_norm`."""
    names = ('size', 'k', 'alpha', 'beta', 'alpha_over')
    return {name: getattr(self, name) for name in names}


@dataclasses.dataclass(frozen=True)
class MapNorm(Checked, part='model.map_norm'):
  """Response normalization within each map."""

  size: Size
  k: Offset
  alpha: Positive
  beta: Power


@dataclasses.dataclass(frozen=True)
class BatchNorm(Checked, part='model.batch_norm'):
  """Batch normalization."""

  momentum: Annotated[float, Range(0, 1)]
  epsilon: Annotated[float, Range(1e-12, 1000)]


@dataclasses.dataclass(frozen=True)
class Pool(Checked, part='model.pool'):
  """Windows of a pool (§3.4), pixels."""

  window: Annotated[int, Range(1, 15)]
  stride: Annotated[int, Range(1, 15)]


@dataclasses.dataclass(frozen=True)
class Table(Checked, part='model'):
  """A network: its rows in order, and what a step of `then` stands for.

  Attributes:
    convs: the convolutions; then
    denses: the fully connected layers before
    logits: the last one.
    width: what the features of the rows were multiplied by.
  """

  name: str
  towers: Annotated[int, Range(1, 1000)]
  width: float
  convs: tuple[Conv, ...]
  denses: tuple[Dense, ...]
  logits: Dense
  activation: Annotated[str, choice(*table.ACTIVATIONS)]
  pool: Pool
  lrn: ResponseNorm | None = None
  map_norm: MapNorm | None = None
  batch_norm: BatchNorm | None = None
  dropout: Annotated[float, Range(0, 1)] = 0.0
  dropout_form: Annotated[str, choice('paper', 'inverted')] = 'paper'
  rounding: Annotated[str, choice('up', 'down')] = 'up'

  def __post_init__(self):
    super().__post_init__()
    if self.dropout == 1:
      raise UserError('config.model.dropout=1.0 leaves no unit: below 1')
    window, stride = self.pool.window, self.pool.stride
    if window < stride and self.rounding == 'up':
      # The last window may lie outside of the maps, where nothing is largest.
      raise UserError(
        f'config.model.pool.window={window} is less than its stride={stride}: '
        'take a smaller stride, or config.model.rounding=down'
      )
    if self.name != 'alexnet' and self.towers > 1:
      raise UserError(f'config.model.towers={self.towers}: {self.name} has one')
    for row in self.rows:
      if (row.reads == 'image') != (row is self.convs[0]):
        raise UserError(
          f'config.{row.part}.reads={row.reads!r}: conv1 reads the '
          "'image', every other layer its 'own' tower or 'both'"
        )
    for conv in self.convs:
      self._check_steps(conv)
    for dense in self.denses:
      self._check_steps(dense)
    if self.logits.reads != 'both':
      raise UserError(
        f'config.{self.logits.part}.reads={self.logits.reads!r}: the classes '
        "are of 'both' towers"
      )

  def _check_steps(self, row: Conv | Dense) -> None:
    lacks = {
      'norm': self.lrn is None,
      'map_norm': self.map_norm is None,
      'batch_norm': self.batch_norm is None,
      'dropout': self.name != 'alexnet',
    }
    for step in row.then:
      if lacks.get(step):
        raise UserError(
          f'config.{row.part}.then={row.then}: {self.name} has no {step!r}'
        )
    if {'pool', 'avg_pool'} <= set(row.then):
      raise UserError(
        f"config.{row.part}.then={row.then}: take 'pool' or 'avg_pool'"
      )

  @property
  def rows(self) -> tuple[Conv | Dense, ...]:
    """All layers with weights, in order."""
    return (*self.convs, *self.denses, self.logits)

  @property
  def norm(self) -> ResponseNorm:
    """Of a network that has the step 'norm'."""
    assert self.lrn is not None
    return self.lrn

  @property
  def has_norm(self) -> bool:
    """Whether the step 'norm' does anything."""
    return self.lrn is not None and self.lrn.enabled

  def steps(self, row: Conv) -> tuple[str, ...]:
    """Of `row.then`, those that do something."""
    return tuple(s for s in row.then if s != 'norm' or self.has_norm)

  def sides(self, image_size: int) -> Iterator[tuple[int, int]]:
    """Side of each convolution's maps, and of what its steps leave of them.

    Args:
      image_size: side of the views, pixels.

    Raises:
      UserError: the views are too small.
    """
    up = self.rounding == 'up'
    count = geometry.output_size if up else geometry.full_size
    side = image_size
    for row in self.convs:
      try:
        convolved = side = count(side, row.kernel, row.stride, row.pad)
        if {'pool', 'avg_pool'} & set(row.then):
          side = count(side, self.pool.window, self.pool.stride)
      except UserError as error:
        raise UserError(
          f'config.augment.crop_size={image_size} is too small for {row.name}: '
          f'{error}'
        ) from None
      yield convolved, side

  def kernels(
    self, num_classes: int, image_size: int
  ) -> Iterator[tuple[Conv | Dense, tuple[int, ...]]]:
    """Each row, and the shape of one tower's kernel.

    Args:
      num_classes: outputs of the last layer.
      image_size: side of the views, pixels.

    Yields:
      [k, k, in, out] of a convolution, [H', W', k, k, in, out] of one that is
      locally connected, [in, out] of what is fully connected.
    """
    inputs = 3
    sides = list(self.sides(image_size))
    for row, (side, _) in zip(self.convs, sides, strict=True):
      places = (side, side) if row.local else ()
      shape = (row.kernel, row.kernel, self._read(row, inputs), row.features)
      yield row, (*places, *shape)
      inputs = row.features
    # The first fully connected layer reads all that is left of the maps.
    inputs *= sides[-1][1] ** 2
    for dense in self.denses:
      yield dense, (self._read(dense, inputs), dense.features)
      inputs = dense.features
    # Split by input: a tower multiplies its own part.
    yield self.logits, (inputs, num_classes)

  def _read(self, row: Conv | Dense, inputs: int) -> int:
    """Inputs of a row, whose own tower has `inputs` for it."""
    return inputs * (self.towers if row.reads == 'both' else 1)


def _check_then(row: Conv | Dense, steps: tuple[str, ...]) -> None:
  then = row.then
  if len(set(then)) < len(then) or not {'act'} <= set(then) <= set(steps):
    raise UserError(
      f"config.{row.part}.then={then}: 'act' and some of {steps[1:]}, each "
      'once, in any order'
    )
