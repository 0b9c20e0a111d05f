"""Repeated measurements of several contenders, who take turns."""

import dataclasses
import platform
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from alexnet_jax.runtime import backend
from alexnet_jax.runtime.writers import Progress
from alexnet_jax.training.settings import Settings

# One unit of work: 'seconds', and perhaps the parts of them.
Sample = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Contender:
  """Something that can be measured again and again.

  Attributes:
    name: shown.
    measure: does the work so many times; a sample of one, on average.
  """

  name: str
  measure: Callable[[int], Sample]


def alternate(
  contenders: Sequence[Contender],
  repeats: int,
  least: float = 1.0,
  show: bool = True,
) -> dict[str, list[Sample]]:
  """Measures all in turn, so that whatever slows the machine slows all.

  A turn begins with work that does not count, as long as what does: memory and
  caches are the last one's until then, and a run goes on for hours.

  Args:
    contenders: whose names differ.
    repeats: samples of each, warm-up not counted.
    least: seconds of work that a sample is made of, or more.
    show: how far it is, on stderr.

  Returns:
    {name: samples}, in order.
  """
  times = {}
  samples: dict[str, list[Sample]] = {c.name: [] for c in contenders}
  total = len(contenders) * (1 + repeats)
  with Progress(total, 'measurements', show=show) as progress:
    for contender in contenders:
      contender.measure(1)  # compiles
      count = 1
      # The first few may be sooner than the rest: a loader's lie in its buffer.
      while count * contender.measure(count)['seconds'] < least:
        count *= 2
      times[contender.name] = count
      progress.update(1, f'compiled {contender.name}')
    for _ in range(repeats):
      for contender in contenders:
        count = times[contender.name]
        contender.measure(count)
        samples[contender.name].append(contender.measure(count))
        progress.update(1, contender.name)
  return samples


@dataclasses.dataclass(frozen=True)
class Spread:
  """The median of repeated measurements, the least and the most."""

  median: float
  low: float
  high: float

  @classmethod
  def of(cls, values: Sequence[float]) -> 'Spread':
    return cls(statistics.median(values), min(values), max(values))

  def fields(self, name: str) -> dict[str, float]:
    """As they stand in a row of results."""
    low, high = f'{name}_low', f'{name}_high'
    return {name: self.median, low: self.low, high: self.high}


def make_gemm(settings: Settings) -> Contender:
  """A product of matrices in the dtype and the precision of a step, as XLA does
  it; a sample has its 'flops', too."""
  size = 2048 if on_cpu() else 8192
  a = jax.random.normal(jax.random.key(0), (size, size), settings.dtype)
  product = jax.jit(
    lambda a, b: jnp.dot(a, b, precision=settings.matmul_precision)
  )

  def measure(times: int) -> Sample:
    seconds = time_calls(lambda: product(a, a), times)
    return {'seconds': seconds, 'flops': 2 * size**3}

  return Contender('GEMM', measure)


def gemm_rate(samples: Sequence[Sample]) -> float:
  """FLOP/s, of the fastest: what the machine can do."""
  return max(sample['flops'] / sample['seconds'] for sample in samples)


def on_cpu() -> bool:
  return jax.devices()[0].platform == 'cpu'


def time_calls(work: Callable[[], Any], times: int = 1) -> float:
  """Seconds of one call, on average; waits for arrays to be computed.

  An accelerator gets the calls in a queue, as a run gives it steps: to wait
  for each would count the way there and back.
  """
  each, found = on_cpu(), None
  start = time.perf_counter()
  for _ in range(times):
    found = work()
    if each:
      jax.block_until_ready(found)
  jax.block_until_ready(found)
  return (time.perf_counter() - start) / times


def peak_memory() -> float:
  """The most memory this process has had, in GB (10^9 bytes): of the device
  that had most, or on CPUs of the machine's."""
  peaks = [
    stats['peak_bytes_in_use'] / 1e9
    for stats in (device.memory_stats() for device in jax.local_devices())
    if stats and not on_cpu()
  ]
  own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
  return max(peaks, default=own)


def mesh_name(mesh: jax.sharding.Mesh) -> str:
  """DATA,TOWER of the devices there are."""
  return ','.join(map(str, mesh.devices.shape))


def describe_run(
  benchmark: str, settings: Settings, repeats: int
) -> dict[str, Any]:
  """What a row of results begins with: what was measured, where, and how."""
  return {
    'benchmark': benchmark,
    **describe_machine(),
    'batch': settings.batch_size,
    'width': settings.model.width,
    'dtype': settings.dtype,
    'precision': settings.matmul_precision,
    'repeats': repeats,
  }


def describe_machine() -> dict[str, Any]:
  """Machine, versions and commit, for a row of results."""
  found = backend.describe()
  devices = sorted(set(found['devices']))
  return {
    'commit': found['commit'],
    'machine': _processor() if devices == ['cpu'] else ', '.join(devices),
    'cores': found['cpu_threads'],
    'versions': f'Python {found["python"]}, jax {found["jax"]}, '
    f'jaxlib {found["jaxlib"]}, flax {found["flax"]}'
    + ''.join(
      f', {name} {found[name]}' for name in ('driver', 'cudnn') if name in found
    ),
  }


def _processor() -> str:
  """Its name, and the numbers that tell apart what clouds call by one name."""
  try:
    first = Path('/proc/cpuinfo').read_text().partition('\n\n')[0]
  except OSError:
    return platform.processor() or platform.machine()
  lines = (line.partition(':') for line in first.splitlines())
  fields = {name.strip(): value.strip() for name, _, value in lines}
  words = [fields.get('model name', platform.machine())]
  for name in ('cpu family', 'model'):
    if name in fields:
      words.append(f'{name.split()[-1]} {fields[name]}')
  return ' '.join(words)
