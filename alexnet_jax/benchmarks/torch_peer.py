"""The same network in PyTorch, which takes turns with ours in one run.

A program of its own, for a Python that has torch and need not have JAX:
`peer.Peer` starts it and asks, in JSON, a line each way. Between two questions
it waits for the next line, and no thread of it runs.
"""

import functools
import itertools
import json
import os
import resource
import sys
import time
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image, ImageOps
from torch import nn
from torch.nn import functional as F


class AlexNet(nn.Module):
  """Two towers as grouped convolutions, the way PyTorch users write them.

  Args:
    spec: of `peer.describe_for_peer`: the table, with the sizes of the layers.
  """

  def __init__(self, spec: dict):
    super().__init__()
    self.spec = spec
    features = 3
    for number, row in enumerate(spec['convs']):
      own = number and not row['reads_both']
      conv = nn.Conv2d(
        features,
        row['features'],
        row['kernel'],
        stride=row['stride'],
        groups=spec['towers'] if own else 1,
      )
      setattr(self, row['name'], conv)
      features = row['features']
    for name, inputs, outputs in spec['denses']:
      setattr(self, name, nn.Linear(inputs, outputs))

  def forward(self, x):  # [B, 3, crop, crop]
    spec = self.spec
    for row in spec['convs']:
      low, high = row['edges']
      layer = getattr(self, row['name'])
      if low == high:
        x = F.conv2d(x, layer.weight, layer.bias, row['stride'], low,
                     groups=layer.groups)  # fmt: skip
      else:
        x = layer(F.pad(x, (low, high, low, high)))
      x = F.relu(x, inplace=True)
      if row['lrn']:
        x = self._lrn(x)
      if row['pool']:
        x = F.max_pool2d(x, **spec['pool'], ceil_mode=True)
    x = x.flatten(1)
    *hidden, (last, _, _) = spec['denses']
    for name, _, _ in hidden:
      x = self._dropout(F.relu(getattr(self, name)(x), inplace=True))
    return getattr(self, last)(x)

  def _lrn(self, x):
    """Of each tower's maps alone; PyTorch's alpha multiplies their mean."""
    lrn = self.spec['lrn']
    batch, channels, height, width = x.shape
    towers = self.spec['towers']
    maps = x.reshape(batch * towers, channels // towers, height, width)
    alpha = lrn['alpha'] * (lrn['size'] if lrn['alpha_over'] == 'sum' else 1)
    maps = F.local_response_norm(
      maps, lrn['size'], alpha, lrn['beta'], lrn['k']
    )
    return maps.reshape(x.shape)

  def _dropout(self, x):
    rate = self.spec['dropout']
    if self.spec['dropout_form'] == 'inverted':
      return F.dropout(x, rate, self.training)
    # The paper's: halved at test time, not doubled in training.
    return F.dropout(x, rate, self.training) * (1 - rate)


class Photographs(torch.utils.data.Dataset):
  """Views of <folder>/<class>/*, as sections 2 and 4.1 of the paper say.

  Args:
    folder: of the classes.
    crop: side of a view, pixels.
    color: of `config.augment`.
    mean: of the colours.
    components: what a multiple of 1 of each adds to R, G and B.
  """

  def __init__(
    self,
    folder: str,
    crop: int,
    color: float,
    mean: list[float],
    components: list[list[float]],
  ):
    self.files = sorted(Path(folder).glob('*/*'))
    self.classes = sorted({file.parent.name for file in self.files})
    self.crop, self.color = crop, color
    self.mean = torch.tensor(mean)[:, None, None]
    self.components = torch.tensor(components)

  def __len__(self):
    return len(self.files)

  def __getitem__(self, index):
    file = self.files[index]
    with Image.open(file) as photograph:
      # Square, for what is cut away is not needed.
      image = ImageOps.fit(
        photograph.convert('RGB'), (256, 256), Image.Resampling.BICUBIC
      )
    x, y = torch.randint(256 - self.crop + 1, (2,)).tolist()
    image = image.crop((x, y, x + self.crop, y + self.crop))
    if torch.rand(()) < 0.5:
      image = ImageOps.mirror(image)
    view = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
    colour = (self.color * torch.randn(3)) @ self.components
    view = view - self.mean + colour[:, None, None]
    return view, self.classes.index(file.parent.name)


class Server:
  """What `peer.Peer` may ask for."""

  device = 'cpu'  # until `load` says another

  def load(
    self, file: str, compiled: bool, device: str, half: bool, tf32: bool
  ):
    """Takes weights, views and labels; says what it runs with.

    Args:
      file: what `peer.load_network` wrote.
      compiled: whether torch.compile makes the program.
      device: 'cpu' or 'cuda'.
      half: whether activations are bfloat16 (autocast).
      tf32: whether a GPU rounds what it multiplies to TF32.
    """
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True
    self.device = device
    self.cast = functools.partial(
      torch.autocast, device, torch.bfloat16, enabled=half
    )
    arrays = np.load(file)
    spec = json.loads(str(arrays['spec']))
    network = AlexNet(spec)
    network.load_state_dict(
      {
        name: torch.from_numpy(arrays[name])
        for name in arrays.files
        if name.endswith(('weight', 'bias'))
      }
    )
    # What this network is fastest in: on CPUs measured, both ways each.
    last = compiled or device == 'cuda'
    layout = torch.channels_last if last else torch.contiguous_format
    self.network = network.to(device, memory_format=layout)
    views = torch.from_numpy(arrays['views']).permute(0, 3, 1, 2)
    self.views = views.to(device).contiguous(memory_format=layout)
    self.labels = torch.from_numpy(arrays['labels']).long().to(device)
    weights = [p for p in network.parameters() if p.ndim > 1]
    biases = [p for p in network.parameters() if p.ndim == 1]
    rule = spec['optimizer']
    self.optimizer = torch.optim.SGD(
      [
        {'params': weights, 'weight_decay': rule['weight_decay']},
        {'params': biases, 'weight_decay': 0.0},
      ],
      lr=rule['learning_rate'],
      momentum=rule['momentum'],
      fused=True,
    )
    self.run = torch.compile(network) if compiled else network
    cudnn = f', cudnn {torch.backends.cudnn.version()}' * (device == 'cuda')
    return {'versions': f'torch {torch.__version__}{cudnn}'}

  def logits(self, file):
    """Writes those of the views as at test time."""
    self.network.eval()
    with torch.no_grad(), self.cast():
      np.save(file, self.network(self.views).float().cpu().numpy())
    return {}

  def step(self, times):
    """Trains; seconds a step, in all and, on CPUs, by part: a GPU has the
    steps in a queue."""
    self.network.train()
    parts = np.zeros(4)
    if self.device == 'cuda':
      torch.cuda.synchronize()
      start = time.perf_counter()
      for _ in range(times):
        self.optimizer.zero_grad(set_to_none=True)
        self._loss().backward()
        self.optimizer.step()
      torch.cuda.synchronize()
      return {'seconds': (time.perf_counter() - start) / times}
    for _ in range(times):
      self.optimizer.zero_grad(set_to_none=True)
      start = time.perf_counter()
      loss = self._loss()
      loss.item()
      forward = time.perf_counter()
      loss.backward()
      backward = time.perf_counter()
      self.optimizer.step()
      end = time.perf_counter()
      parts += (
        end - start,
        forward - start,
        backward - forward,
        end - backward,
      )
    names = ('seconds', 'forward', 'backward', 'update')
    return dict(zip(names, (parts / times).tolist(), strict=True))

  def _loss(self):
    with self.cast():
      return F.cross_entropy(self.run(self.views).float(), self.labels)

  def open_pictures(self, folder, workers, batch_size, **views):
    """A loader of photographs, the way PyTorch users write it."""
    loader = torch.utils.data.DataLoader(
      Photographs(folder, **views),
      batch_size,
      shuffle=True,
      num_workers=workers,
      drop_last=True,
      persistent_workers=workers > 0,
    )
    self.batches = itertools.chain.from_iterable(itertools.repeat(loader))
    names = f'torch {torch.__version__}, Pillow {PIL.__version__}'
    return {'versions': names}

  def read_pictures(self, times):
    """Seconds a batch, and those that processors worked."""
    before, start = _cpu(), time.perf_counter()
    for _ in range(times):
      next(self.batches)
    seconds = time.perf_counter() - start
    return {'seconds': seconds / times, 'cpu': (_cpu() - before) / times}

  def memory(self):
    """The most memory this process has had, on a GPU if it is on one, in GB."""
    if self.device == 'cuda':
      return {'gigabytes': torch.cuda.max_memory_allocated() / 1e9}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {'gigabytes': peak * 1024 / 1e9}


def _cpu():
  """Seconds that processors have worked for this process and its workers."""
  total, tick = time.process_time(), os.sysconf('SC_CLK_TCK')
  me = os.getpid()
  for task in os.listdir(f'/proc/{me}/task'):
    with open(f'/proc/{me}/task/{task}/children') as file:
      children = file.read().split()
    for child in children:
      with open(f'/proc/{child}/stat') as file:
        fields = file.read().rpartition(')')[2].split()
      total += (int(fields[11]) + int(fields[12])) / tick
  return total


def main():
  # What libraries print must not come between the answers.
  answers = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)
  torch.manual_seed(0)
  server = Server()
  for line in sys.stdin:
    question = json.loads(line)
    answer = getattr(server, question.pop('ask'))(**question)
    print(json.dumps(answer), file=answers, flush=True)


if __name__ == '__main__':
  main()
