"""Where a step's time goes: each layer by itself, as this program lowers it
and, in turn, as its formula with JAX's own gradients."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from flax import nnx

from alexnet_jax.analysis import communication
from alexnet_jax.benchmarks import results, timing
from alexnet_jax.benchmarks.results import Row
from alexnet_jax.benchmarks.timing import Contender, Spread
from alexnet_jax.kernels import convolution, pooling, response_norm, windows
from alexnet_jax.training.state import Setup

Ways = tuple[Callable[..., jax.Array], Callable[..., jax.Array]]
_NORM: Ways = response_norm.response_norm, response_norm.plain_response_norm
_POOL: Ways = pooling.max_pooling, pooling.plain_max_pooling


class Layer(NamedTuple):
  """One layer of one tower.

  Attributes:
    name: as `AlexNet.activations` has it.
    ours: the layer as the network computes it.
    plain: its formula.
    args: shapes of what both take.
    operations: of its products, forward; 0 where there are none.
  """

  name: str
  ours: Callable[..., jax.Array]
  plain: Callable[..., jax.Array]
  args: tuple[jax.ShapeDtypeStruct, ...]
  operations: int

  @property
  def wanted(self) -> tuple[int, ...]:
    """Of which `args` a step needs gradients: not of the photographs."""
    return tuple(range(int(self.name == 'conv1'), len(self.args)))


def run(
  config: ml_collections.ConfigDict, classes: int, repeats: int
) -> list[Row]:
  """Measures each layer of one tower, on one device, in both ways.

  Args:
    config: as configs/default.py describes it; `batch_size` is measured.
    classes: outputs of fc8.
    repeats: samples of each.

  Returns:
    A row for each layer: seconds of a forward pass, and of what training
    takes, a forward pass with all the gradients that a step needs.
  """
  config.mesh.data = config.mesh.towers = 1
  setup = communication.abstract_setup(config, classes)
  rows = []
  for layer in of(setup):
    row = {
      'benchmark': 'layers',
      **timing.environment(),
      'name': layer.name,
      'batch': config.batch_size,
      'width': config.model.width,
      'dtype': config.dtype,
      'repeats': repeats,
    }
    for name, taken in timing.alternate(_contenders(layer), repeats).items():
      seconds = Spread.of([sample['seconds'] for sample in taken])
      row |= seconds.fields(f'{name}_seconds')
    if layer.operations:
      # The bias, the last of what is wanted, takes no products.
      for name, times in (('forward', 1), ('training', len(layer.wanted))):
        rate = times * layer.operations / row[f'{name}_seconds']
        row[f'{name}_gflops'] = rate / 1e9
    rows.append(row)
  return rows


def of(setup: Setup) -> Iterator[Layer]:
  """Convolutions, response norm, pooling and what is fully connected."""

  names: list[str] = []  # in order, which a traced dictionary loses

  def maps(params: nnx.State, images: jax.Array):
    model = nnx.merge(setup.graphdef, params)
    model.tower_axis = None
    out = model.activations(images)
    names.extend(out)
    return list(out.values())

  config = setup.config
  dtype = jnp.dtype(config.dtype)
  params = jax.eval_shape(setup.init).params
  model = nnx.merge(setup.graphdef, params)
  rows = {row.name: row for row in model.convs}
  size, batch = config.augment.crop_size, config.batch_size
  x = jax.ShapeDtypeStruct((batch, size, size, 3), dtype)
  made = jax.eval_shape(maps, params, x)
  for name, each in zip(names, made, strict=True):
    y = jax.tree.leaves(each)[0]
    if name in params:
      kernel = params[name]['kernel'].shape[1:]  # of one tower
      bias = kernel[-1:]
      ways: Ways = _dense, _dense
      shape, places, options = (batch, kernel[0]), (), {}
      if name in rows:
        ways = (
          functools.partial(_with_bias, convolution.convolution),
          functools.partial(_with_bias, convolution.plain_convolution),
        )
        shape, places = (*x.shape[:-1], kernel[-2]), y.shape[1:3]
        options = {'stride': rows[name].stride, 'pad': rows[name].pad}
      taken = tuple(
        jax.ShapeDtypeStruct(s, dtype) for s in (shape, kernel, bias)
      )
      operations = 2 * batch * math.prod((*places, *kernel))
      yield _layer(name, ways, options, taken, operations)
    elif name.startswith('lrn'):
      yield _layer(name, _NORM, model.lrn, (x,))
    elif name.startswith('pool'):
      yield _layer(name, _POOL, model.pool, (x,))
    x = jax.ShapeDtypeStruct(y.shape, dtype)


def _layer(
  name: str,
  ways: Ways,
  options: Mapping[str, Any],
  args: tuple[jax.ShapeDtypeStruct, ...],
  operations: int = 0,
) -> Layer:
  ours, plain = (functools.partial(way, **options) for way in ways)
  return Layer(name, ours, plain, args, operations)


def table(rows: Sequence[Row]) -> str:
  """What `run` found, for people to read."""
  form = '{:<8}{:>9}{:>9}{:>9}{:>9}{:>10}{:>10}'.format
  first = rows[0]
  lines = [
    results.about(first),
    f'one tower of {first["batch"]} images, width {first["width"]}, '
    f'{first["dtype"]}; ms, and GFLOP/s of ours',
    form('', 'forward', 'plain', 'training', 'plain', 'forward', 'training'),
  ]
  for row in rows:
    times = (
      f'{1e3 * row[f"{plain}{name}_seconds"]:.1f}'
      for name in ('forward', 'training')
      for plain in ('', 'plain_')
    )
    rates = (
      f'{row[field]:.0f}' if field in row else ''
      for field in ('forward_gflops', 'training_gflops')
    )
    lines.append(form(row['name'], *times, *rates))
  return '\n'.join(lines)


def _contenders(layer: Layer) -> list[Contender]:
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
  return {'seconds': timing.seconds(lambda: program(*args), times)}


def _with_bias(convolve, x, kernel, bias, stride, pad):
  edges = tuple(
    windows.edges(n, len(kernel), stride, pad) for n in x.shape[1:3]
  )
  return convolve(x, kernel, stride, edges) + bias


def _dense(x, kernel, bias):
  return x @ kernel + bias
