"""A step on NVIDIA's H100: compiled for one with none here, kernel by kernel,
and, where a GPU is, the time of each layer."""

import importlib.metadata
import logging
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies
from jax.profiler import ProfileData

from alexnet_jax.analysis import communication, hlo
from alexnet_jax.benchmarks import results, timing, tpu
from alexnet_jax.benchmarks.results import Row
from alexnet_jax.benchmarks.step_speed import OurStep, make_examples
from alexnet_jax.benchmarks.tpu import Roofline
from alexnet_jax.models.describe import describe
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training.settings import Settings

# Measured on one (docs/gpu.md), a second: FLOPs of products of 8,192 x 8,192
# matrices, and bytes of a copy, read and written. NVLink's is NVIDIA's figure
# of one direction.
FLOPS = {'bfloat16': 798e12, 'TF32': 421e12, 'float32': 51.6e12}
MEMORY, LINKS = 2.98e12, 450e9
_STEPS = 5  # in a trace
_SHOWN = 1 / 200  # of all bytes: kernels that move less are not printed
# What XLA asks a device for before it compiles.
_TARGET = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84942979072
  shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 13 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


def compile_step(settings: Settings, num_classes: int) -> Row:
  """Compiles the training step for as many H100s as the mesh has.

  Which algorithm cuDNN takes stays open, for that is tried on the device; what
  is fused, what each kernel reads and writes, and what is sent do not depend on
  it.

  Args:
    settings: of `configure`; `batch_size` over the whole mesh.
    num_classes: outputs of fc8.

  Returns:
    What `tpu.compile_step` gives, by our own count of FLOPs and bytes, for XLA
    counts nothing within a library's call; and 'kernels' that move most: name,
    what it is, layer, bytes read and written.

  Raises:
    UserError: XLA's compiler for GPUs is not installed.
  """
  chips = settings.mesh.data * settings.mesh.towers
  topology = f'h100:{chips}'
  row, text = tpu.compile_for(
    settings, topology, _open_topology(chips), num_classes
  )
  layers = describe(settings.model, num_classes, settings.augment.crop_size)
  kernels = hlo.list_kernels(text)
  moved = sum(one.read + one.written for one in kernels)
  plugin = importlib.metadata.version('jax-cuda13-plugin')
  return row | {
    'benchmark': 'gpu',
    'versions': f'{row["versions"]}, jax-cuda13-plugin {plugin}',
    'precision': settings.matmul_precision,
    'flops': sum(layer.training_flops for layer in layers)
    * settings.batch_size
    / chips,
    'bytes': moved,
    'number': len(kernels),
    'kernels': [
      (one.name, one.opcode, tpu.layer_of(one.scope), one.read, one.written)
      for one in kernels
      if one.read + one.written > _SHOWN * moved
    ],
  }


def roofline(row: Row) -> Roofline:
  """The least seconds of a row of `compile_step` on H100s."""
  rounded = row['dtype'] == 'float32' and row['precision'] != 'highest'
  return Roofline(
    row['flops'] / FLOPS['TF32' if rounded else row['dtype']],
    row['bytes'] / MEMORY,
    sum(row['received'].values()) / LINKS,
  )


def format_steps(rows: Sequence[Row]) -> str:
  """What `compile_step` found, as Markdown, a line a step."""
  head = (
    *('GPUs', 'mesh', 'batch', 'dtype', 'kernels', 'GB of a GPU'),
    *('temporaries, GB', 'received, MB', 'products, ms', 'memory, ms'),
    *('links, ms', 'images/s at most'),
  )
  lines = []
  for row in rows:
    time = roofline(row)
    lines.append(
      [
        *(row['chips'], row['mesh'], f'{row["batch"]:,}'),
        *(f'{row["dtype"]}, {row["precision"]}', row['number']),
        *(f'{row["bytes"] / 1e9:.1f}', f'{row["temporary"] / 1e9:.2f}'),
        f'{sum(row["received"].values()) / 1e6:.0f}',
        *(f'{1e3 * t:.2f}' for t in (time.products, time.memory, time.links)),
        f'{row["batch"] / time.hidden:,.0f}',
      ]
    )
  return results.format_markdown(head, lines)


def format_kernels(row: Row) -> str:
  """The kernels that move most, as Markdown, in the order of the program."""
  return results.format_markdown(
    ('kernel', 'what', 'layer', 'reads, MB', 'writes, MB'),
    (
      (name, what, layer, f'{read / 1e6:.0f}', f'{written / 1e6:.0f}')
      for name, what, layer, read, written in row['kernels']
    ),
  )


def time_layers(settings: Settings, num_classes: int) -> dict[str, float]:
  """Seconds that a step spends in each layer on a GPU, most first.

  Raises:
    UserError: there is no GPU here.
  """
  if timing.on_cpu():
    raise UserError('no GPU here: --compile_only shows what one would run')
  setup = communication.abstract_setup(settings, num_classes)
  step = OurStep(setup, *make_examples(settings, num_classes))
  layers = {
    one.name: tpu.layer_of(one.scope) for one in hlo.list_kernels(step.text)
  }
  timing.time_calls(step.take)
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      timing.time_calls(step.take, _STEPS)
    (file,) = Path(folder).rglob('*.xplane.pb')
    return add_up(ProfileData.from_file(str(file)).planes, layers)


def format_layers(spent: dict[str, float]) -> str:
  """What `time_layers` found, as Markdown."""
  return results.format_markdown(
    ('layer', 'ms a step'),
    ((name, f'{1e3 * seconds:.3f}') for name, seconds in spent.items()),
  )


def add_up(planes: Iterable[Any], layers: dict[str, str]) -> dict[str, float]:
  """Seconds a step by layer, the mean of the GPUs that were busy, of the planes
  of a trace of `_STEPS` steps."""
  spent: dict[str, float] = defaultdict(float)
  gpus: set[str] = set()
  for plane in planes:
    for line in plane.lines if 'GPU' in plane.name else ():
      for event in line.events:
        operation = dict(event.stats).get('hlo_op')
        if operation is not None:
          gpus.add(plane.name)
          layer = layers.get(str(operation), 'rest')
          spent[layer] += event.duration_ns / 1e9 / _STEPS
  ordered = sorted(spent.items(), key=lambda item: -item[1])
  return {layer: seconds / len(gpus) for layer, seconds in ordered}


def _open_topology(chips: int) -> list[jax.Device]:
  logging.disable(logging.ERROR)  # of the driver that is not there
  try:
    jax._src.xla_bridge.discover_pjrt_plugins()
    shape = f'1x1x{chips}'
    found = topologies.get_topology_desc(
      f'h100:{shape}', 'cuda', target_config=_TARGET, topology=shape
    )
    return list(found.devices)
  except Exception as error:  # XLA's, of many kinds
    raise UserError(
      f'{str(error)[:300]}. It needs XLA for GPUs: `make gpu-report`'
    ) from error
  finally:
    logging.disable(logging.NOTSET)
