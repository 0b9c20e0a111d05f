"""Whole training steps in NumPy float64: views (§4.1, §2), the network of
`config.model` forward and backward (§3, §4.2), and the rule of §5.

Written from the paper's formulas, derivatives by hand, with nothing of the
package. Only what chance decides is drawn as the package documents it, from
(seed, step, example, purpose, tower) and `jax.random`'s keys.
"""

import re

import jax
import numpy as np
from step_layers import (
  concat,
  conv,
  cross_entropy,
  dense,
  flatten,
  lrn,
  map_norm,
  max_pool,
  part,
  relu,
  rows_of,
  times,
  total,
)

VIEW, DROPOUT = 0, 1  # what a key is for

# -- the network


class Node:
  """An array, and the gradient by it that has been found so far."""

  def __init__(self, value):
    self.value, self.grad = np.asarray(value, np.float64), 0.0


class Tape:
  """Remembers what was computed, to go back through it."""

  def __init__(self):
    self._done = []

  def __call__(self, layer, *nodes: Node, **options) -> Node:
    value, pull = layer(*(node.value for node in nodes), **options)
    out = Node(value)
    self._done.append((out, nodes, pull))
    return out

  def back(self, from_: Node) -> None:
    from_.grad = np.ones(from_.value.shape)
    for out, nodes, pull in reversed(self._done):
      for node, grad in zip(nodes, pull(out.grad), strict=True):
        node.grad = node.grad + grad


def nodes_of(params: dict) -> dict:
  """Every parameter as a list of nodes, one per tower; fc8's bias as one."""
  return {
    layer: {
      part: Node(value) if value.ndim == 1 else [Node(own) for own in value]
      for part, value in parts.items()
    }
    for layer, parts in params.items()
  }


def network(tape: Tape, model, weights: dict, views, masks=None) -> Node:
  """The logits [B, classes].

  Args:
    tape: remembers.
    model: `config.model`.
    weights: of `nodes_of`.
    views: [B, crop, crop, 3].
    masks: {'fc6': [towers, B, units], ...}; None at test time.
  """
  towers = range(model.towers)
  xs = [Node(views)] * len(towers)

  def both(xs):
    return [tape(concat, *xs)] * len(xs)

  def follow(step, xs):
    if step == 'norm' and model.lrn.enabled:
      options = {**model.lrn}
      del options['enabled']
      if not options.pop('across_towers'):
        return [tape(lrn, x, **options) for x in xs]
      whole, width = tape(lrn, both(xs)[0], **options), xs[0].value.shape[-1]
      return [tape(part, whole, start=t * width, width=width) for t in towers]
    rules = {
      'act': (relu, {}),
      'map_norm': (map_norm, model.map_norm),
      'pool': (max_pool, model.pool),
    }
    layer, options = rules[step]
    return [tape(layer, x, **options) for x in xs]

  convs = [name for name in model.layers if name.startswith('conv')]
  for name in convs:
    row = model[name]
    if row.reads == 'both':
      xs = both(xs)
    own = weights[name]
    place = {'stride': row.stride, 'pad': row.pad}
    xs = [
      tape(conv, xs[t], own['kernel'][t], own['bias'][t], **place)
      for t in towers
    ]
    for step in row.then:
      xs = follow(step, xs)
  xs = [tape(flatten, x) for x in xs]
  for name in ('fc6', 'fc7'):
    if model[name].reads == 'both':
      xs = both(xs)
    own = weights[name]
    xs = [
      tape(relu, tape(dense, xs[t], own['kernel'][t], own['bias'][t]))
      for t in towers
    ]
    if masks is not None:
      kept = (
        masks[name]
        / {'paper': 1, 'inverted': 1 - model.dropout}[model.dropout_form]
      )
    else:
      share = {'paper': 1 - model.dropout, 'inverted': 1.0}[model.dropout_form]
      kept = [share] * len(towers)
    xs = [tape(times, xs[t], factor=kept[t]) for t in towers]
  own, none = weights['fc8'], Node(np.zeros(1))
  halves = [tape(dense, xs[t], own['kernel'][t], none) for t in towers]
  return tape(total, *halves, tape(rows_of, own['bias'], rows=len(views)))


def logits(model, params: dict, views) -> np.ndarray:
  """At test time."""
  return network(Tape(), model, nodes_of(params), views).value


# -- chance


def row_key(config, step: int, row: int, purpose: int, share: int = 1):
  key = jax.random.fold_in(jax.random.key(config.seed), step)
  return jax.random.fold_in(jax.random.fold_in(key, row // share), purpose)


def drawn_place(config, step: int, row: int, room: int):
  """Top, left, and whether it is mirrored."""
  key = row_key(config, step, row, VIEW, config.augment.share)
  corner_key, flip_key, _ = jax.random.split(key, 3)
  top, left = jax.random.randint(corner_key, (2,), 0, room + 1).tolist()
  return top, left, bool(jax.random.bernoulli(flip_key))


def drawn_color(config, step: int, row: int) -> np.ndarray:
  """N(0, 1), of each component."""
  color_key = jax.random.split(row_key(config, step, row, VIEW), 3)[2]
  return np.asarray(jax.random.normal(color_key, (3,)), np.float64)


def drawn_masks(config, step: int, rows: int, units: dict) -> dict:
  """{'fc6': [towers, B, units], ...}, 1 where a unit is kept."""

  def mask(number: int, tower: int, row: int, units: int):
    key = row_key(config, step, row, DROPOUT)
    key = jax.random.fold_in(jax.random.fold_in(key, number), tower)
    return jax.random.bernoulli(key, 1 - config.model.dropout, (units,))

  return {
    name: np.array(
      [
        [mask(number, tower, row, units[name]) for row in range(rows)]
        for tower in range(config.model.towers)
      ],
      np.float64,
    )
    for number, name in enumerate(('fc6', 'fc7'))
  }


# -- a step


def views_of(config, statistics, images, step: int) -> np.ndarray:
  """Cut, mirrored, the mean image's centre subtracted, noise added."""
  crop = config.augment.crop_size
  room = images.shape[1] - crop
  low = room // 2
  mean = statistics.mean_image[low : low + crop, low : low + crop]
  spread = np.sqrt(np.float64(statistics.eigenvalues))
  out = []
  for row, image in enumerate(images):
    top, left, mirrored = drawn_place(config, step, row, room)
    view = image[top : top + crop, left : left + crop].astype(np.float64)
    view = (view[:, ::-1] if mirrored else view) - mean
    a = config.augment.color * drawn_color(config, step, row)
    view += statistics.eigenvectors @ (a * spread)
    out.append(view / config.augment.color_divisor * config.augment.scale)
  return np.stack(out)


def rate_of(config, name: str, rates) -> float:
  """The rate of a parameter such as 'conv1/kernel'."""
  rules = [pattern for pattern, _ in config.schedule.rules]
  found = [i for i, rule in enumerate(rules, 1) if re.search(rule, name)]
  own = float(rates[found[0] if found else 0])
  return own * _first(config.optimizer.learning_rate_multipliers, name)


def _first(rules, name: str) -> float:
  return next(value for pattern, value in rules if re.search(pattern, name))


def train_step(
  config, statistics, params, velocity, images, labels, step, rates
):
  """One step.

  Args:
    config: the whole configuration.
    statistics: of the training set.
    params: {'conv1': {'kernel': [towers, ...], 'bias': ...}, ...}.
    velocity: likewise.
    images: uint8 [B, S, S, 3].
    labels: int [B].
    step: how many were taken before.
    rates: the main one, then those of `config.schedule.rules`.

  Returns:
    The losses [B] before the step, parameters and velocity after it.
  """
  count = len(images)
  units = {name: params[name]['bias'].shape[-1] for name in ('fc6', 'fc7')}
  tape, weights = Tape(), nodes_of(params)
  losses = tape(
    cross_entropy,
    network(
      tape,
      config.model,
      weights,
      views_of(config, statistics, images, step),
      drawn_masks(config, step, count, units),
    ),
    labels=labels,
  )
  tape.back(losses)
  moved: dict = {}
  speeds: dict = {}
  for layer, parts in params.items():
    for part_, w in parts.items():
      name, node = f'{layer}/{part_}', weights[layer][part_]
      alone = isinstance(node, Node)
      sum_ = node.grad if alone else np.stack([own.grad for own in node])
      rate = rate_of(config, name, rates)
      decay = config.optimizer.weight_decay * _first(
        config.optimizer.decay_multipliers, name
      )
      w = np.float64(w)
      v = (
        config.optimizer.momentum * velocity[layer][part_]
        - decay * rate * w
        - rate * sum_ / count
      )
      speeds.setdefault(layer, {})[part_] = v
      # What has no rate stands still, whatever its velocity.
      moved.setdefault(layer, {})[part_] = w + v if rate else w
  return losses.value, moved, speeds
