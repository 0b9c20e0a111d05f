"""One description of a network, from its table alone: shapes, parameters,
neurons, FLOPs, and what its towers must send each other (figure 2, §3.2)."""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np

from alexnet_jax.models.rows import Conv, Table
from alexnet_jax.models.towers import Towers


@dataclasses.dataclass(frozen=True)
class Step:
  """What follows a layer, without weights of its own.

  Attributes:
    name: of its output, such as 'pool1'.
    kind: of `table.AFTER_CONV`.
    shape: (height, width, maps) of one tower, after it.
  """

  name: str
  kind: str
  shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Layer:
  """One layer with weights, and the steps after it.

  Attributes:
    name: 'conv1' to 'fc8'.
    towers: of the network.
    kernel: of one tower, as `Table.kernels` has it.
    stride: pixels between windows; 1 where there are none.
    pad: zeros on each side of the maps.
    input: (height, width, maps) or (numbers,) that one tower reads.
    output: (height, width, maps) or (units,) of one tower; the last layer's
      are the logits, which all towers make together.
    reads_both: it reads the maps of all towers.
    is_logits: it is the last.
    then: the steps after it, in order.
    parameters: weights and biases over all towers.
  """

  name: str
  towers: int
  kernel: tuple[int, ...]
  stride: int
  pad: int
  input: tuple[int, ...]
  output: tuple[int, ...]
  reads_both: bool
  is_logits: bool
  then: tuple[Step, ...]
  parameters: int

  @property
  def after(self) -> tuple[int, ...]:
    """`output`, after the steps."""
    return self.then[-1].shape if self.then else self.output

  @property
  def edges(self) -> tuple[int, int]:
    """Zeros before and after the maps, along either axis, which makes its
    windows fit; less than 0: pixels that no window covers."""
    reach = (self.output[0] - 1) * self.stride + self.kernel[-4]
    return self.pad, reach - self.input[0] - self.pad

  @property
  def neurons(self) -> int:
    """Outputs over all towers."""
    return math.prod(self.output) * (1 if self.is_logits else self.towers)

  @property
  def forward_flops(self) -> int:
    """Floating-point operations of its products for one image, over all
    towers; a multiplication and an addition are two.

    Biases, response norm, pooling, dropout and the update are not counted:
    0.3 % of the whole.
    """
    local = len(self.kernel) > 4  # it has kernels of its own at every place
    places = 1 if local else math.prod(self.output[:-1])
    return 2 * self.towers * places * math.prod(self.kernel)

  @property
  def training_flops(self) -> int:
    """Forward, the gradient of the weights and, but for conv1, of the input:
    each as many."""
    return self.forward_flops * (2 if self.name == 'conv1' else 3)


def describe(table: Table, num_classes: int, image_size: int) -> list[Layer]:
  """Every layer with weights, in order; nothing is computed.

  Args:
    table: of the network.
    num_classes: outputs of the last layer.
    image_size: side of the views, pixels.

  Raises:
    UserError: the views are too small.
  """
  layers = []
  shape: tuple[int, ...] = (image_size, image_size, 3)
  sides = table.sides(image_size)
  for row, kernel in table.kernels(num_classes, image_size):
    steps: tuple[Step, ...] = ()
    biases = table.towers * kernel[-1]
    if isinstance(row, Conv):
      read = (*shape[:2], kernel[-2])
      side, left = next(sides)
      output: tuple[int, ...] = (side, side, row.features)
      steps = tuple(_steps(table, row, side, left))
      biases *= side**2 if row.local else 1
      biases += 2 * table.towers * row.features * ('batch_norm' in row.then)
    else:
      read, output = kernel[:1], kernel[-1:]
    last = row is table.logits
    layers.append(
      Layer(
        name=row.name,
        towers=table.towers,
        kernel=kernel,
        stride=row.stride if isinstance(row, Conv) else 1,
        pad=row.pad if isinstance(row, Conv) else 0,
        input=read,
        output=output,
        reads_both=row.reads == 'both' and not last,
        is_logits=last,
        then=steps,
        parameters=table.towers * math.prod(kernel)
        + (num_classes if last else biases),
      )
    )
    shape = layers[-1].after
  return layers


def _steps(table: Table, row: Conv, side: int, left: int) -> Iterator[Step]:
  for step in table.steps(row):
    side = left if step in ('pool', 'avg_pool') else side
    if row.output(step) != row.name:
      yield Step(row.output(step), step, (side, side, row.features))


def needed_bytes(
  layers: Sequence[Layer],
  table: Table,
  towers: Towers,
  spread: int,
  dtype: str,
) -> dict[tuple[str, str], int]:
  """Bytes a device must receive per image, by (layer, 'forward'|'backward').

  A layer that reads all towers needs the maps of those that live elsewhere,
  and gives back their gradient. The last layer needs the others' part of the
  logits, and gives back nothing.

  Args:
    layers: of `describe`.
    table: of the network.
    towers: how they share the devices.
    spread: devices that the towers are spread over.
    dtype: what is computed in.
  """
  sent = dtype if towers.exchange_dtype == 'float32' else towers.exchange_dtype
  width = 2 if sent == 'bfloat16' else np.dtype(sent).itemsize
  read: dict[str, int] = {}  # numbers of all towers, by who reads them
  for number, layer in enumerate(layers):
    conv = len(layer.kernel) > 2
    first = not conv and len(layers[number - 1].kernel) > 2
    if layer.reads_both and not (conv and towers.owt):
      read[layer.name] = math.prod(layer.input)
    elif first and towers.owt:
      # Of one tower at least, on the rows of all.
      read[layer.name] = math.prod(layer.input) * layer.towers // spread
    if table.lrn and table.lrn.across_towers and not towers.owt:
      read |= {
        step.name: math.prod(step.shape) * layer.towers
        for step in layer.then
        if step.kind == 'norm'
      }
  needs = {}
  for name, numbers in read.items():
    others = numbers * width * (spread - 1) // spread
    needs[name, 'forward'] = needs[name, 'backward'] = others
  # Each sum of the logits goes out again: for two towers, the other's part.
  logits = 4 * math.prod(layers[-1].output)
  needs[layers[-1].name, 'forward'] = 2 * logits * (spread - 1) // spread
  return needs
