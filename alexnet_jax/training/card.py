"""A model card: what a run says of the network that it has trained."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from alexnet_jax.formats.hub import TORCH, in_torch
from alexnet_jax.formats.names import Network
from alexnet_jax.models.table import TABLES
from alexnet_jax.runtime.metrics import format_error, prefix
from alexnet_jax.training.settings import flat

_HEAD = """---
license: {licence}
library_name: alexnet_jax
pipeline_tag: image-classification
tags: [alexnet, image-classification, jax, flax{torch}]
---

# {name} trained on {data}

{network}: {parameters:,} parameters, {classes:,} classes, {towers}{trained}.
"""
_USE = """
## Use

Pictures are brought to squares of {size} pixels, whose central {crop} x {crop}
are seen; {mean}{scale}.

In JAX (`pip install` alexnet_jax with its extra `hub`):

```python
import alexnet_jax

model = alexnet_jax.load('hf://OWNER/NAME')  # or this folder
probabilities = model.predict(['photograph.jpg'], views=10)
print(model.readable_names[probabilities[0].argmax()])
```
"""
_TORCH = """
In PyTorch, with the file `{file}` that lies here:

```python
import sys

import huggingface_hub
import torch

folder = huggingface_hub.snapshot_download('OWNER/NAME')  # or this folder
sys.path.append(folder)
from alexnet_torch import AlexNet

net = AlexNet(folder).eval()
images = torch.zeros(1, {size}, {size}, 3)  # yours: RGB, 0 to 255
logits = net(net.preprocess(images))
print(net.class_names[logits[0].argmax()])
```
"""
_MEANS = {
  'image': 'the mean image of the training set is subtracted',
  'rgb': 'the mean colour of the training set is subtracted',
  'none': 'nothing is subtracted',
}


def make_card(
  network: Network,
  meta: Mapping[str, Any] | None,
  rows: Sequence[Mapping[str, Any]],
  licence: str,
) -> str:
  """README.md of a hub's folder, Markdown.

  Args:
    network: of the checkpoint.
    meta: of the checkpoint; None: the network is of a file, not of a run.
    rows: of the run's metrics.jsonl.
    licence: of the weights, as the hub names it.
  """
  config, augment = network.config, network.config['augment']
  name, towers = config['model']['name'], config['model'].get('towers', 1)
  shape = {
    'size': len(network.statistics.mean_image),
    'crop': augment['crop_size'],
    'mean': _MEANS[augment['mean']],
    'scale': f', and they are multiplied by {augment["scale"]:g}'
    if augment['scale'] != 1
    else '',
  }
  torch = in_torch(network)
  parts = [
    _HEAD.format(
      licence=licence,
      torch=', pytorch' if torch else '',
      name='AlexNet' if name == 'alexnet' else name,
      network='The network of Krizhevsky, Sutskever and Hinton (2012)'
      if name == 'alexnet'
      else f'The network `{name}` of cuda-convnet',
      data=config.get('data', {}).get('name', 'pictures'),
      parameters=sum(
        math.prod(x.shape)
        for name, x in network.params.items()
        if not name.endswith(('/mean', '/var'))  # running averages
      ),
      classes=len(network.class_names),
      towers='one tower' if towers == 1 else f'{towers} towers',
      trained=(', trained by `alexnet_jax`' if network.step else '')
      + (', the average of its parameters' if network.average else ''),
    ),
    *_changes(config['model']),
    *_errors(network, meta, rows),
    _USE.format(**shape),
    _TORCH.format(file=TORCH, **shape)
    if torch
    else '\nThere is no program for PyTorch with it: the network has layers '
    'that only `alexnet_jax` computes.\n',
    *_recipe(network, meta),
    f'\n## Licence\n\nOf the weights: {licence}. What the pictures allow is '
    'theirs; a network of ImageNet carries its terms (research, not '
    'commerce). The program is Apache 2.0.\n',
  ]
  return ''.join(parts)


def _changes(model: Mapping[str, Any]) -> Iterator[str]:
  """In what a table of layers is another than that of its name."""
  first, own = flat(TABLES[model['name']]().to_dict()), flat(model)
  changed = [
    f'`{field}` {own.get(field, "none")}, not {first.get(field, "there")}'
    for field in sorted(first.keys() | own.keys())
    if own.get(field) != first.get(field)
  ]
  if changed:
    yield f'\nOf its layers are different: {"; ".join(changed)}.\n'


def _errors(
  network: Network,
  meta: Mapping[str, Any] | None,
  rows: Sequence[Mapping[str, Any]],
) -> Iterator[str]:
  """A table of what the run measured of this very network."""
  counts = meta['data']['examples'] if meta else {}
  ranks = (1, 5) if len(network.class_names) > 5 else (1,)
  lines = []
  for split, count in counts.items():
    name = prefix(f'{split}_ema' if network.average else split)
    for row in rows:
      if row['step'] == network.step and f'{name}/top1_error' in row:
        cells = [
          *(split, f'{count:,}'),
          *(format_error(row[f'{name}/top{k}_error'], count) for k in ranks),
          f'{row[f"{name}/loss"]:.3f}',
        ]
        lines.append(f'| {" | ".join(cells)} |\n')
        break
  yield '\n## Errors\n\n'
  if not lines:
    yield 'None were measured of this network here.\n'
    return
  heads = ['split', 'pictures', *(f'top-{k}' for k in ranks), 'loss']
  yield f'| {" | ".join(heads)} |\n{"|---" * len(heads)}|\n'
  yield from lines
  yield (
    f'\nAt step {network.step:,}. One central view, one run (n = 1); ± is one '
    'standard error over pictures, and another seed differs besides.'
  )
  yield f'{_chosen(network, rows)}\n'


def _chosen(network: Network, rows: Sequence[Mapping[str, Any]]) -> str:
  """Of the lowest of several errors, which is too low a guess of the next."""
  split = network.config['evals']['split']
  key = f'{prefix(split)}/top1_error'
  errors = {row['step']: row[key] for row in rows if key in row}
  if len(errors) < 2 or errors.get(network.step) != min(errors.values()):
    return ''
  whose = 'before it was averaged this had' if network.average else 'this has'
  return (
    f' Of the {len(errors)} networks of the run that were measured {whose} '
    f'the lowest error on {split}: on new pictures expect more.'
  )


def _recipe(network: Network, meta: Mapping[str, Any] | None) -> Iterator[str]:
  config = network.config
  yield '\n## Training\n\n'
  if not meta and network.step:
    yield f'Of its {network.step:,} steps there is the configuration in the '
    yield 'header of `model.safetensors`, and no record.\n'
    return
  if not meta or not meta['position']['examples']:
    source = Path(config['pretrained']['source']).name
    yield f'It was imported{f" from {source}" if source else ""}: there is no '
    yield 'record of how it was trained.\n'
    return
  rule, plan = config['optimizer'], config['schedule']
  examples, env = meta['data']['examples'], meta['environment']
  parts = ', '.join(f'{count:,} {split}' for split, count in examples.items())
  table = {
    'data': f'{config["data"]["name"]}: {parts} pictures',
    'begins with': config['pretrained']['source'] or 'random weights',
    'length': f'{config["length"]}, of which '
    f'{meta["position"]["examples"]:,} pictures were seen',
    'batch': config['batch_size'],
    'rule': f'{rule["kind"]}, momentum {rule["momentum"]:g}, decay '
    f'{rule["weight_decay"]:g}'
    + (
      f', parameters averaged with {rule["ema"]:g}' if network.average else ''
    ),
    'rate': f'{plan["learning_rate"]:g}, {plan["kind"]}',
    'dropout': config['model'].get('dropout', 'none')
    if any('dropout' in row.then for row in network.table.denses)
    else 'none',
    'views': f'crops: {config["augment"]["random_crop"]}, mirrored: '
    f'{config["augment"]["random_flip"]}, colour noise: '
    f'{config["augment"]["color"]:g}',
    'seed': config['seed'],
    'precision': config['dtype'],
    'hardware': f'{len(env["devices"])} x {env["devices"][0]}',
    'made with': f'alexnet_jax {env["alexnet_jax"]}, commit '
    f'{env["commit"] or "unknown"}, jax {env["jax"]}, flax {env["flax"]}',
  }
  yield '| | |\n|---|---|\n'
  yield from (f'| {name} | {value} |\n' for name, value in table.items())
  yield '\nThe whole configuration is in the header of `model.safetensors`.\n'
