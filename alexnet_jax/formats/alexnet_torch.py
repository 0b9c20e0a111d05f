"""The network of this folder in PyTorch, logits and preprocessing.

`python -m alexnet_jax.weights export --format=hub` puts this file beside the
weights. It needs torch and safetensors, nothing else.

  net = AlexNet('.').eval()
  logits = net(net.preprocess(images))  # [N, S, S, 3], 0 to 255
  net.class_names[logits[0].argmax()]
"""

import json
from pathlib import Path

import safetensors.torch
import torch
from torch.nn import functional as F


class AlexNet(torch.nn.Module):
  """The layers of config.json; a parameter's first axis is that of towers.

  Attributes:
    class_names: by the number of the output.
  """

  def __init__(self, folder):
    super().__init__()
    folder = Path(folder)
    about = json.loads((folder / 'config.json').read_text())
    self.table, self.class_names = about['model'], about['class_names']
    self.views = json.loads((folder / 'preprocessor_config.json').read_text())
    for name, x in safetensors.torch.load_file(
      folder / 'model.safetensors'
    ).items():
      flat = name.replace('/', '_')
      if name.startswith('statistics/') or name.endswith(('/mean', '/var')):
        self.register_buffer(flat, x.float())
      else:
        self.register_parameter(flat, torch.nn.Parameter(x))

  def preprocess(self, images):
    """The central views of squares: float32 [N, 3, crop, crop]."""
    crop, mean = self.views['crop_size'], self.views['mean']
    size = self.views['picture_size']
    if tuple(images.shape[1:]) != (size, size, 3):
      raise ValueError(
        f'the network sees squares of {size} pixels: resize yours to '
        f'[N, {size}, {size}, 3], not {list(images.shape)}'
      )
    first = (images.shape[1] - crop) // 2
    cut = slice(first, first + crop)
    views = images[:, cut, cut].float()
    if mean == 'image':
      views = views - self.statistics_mean_image[cut, cut]
    elif mean == 'rgb':
      views = views - self.statistics_rgb_mean
    return views.permute(0, 3, 1, 2) * self.views['scale']

  def forward(self, x):
    """Logits [N, classes] of views [N, 3, crop, crop]."""
    layers = self.table['layers']
    for name in layers[:-1]:
      row = self.table[name]
      if x.ndim == 4 and not name.startswith('conv'):  # rows, columns, maps
        x = x.unflatten(1, (self.table['towers'], -1)).permute(0, 1, 3, 4, 2)
        x = x.flatten(2)  # [N, towers, units]
      x = self._conv(x, name, row) if x.ndim == 4 else self._dense(x, name, row)
      for step in row['then']:
        x = getattr(self, f'_{step}')(x, name)
    # Each tower has its half of the sum (§3.2).
    kernel = getattr(self, f'{layers[-1]}_kernel')
    bias = getattr(self, f'{layers[-1]}_bias')
    return torch.einsum('nti,tio->no', x, kernel) + bias

  def _conv(self, x, name, row):
    kernel = getattr(self, f'{name}_kernel')  # [towers, k, k, in, out]
    weight = kernel.permute(0, 4, 3, 1, 2).flatten(0, 1)
    stride, pad = row['stride'], row['pad']
    # What is missing for a last window that hangs over the edge.
    rest = (x.shape[-1] + 2 * pad - weight.shape[-1]) % stride
    more = (stride - rest) % stride if self.table['rounding'] == 'up' else 0
    x = F.pad(x, (pad, pad + more, pad, pad + more))
    groups = self.table['towers'] if row['reads'] == 'own' else 1
    bias = getattr(self, f'{name}_bias').flatten()
    return F.conv2d(x, weight, bias, stride, groups=groups)

  def _dense(self, x, name, row):
    if row['reads'] == 'both':
      x = x.flatten(1)[:, None].expand(-1, self.table['towers'], -1)
    kernel = getattr(self, f'{name}_kernel')  # [towers, in, out]
    bias = getattr(self, f'{name}_bias')
    return torch.einsum('nti,tio->nto', x, kernel) + bias

  def _act(self, x, _):
    return getattr(torch, self.table['activation'])(x)

  def _pool(self, x, _):
    pool = self.table['pool']
    up = self.table['rounding'] == 'up'
    return F.max_pool2d(x, pool['window'], pool['stride'], ceil_mode=up)

  def _norm(self, x, _):
    lrn = self.table['lrn']
    if not lrn['enabled']:
      return x
    towers = 1 if lrn['across_towers'] else self.table['towers']
    # PyTorch divides alpha by the size.
    alpha = lrn['alpha'] * (lrn['size'] if lrn['alpha_over'] == 'sum' else 1)
    maps = x.unflatten(1, (towers, -1)).flatten(0, 1)
    maps = F.local_response_norm(
      maps, lrn['size'], alpha, lrn['beta'], lrn['k']
    )
    return maps.reshape(x.shape)

  def _batch_norm(self, x, name):
    norm = self.table['batch_norm']
    parts = (
      getattr(self, f'{name}_batch_norm_{part}').view(-1)
      for part in ('mean', 'var', 'scale', 'bias')
    )
    share = 1 - norm['momentum']
    return F.batch_norm(x, *parts, self.training, share, norm['epsilon'])

  def _dropout(self, x, _):
    share = self.table['dropout']
    kept = 1 - share if self.table['dropout_form'] == 'paper' else 1
    return F.dropout(x, share, self.training) * kept
