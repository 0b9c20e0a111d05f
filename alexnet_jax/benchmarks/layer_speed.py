"""Where a step's time goes: each layer by itself, as this program lowers it
and, in turn, as its formula with JAX's own gradients."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax

from alexnet_jax.benchmarks import timing
from alexnet_jax.benchmarks.results import Row
from alexnet_jax.benchmarks.timing import Contender, Spread
from alexnet_jax.kernels.convolution import plain_convolution
from alexnet_jax.kernels.locally_connected import locally_connected
from alexnet_jax.kernels.pooling import (
  average_pooling,
  max_pooling,
  plain_max_pooling,
)
from alexnet_jax.kernels.response_norm import (
  map_norm,
  plain_response_norm,
  response_norm,
)
from alexnet_jax.models import layers
from alexnet_jax.models.describe import describe
from alexnet_jax.runtime.writers import Progress
from alexnet_jax.training.settings import Settings


class TimedLayer(NamedTuple):
  """One layer of one tower.

  Attributes:
    name: as `AlexNet.activations` has it.
    ours: the layer as the network computes it where no step is joined to it.
    plain: its formula.
    args: shapes of what both take.
    operations: of its products, forward; 0 where there are none.
  """

  name: str
  ours: Callable[..., jax.Array]
  plain: Callable[..., jax.Array]
  args: tuple[jax.ShapeDtypeStruct, ...]
  operations: int = 0

  @property
  def wanted(self) -> tuple[int, ...]:
    """Of which `args` a step needs gradients: not of the photographs."""
    return tuple(range(int(self.name == 'conv1'), len(self.args)))


def measure_layers(
  settings: Settings, num_classes: int, repeats: int
) -> list[Row]:
  """Measures each layer of one tower, on one device, in both ways.

  Args:
    settings: of `configure`; `batch_size` is measured.
    num_classes: outputs of fc8.
    repeats: samples of each.

  Returns:
    A row for each layer: seconds of a forward pass, and of what training
    takes, a forward pass with all the gradients that a step needs.
  """
  rows, wanted = [], list(list_layers(settings, num_classes))
  with Progress(len(wanted), 'layers') as progress:
    for layer in wanted:
      rows.append(_measure(layer, settings, repeats))
      progress.update(1, layer.name)
  return rows


def _measure(layer: TimedLayer, settings: Settings, repeats: int) -> Row:
  row = timing.describe_run('layers', settings, repeats)
  row['name'] = layer.name
  with jax.default_matmul_precision(settings.matmul_precision):
    samples = timing.alternate(_contenders(layer), repeats, show=False)
  for name, taken in samples.items():
    seconds = Spread.of([sample['seconds'] for sample in taken])
    row |= seconds.fields(f'{name}_seconds')
  if layer.operations:
    # The bias, the last of what is wanted, takes no products.
    for name, times in (('forward', 1), ('training', len(layer.wanted))):
      rate = times * layer.operations / row[f'{name}_seconds']
      row[f'{name}_gflops'] = rate / 1e9
  return row


def list_layers(settings: Settings, num_classes: int) -> Iterator[TimedLayer]:
  """Weighted layers, norms and pooling, but batch normalization, whose sums
  are of all devices, and activations. What has one way is both of its own."""
  table, batch = settings.model, settings.batch_size
  size = settings.augment.crop_size
  rows = {row.name: row for row in table.convs}
  norm = table.lrn.arguments if table.lrn else {}
  ways: dict[str, tuple[Any, Any, Mapping[str, Any]]] = {
    'norm': (response_norm, plain_response_norm, norm),
    'pool': (max_pooling, plain_max_pooling, vars(table.pool)),
    'avg_pool': (average_pooling, average_pooling, vars(table.pool)),
  }
  if table.map_norm:
    ways['map_norm'] = (map_norm, map_norm, vars(table.map_norm))

  def shapes(*sizes: tuple[int, ...]) -> tuple[jax.ShapeDtypeStruct, ...]:
    return tuple(jax.ShapeDtypeStruct(s, settings.dtype) for s in sizes)

  for layer in describe(table, num_classes, size):
    ours: Any = _dense
    plain: Any = _dense
    bias = layer.kernel[-1:]
    row = rows.get(layer.name)
    if row and row.local:
      ours = plain = functools.partial(locally_connected, pad=row.pad)
      bias = layer.output
    elif row:
      ours = functools.partial(_conv, row=row, rounding=table.rounding)
      plain = functools.partial(
        _plain_conv, stride=row.stride, edges=(layer.edges, layer.edges)
      )
    yield TimedLayer(
      layer.name,
      ours,
      plain,
      shapes((batch, *layer.input), layer.kernel, bias),
      batch * layer.forward_flops // layer.towers,
    )
    before = layer.output
    for step in layer.then:
      if step.kind in ways:
        ours, plain, options = ways[step.kind]
        yield TimedLayer(
          step.name,
          functools.partial(ours, **options),
          functools.partial(plain, **options),
          shapes((batch, *before)),
        )
      before = step.shape


def _contenders(layer: TimedLayer) -> list[Contender]:
  keys = jax.random.split(jax.random.key(0), len(layer.args))
  args = [
    jax.random.normal(key, arg.shape, arg.dtype)
    for key, arg in zip(keys, layer.args, strict=True)
  ]
  y = jax.eval_shape(layer.ours, *args)
  g = jax.random.normal(jax.random.key(1), y.shape, y.dtype)

  def training(function, g, *args):
    def of_wanted(*wanted):
      return function(*args[: -len(wanted)], *wanted)

    y, gradients = jax.vjp(of_wanted, *(args[i] for i in layer.wanted))
    return y, gradients(g)

  return [
    Contender(name, functools.partial(_time, jax.jit(program), given))
    for plain, function in (('', layer.ours), ('plain_', layer.plain))
    for name, program, given in (
      (f'{plain}forward', function, args),
      (f'{plain}training', functools.partial(training, function), [g, *args]),
    )
  ]


def _time(program, args, times: int) -> timing.Sample:
  return {'seconds': timing.time_calls(lambda: program(*args), times)}


def _dense(x, kernel, bias):
  return x @ kernel + bias


def _conv(x, kernel, bias, row, rounding):
  return layers.conv(x, kernel, row, rounding) + bias


def _plain_conv(x, kernel, bias, stride, edges):
  return plain_convolution(x, kernel, stride, edges) + bias
