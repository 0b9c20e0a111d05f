"""The network as ONNX, written from its own table: one operator per layer.

(The converter jax2onnx 0.17.1 asks for another Orbax than ours, and knows no
`lax.platform_dependent`.)
"""

from typing import Any

import numpy as np
from etils import epath

from alexnet_jax.formats.names import Network, make
from alexnet_jax.kernels import windows
from alexnet_jax.models.alexnet import AlexNet
from alexnet_jax.runtime import files
from alexnet_jax.runtime.errors import UserError

_OPSET = 17
_ACTIVATIONS = {'relu': 'Relu', 'tanh': 'Tanh'}


def write(path: epath.Path, network: Network, mean: np.ndarray) -> None:
  """Writes a model of float32 `images` [batch, crop, crop, 3], pixels of 0 to
  255 in RGB, to `logits` [batch, classes].

  Args:
    path: of the file.
    network: on its host.
    mean: [crop, crop, 3] or [3], subtracted first.

  Raises:
    UserError: `onnx` is not installed, or has no operator for a layer.
  """
  try:
    import onnx
  except ImportError:
    raise UserError(
      "--format=onnx needs the package onnx: pip install -e '.[export]'"
    ) from None
  graph = _Graph(onnx, network, mean)
  with files.explained(path):
    files.write_atomically(path, graph.model().SerializeToString())


class _Graph:
  """Collects the nodes; a value on towers is a list of names."""

  def __init__(self, onnx: Any, network: Network, mean: np.ndarray):
    self._onnx, self._params, self._mean = onnx, network.params, mean
    self._size = network.config.augment.crop_size
    self._classes = len(network.class_names)
    from flax import nnx

    model = nnx.eval_shape(lambda: make(network.config, self._classes))
    if not isinstance(model, AlexNet):
      raise UserError('--format=onnx is for AlexNet alone')
    self._net = model
    self._nodes: list[Any] = []
    self._constants: list[Any] = []

  def model(self) -> Any:
    helper, kind = self._onnx.helper, self._onnx.TensorProto
    self._forward()
    side = self._size
    graph = helper.make_graph(
      self._nodes,
      'alexnet',
      [
        helper.make_tensor_value_info(
          'images', kind.FLOAT, ['batch', side, side, 3]
        )
      ],
      [
        helper.make_tensor_value_info(
          'logits', kind.FLOAT, ['batch', self._classes]
        )
      ],
      self._constants,
    )
    opset = helper.make_opsetid('', _OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    self._onnx.checker.check_model(model)
    return model

  def _forward(self) -> None:
    net, towers = self._net, range(len(self._params['conv1/bias']))
    size = self._size
    mean = self._constant('mean', self._mean.astype(np.float32))
    x = self._node('Sub', ['images', mean], 'centred')
    x = self._node('Transpose', [x], 'view', perm=[0, 3, 1, 2])
    xs = [x for _ in towers]
    for row in net.convs:
      if row.talk:
        xs = [self._concat(xs, f'{row.name}_in')] * len(xs)
      pads, size = self._fit(size, row.kernel, row.stride, row.pad)
      xs = [
        self._node(
          'Conv',
          [x, *self._weights(row.name, t)],
          f'{row.name}_{t}',
          strides=[row.stride] * 2,
          pads=pads,
        )
        for t, x in enumerate(xs)
      ]
      for step in row.then:
        name = f'{row.name}_{step}'
        if step == 'act':
          xs = self._each(_ACTIVATIONS[net.activation], xs, name)
        elif step == 'pool':
          window, stride = net.pool['window'], net.pool['stride']
          pads, size = self._fit(size, window, stride)
          shape = {'kernel_shape': [window] * 2, 'strides': [stride] * 2}
          xs = self._each('MaxPool', xs, name, pads=pads, **shape)
        elif step == 'norm' and net.has_lrn:
          xs = self._norm(xs, name)
        elif step == 'map_norm':
          raise UserError('ONNX has no operator for config.model.map_norm')
        elif step == 'batch_norm':
          raise UserError('--format=onnx does not know batch_norm')
    # Flat as ours: rows, columns, maps.
    xs = self._each('Transpose', xs, 'last', perm=[0, 2, 3, 1])
    xs = self._each('Flatten', xs, 'flat')
    for dense in net.denses:
      if dense.talk:
        xs = [self._concat(xs, f'{dense.name}_in')] * len(xs)
      xs = [
        self._node(
          'Gemm', [x, *self._weights(dense.name, t)], f'{dense.name}_{t}'
        )
        for t, x in enumerate(xs)
      ]
      xs = self._each(_ACTIVATIONS[net.activation], xs, f'{dense.name}_act')
      if net.dropout_form == 'paper':  # §4.2
        share = np.float32(1 - net.dropout)
        kept = self._constant(f'{dense.name}_kept', np.asarray(share))
        xs = [
          self._node('Mul', [x, kept], f'{dense.name}_kept_{t}')
          for t, x in enumerate(xs)
        ]
    kernel = self._params['fc8/kernel'].reshape(-1, self._classes)
    weights = self._constant('fc8_kernel', kernel)
    bias = self._constant('fc8_bias', self._params['fc8/bias'])
    self._node('Gemm', [self._concat(xs, 'fc8_in'), weights, bias], 'logits')

  def _norm(self, xs: list[str], name: str) -> list[str]:
    lrn = self._net.lrn
    # ONNX divides alpha by the size.
    scale = lrn['size'] if lrn['alpha_over'] == 'sum' else 1
    options = {
      'size': lrn['size'],
      'bias': lrn['k'],
      'alpha': lrn['alpha'] * scale,
      'beta': lrn['beta'],
    }
    if not self._net.lrn_across:
      return self._each('LRN', xs, name, **options)
    joined = self._node(
      'LRN', [self._concat(xs, f'{name}_in')], name, **options
    )
    names = [f'{name}_{t}' for t in range(len(xs))]
    self._nodes.append(
      self._onnx.helper.make_node('Split', [joined], names, axis=1)
    )
    return names

  def _fit(
    self, size: int, window: int, stride: int, pad: int = 0
  ) -> tuple[list[int], int]:
    """Padding that makes ONNX's positions ours, and how many there are."""
    up = self._net.rounding == 'up'
    fitted = windows.output_size if up else windows.full_size
    places = fitted(size, window, stride, pad)
    after = (places - 1) * stride + window - size - pad
    # Windows that do not reach the edge leave some of it: no padding there.
    return [pad, pad, max(after, 0), max(after, 0)], places

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

  def _each(self, kind: str, xs: list[str], name: str, **options) -> list[str]:
    return [
      self._node(kind, [x], f'{name}_{t}', **options) for t, x in enumerate(xs)
    ]

  def _node(self, kind: str, inputs: list[str], name: str, **options) -> str:
    self._nodes.append(
      self._onnx.helper.make_node(kind, inputs, [name], name=name, **options)
    )
    return name

  def _constant(self, name: str, array: np.ndarray) -> str:
    # As it is: `from_array` copies memory in C order.
    self._constants.append(
      self._onnx.numpy_helper.from_array(np.ascontiguousarray(array), name)
      if array.ndim
      else self._onnx.numpy_helper.from_array(array, name)
    )
    return name
