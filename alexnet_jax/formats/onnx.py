"""The network as ONNX, written from its own table: one operator per layer.

(The converter jax2onnx 0.17.1 asks for another Orbax than ours, and knows no
`lax.platform_dependent`.)
"""

import json
from typing import Any

import numpy as np
from etils import epath

from alexnet_jax.formats.names import Network
from alexnet_jax.models.rows import Conv, Dense, ResponseNorm
from alexnet_jax.runtime import files
from alexnet_jax.runtime.errors import UserError

_OPSET = 17
_ACTIVATIONS = {'relu': 'Relu', 'tanh': 'Tanh'}


def write(
  path: epath.Path, network: Network, mean: np.ndarray, scale: float
) -> None:
  """Writes a model of float32 `images` [batch, crop, crop, 3], pixels of 0 to
  255 in RGB, to `logits` [batch, classes]. Its metadata have `class_names`, a
  list as JSON.

  Args:
    path: of the file.
    network: on its host.
    mean: [crop, crop, 3] or [3], subtracted first.
    scale: multiplies what is left.

  Raises:
    UserError: `onnx` is not installed, or has no operator for a layer.
  """
  try:
    import onnx
  except ImportError:
    raise UserError(
      "--format=onnx needs the package onnx: pip install -e '.[export]'"
    ) from None
  graph = _Graph(onnx, network, mean, scale)
  with files.explained(path):
    files.write_atomically(path, graph.make_model().SerializeToString())


class _Graph:
  """Collects the nodes; a value on towers is a list of names."""

  def __init__(
    self, onnx: Any, network: Network, mean: np.ndarray, scale: float
  ):
    self._onnx, self._params = onnx, network.params
    self._mean, self._scale = mean, scale
    self._table, self._size = network.table, network.image_size
    self._class_names = network.class_names
    if self._table.name != 'alexnet':
      raise UserError('--format=onnx is for AlexNet alone')
    for row in self._table.convs:
      if unknown := set(row.then) - {'act', 'norm', 'pool'}:
        raise UserError(
          f'--format=onnx has no operator for {sorted(unknown)} of '
          f'config.model.{row.name}.then'
        )
    lrn = self._table.lrn
    if lrn and lrn.size % 2 == 0:
      raise UserError(
        f'--format=onnx: config.model.lrn.size={lrn.size} is even, and ONNX '
        'has the middle of such a window elsewhere'
      )
    self._nodes: list[Any] = []
    self._constants: list[Any] = []

  def make_model(self) -> Any:
    helper, kind = self._onnx.helper, self._onnx.TensorProto
    self._add_layers()
    shapes = {
      'images': ['batch', self._size, self._size, 3],
      'logits': ['batch', len(self._class_names)],
    }
    values = [
      helper.make_tensor_value_info(name, kind.FLOAT, shape)
      for name, shape in shapes.items()
    ]
    graph = helper.make_graph(
      self._nodes, 'alexnet', values[:1], values[1:], self._constants
    )
    opset = helper.make_opsetid('', _OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    names = json.dumps(self._class_names, ensure_ascii=False)
    helper.set_model_props(model, {'class_names': names})
    self._onnx.checker.check_model(model)
    return model

  def _add_layers(self) -> None:
    table, size = self._table, self._size
    mean = self._constant('mean', self._mean.astype(np.float32))
    x = self._node('Sub', ['images', mean], 'centred')
    if self._scale != 1:
      scale = self._constant('scale', np.float32(self._scale))
      x = self._node('Mul', [x, scale], 'scaled')
    x = self._node('Transpose', [x], 'view', perm=[0, 3, 1, 2])
    xs = [x] * table.towers
    for row, sides in zip(table.convs, table.sides(size), strict=True):
      window = (row.kernel, row.stride, row.pad)
      xs = self._layer('Conv', xs, row, **_place(size, sides[0], *window))
      for step in table.steps(row):
        name = f'{row.name}_{step}'
        if step == 'act':
          xs = self._each(_ACTIVATIONS[table.activation], xs, name)
        elif step == 'norm' and table.lrn:
          xs = self._norm(table.lrn, xs, name)
        else:
          window = (table.pool.window, table.pool.stride, 0)
          xs = self._each('MaxPool', xs, name, **_place(*sides, *window))
      size = sides[1]
    # Flat as ours: rows, columns, maps.
    xs = self._each('Transpose', xs, 'last', perm=[0, 2, 3, 1])
    xs = self._each('Flatten', xs, 'flat')
    for dense in table.denses:
      xs = self._layer('Gemm', xs, dense)
      for step in dense.then:
        name = f'{dense.name}_{step}'
        if step == 'act':
          xs = self._each(_ACTIVATIONS[table.activation], xs, name)
        elif table.dropout_form == 'paper':  # §4.2
          share = self._constant(name, np.float32(1 - table.dropout))
          xs = self._each('Mul', xs, name, share)
    kernel = self._params['fc8/kernel'].reshape(-1, len(self._class_names))
    weights = self._constant('fc8_kernel', kernel)
    bias = self._constant('fc8_bias', self._params['fc8/bias'])
    self._node('Gemm', [self._concat(xs, 'fc8_in'), weights, bias], 'logits')

  def _layer(
    self, kind: str, xs: list[str], row: Conv | Dense, **options
  ) -> list[str]:
    """A layer with weights, of what it reads."""
    if row.reads == 'both':
      xs = [self._concat(xs, f'{row.name}_in')] * len(xs)
    return [
      self._node(
        kind, [x, *self._weights(row.name, t)], f'{row.name}_{t}', **options
      )
      for t, x in enumerate(xs)
    ]

  def _norm(self, lrn: ResponseNorm, xs: list[str], name: str) -> list[str]:
    # ONNX divides alpha by the size.
    alpha = lrn.alpha * (lrn.size if lrn.alpha_over == 'sum' else 1)
    options = {'size': lrn.size, 'bias': lrn.k, 'alpha': alpha}
    options['beta'] = lrn.beta
    if not lrn.across_towers:
      return self._each('LRN', xs, name, **options)
    joined = self._concat(xs, f'{name}_in')
    joined = self._node('LRN', [joined], name, **options)
    names = [f'{name}_{t}' for t in range(len(xs))]
    self._nodes.append(
      self._onnx.helper.make_node('Split', [joined], names, axis=1)
    )
    return names

  def _weights(self, name: str, tower: int) -> list[str]:
    kernel = self._params[f'{name}/kernel'][tower]
    if kernel.ndim == 4:
      kernel = kernel.transpose(3, 2, 0, 1)
    bias = self._params[f'{name}/bias'][tower]
    return [
      self._constant(f'{name}_{tower}_kernel', kernel),
      self._constant(f'{name}_{tower}_bias', bias),
    ]

  def _concat(self, xs: list[str], name: str) -> str:
    return self._node('Concat', xs, name, axis=1) if len(xs) > 1 else xs[0]

  def _each(
    self, kind: str, xs: list[str], name: str, *more: str, **options
  ) -> list[str]:
    return [
      self._node(kind, [x, *more], f'{name}_{t}', **options)
      for t, x in enumerate(xs)
    ]

  def _node(self, kind: str, inputs: list[str], name: str, **options) -> str:
    self._nodes.append(
      self._onnx.helper.make_node(kind, inputs, [name], name=name, **options)
    )
    return name

  def _constant(self, name: str, array: np.ndarray | np.float32) -> str:
    whole = np.asarray(array, order='C')
    self._constants.append(self._onnx.numpy_helper.from_array(whole, name))
    return name


def _place(
  size: int, places: int, window: int, stride: int, pad: int
) -> dict[str, list[int]]:
  """Attributes that make ONNX's windows over `size` pixels ours."""
  after = (places - 1) * stride + window - size - pad
  # Windows that do not reach the edge leave some of it: no padding there.
  return {
    'kernel_shape': [window] * 2,
    'strides': [stride] * 2,
    'pads': [pad, pad, max(after, 0), max(after, 0)],
  }
