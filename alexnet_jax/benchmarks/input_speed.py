"""How fast photographs reach the device, beside PyTorch's loader."""

import contextlib
import functools
import itertools
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import psutil
from jax.sharding import PartitionSpec as P

from alexnet_jax.benchmarks import peer, timing
from alexnet_jax.benchmarks.results import Row
from alexnet_jax.benchmarks.timing import Contender, Sample, Spread
from alexnet_jax.data import pipeline
from alexnet_jax.data.builders import Dataset
from alexnet_jax.runtime import sharding
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training import feed, state, views
from alexnet_jax.training.settings import Settings

_PEER = 'PyTorch DataLoader'


def measure_input(
  settings: Settings,
  repeats: int,
  pictures: str | None = None,
  python: str | None = None,
) -> list[Row]:
  """A prepared data set, from its files to batches, and views, on the device.

  Args:
    settings: of `configure`; data, batch_size and augment count.
    repeats: samples of each contender.
    pictures: folder of <class>/*.jpg, the photographs as they were before
      `prepare`; PyTorch's loader reads them in turn, with as many workers
      and the same augmentation, by Pillow. None: no peer.
    python: the program of a Python with torch; None: this.

  Returns:
    A row for each contender; a core's images per second are those per second
    of the time that processors worked for them, in all processes. How many
    times as fast as the peer goes by these, for without workers we read in two
    threads, and PyTorch in one.

  Raises:
    UserError: `pictures` has no batch of photographs.
  """
  if pictures:
    _check_pictures(pictures, settings.batch_size)
  dataset, setup = state.open_setup(settings)
  with contextlib.ExitStack() as stack:
    ours = _Stream(settings, dataset, setup, stack)
    encoding = dataset.fingerprint['request']['encoding']
    contenders = [
      Contender(f'{encoding}, batches', functools.partial(ours.measure, False)),
      Contender(f'{encoding}, views', functools.partial(ours.measure, True)),
    ]
    versions = {}
    if pictures:
      there = stack.enter_context(peer.start_peer(python))
      about = there.ask(
        'open_pictures',
        folder=os.path.abspath(pictures),
        workers=ours.workers,
        batch_size=settings.batch_size,
        crop=settings.augment.crop_size,
        color=settings.augment.color,
        mean=dataset.statistics.rgb_mean.tolist(),
        components=setup.constants.components.tolist(),
      )
      versions[_PEER] = about['versions']
      contenders.append(
        Contender(_PEER, functools.partial(there.measure, 'read_pictures'))
      )
    samples = timing.alternate(contenders, repeats, least=3.0)
  common = {
    'benchmark': 'input',
    **timing.describe_machine(),
    'data': dataset.name,
    'batch': settings.batch_size,
    'workers': ours.workers,
    'repeats': repeats,
  }
  rows = []
  for name, taken in samples.items():
    row = {**common, 'name': name}
    row['versions'] = versions.get(name, common['versions'])
    for part, field in (
      ('seconds', 'images_per_sec'),
      ('cpu', 'images_per_sec_per_core'),
    ):
      speeds = [settings.batch_size / sample[part] for sample in taken]
      row |= Spread.of(speeds).fields(field)
    if name.endswith('views') and _PEER in samples:
      pairs = zip(samples[_PEER], taken, strict=True)
      ratios = [a['cpu'] / b['cpu'] for a, b in pairs]
      row |= Spread.of(ratios).fields('times_torch')
    rows.append(row)
  return rows


class _Stream:
  """What a training run reads, and the views that its step cuts first."""

  def __init__(
    self,
    settings: Settings,
    dataset: Dataset,
    setup: state.Setup,
    stack: contextlib.ExitStack,
  ):
    self._place, self._size = setup.batch_sharding, setup.batch_size
    self._rows = sharding.local_rows(self._place, self._size)
    readers = feed.choose_readers(
      settings.data, self._place, dataset, len(self._rows)
    )
    self.workers = readers['workers']
    self._batches = pipeline.training_batches(
      dataset,
      seed=settings.seed,
      batch_size=self._size,
      rows=self._rows,
      **readers,
    )
    stack.callback(self._batches.close)
    axes = P(setup.towers.batch_axes)

    def cut(last, images, key):
      keys = jax.random.split(key, len(images))
      return views.training_views(setup.augment, setup.constants, images, keys)

    # Views take the last ones' place, as on devices that keep their memory:
    # on CPUs, a new array's page faults cost more than its pixels.
    specs = axes, axes, P()
    self._cut = jax.jit(
      jax.shard_map(cut, mesh=setup.mesh, in_specs=specs, out_specs=axes),
      donate_argnames='last',
      keep_unused=True,
    )
    crop = setup.augment.crop_size
    self._last = jnp.zeros(
      (self._size, crop, crop, 3), device=setup.batch_sharding
    )
    self._key = jax.random.key(0)

  def measure(self, cut: bool, times: int) -> Sample:
    before = _cpu()
    seconds = timing.time_calls(self._views if cut else self._next, times)
    return {'seconds': seconds, 'cpu': (_cpu() - before) / times}

  def _next(self) -> Any:
    batch = next(self._batches)
    return sharding.put_batch(self._place, self._rows, self._size, batch)

  def _views(self) -> Any:
    self._last = self._cut(self._last, self._next()['image'], self._key)
    return self._last


def _check_pictures(folder: str, batch_size: int) -> None:
  """Before PyTorch's loader waits for a batch that never comes."""
  found = sum(file.is_file() for file in Path(folder).glob('*/*'))
  if found < batch_size:
    raise UserError(
      f'--pictures={folder}: {found} files in <class>/ there, and a batch '
      f'has {batch_size}; give the folder of the classes of one split'
    )


def _cpu() -> float:
  """Seconds that processors have worked for this process and its children."""
  me = psutil.Process()
  times = [each.cpu_times() for each in (me, *me.children(recursive=True))]
  return sum(itertools.chain.from_iterable((t.user, t.system) for t in times))
