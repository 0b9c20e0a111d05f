"""Tables and the plot of how fast everything is.

  python -m experiments.speed

writes the generated parts of docs/benchmarks.md and docs/gpu.md, and
docs/pictures/benchmarks.svg, from the rows that `python -m
alexnet_jax.benchmark ... --csv=experiments/results/benchmarks.csv` adds, and
`make gpu-report`. A test compares the pages with the rows.
"""

from collections.abc import Sequence
from typing import Any

from absl import app
from etils import epath

from alexnet_jax.benchmarks import gpu, results
from alexnet_jax.benchmarks.results import replace_part
from alexnet_jax.runtime.files import write_atomically
from experiments import plan

ROWS = plan.FOLDER / 'results/benchmarks.csv'
COMPILED = plan.FOLDER / 'results/gpu.json'
PAGE = plan.FOLDER.parent / 'docs/benchmarks.md'
GPU_PAGE = PAGE.with_name('gpu.md')
PICTURE = 'pictures/benchmarks.svg'  # beside the page
Rows = Sequence[dict[str, str]]
# The field that a kind of measurement is judged by, and its unit.
MEASURES = {
  'step': ('images_per_sec', 'images/s'),
  'eval': ('images_per_sec', 'images/s'),
  'input': ('images_per_sec_per_core', 'images/s a core'),
  'end_to_end': ('images_per_sec', 'images/s'),
  'startup': ('start_seconds', 's to the first step'),
  'memory': ('peak_memory_gb', 'GB'),
}
_RATIOS = ('times_torch', 'times_torch_compile')


def main(_) -> None:
  rows = results.read_csv(ROWS)
  write_atomically(epath.Path(PAGE), page(PAGE.read_text(), rows))
  compiled = results.read_json(COMPILED)
  gpus = gpu_page(GPU_PAGE.read_text(), rows, compiled)
  write_atomically(epath.Path(GPU_PAGE), gpus)
  print(f'{PAGE} and {GPU_PAGE} written')
  _draw([row for row in rows if row['benchmark'] == 'step'])


def page(text: str, rows: Rows) -> str:
  """docs/benchmarks.md, whose text is `text`, with the tables of `rows`, those
  of GPUs aside."""
  of_layers = [row for row in rows if row['benchmark'] == 'layers']
  parts = [
    machine_tables([row for row in rows if not _is_gpu(row)]),
    'Measured on an H100: [gpu.md](gpu.md#measured).',
    f'![Images per second of a training step]({PICTURE})',
    *([layer_table(of_layers)] if of_layers else []),
  ]
  return replace_part(text, 'benchmarks', '\n\n'.join(parts))


def gpu_page(text: str, rows: Rows, compiled: Sequence[results.Row]) -> str:
  """docs/gpu.md, whose text is `text`: what GPUs did, and beside it what was
  compiled for them."""
  measured = [row for row in rows if _is_gpu(row)]
  text = replace_part(text, 'measured', machine_tables(measured))
  first = compiled[0]
  made = f'Compiled, not run: {first["versions"]}; commit {first["commit"]}.'
  parts = (made, gpu.format_steps(compiled), gpu.format_kernels(first))
  return replace_part(text, 'compiled', '\n\n'.join(parts))


def _is_gpu(row: dict[str, str]) -> bool:
  return row['machine'].startswith('NVIDIA')


def layer_table(rows: Rows) -> str:
  """A line for each layer: our lowering, and the formula as XLA lowers it."""
  first = rows[0]
  lines = [
    f'Milliseconds by layer: one tower, {first["batch"]} images, one device; '
    f'medians of {first["repeats"]}; {first["machine"]}, {first["cores"]} '
    f'cores, commit {first["commit"]}. "plain" is the formula as XLA lowers '
    "it, with JAX's own gradients. Training is the forward and the backward "
    'pass.',
    '',
    '| layer | forward | plain | training | plain | GFLOP/s in training |',
    '|---|---|---|---|---|---|',
  ]
  for row in rows:
    times = (
      f'{1e3 * float(row[f"{plain}{name}_seconds"]):.1f}'
      for name in ('forward', 'training')
      for plain in ('', 'plain_')
    )
    rate = row.get('training_gflops', '')
    rate = f'{float(rate):.0f}' if rate else ''
    lines.append(f'| {row["name"]} | {" | ".join(times)} | {rate} |')
  return '\n'.join(lines)


def machine_tables(rows: Rows) -> str:
  """A table for each machine, with a line for each row.

  A line has the median and, in brackets, the least and the most.
  """
  lines: list[str] = []
  rows = [row for row in rows if row['benchmark'] in MEASURES]
  for machine, group in _group_by_machine(rows).items():
    parts = (part for row in group for part in row['versions'].split(', '))
    versions = ', '.join(dict.fromkeys(parts))
    lines += [
      *([''] if lines else []),
      f'{machine}; {versions}:',
      '',
      '| measured | what | batch, width | result | against PyTorch | commit |',
      '|---|---|---|---|---|---|',
      *map(_table_line, group),
    ]
  return '\n'.join(lines)


def _group_by_machine(rows: Rows) -> dict[str, list[dict[str, str]]]:
  machines: dict[str, list[dict[str, str]]] = {}
  for row in rows:
    name = f'{row["machine"]}, {row["cores"]} cores'
    machines.setdefault(name, []).append(row)
  return machines


def _table_line(row: dict[str, str]) -> str:
  field, unit = MEASURES[row['benchmark']]
  ratios = [
    f'{_spread(row, name)}x{" compiled" * name.endswith("compile")}'
    for name in _RATIOS
    if name in row and 'PyTorch' not in row['name']
  ]
  size = ', '.join(row[name] for name in ('batch', 'width') if name in row)
  return (
    f'| {row["benchmark"]} | {row["name"]}{_options(row)} | {size} | '
    f'{_spread(row, field)} {unit} | {"; ".join(ratios)} | {row["commit"]} |'
  )


def _options(row: dict[str, str]) -> str:
  """What tells a row from others of its name."""
  more = ', no LRN' if row.get('lrn') == 'False' else ''
  if row.get('dtype') == 'bfloat16':
    more += ', bfloat16'
  elif row.get('precision') in ('default', 'high'):
    more += ', TF32'
  if row.get('cache', 'none') != 'none':
    more += f", cache='{row['cache']}'"
  if 'workers' in row:
    more += f', {row["workers"]} workers'
  return more


def _spread(row: dict[str, str], field: str) -> str:
  """'13.2 (12.9-13.4)': three digits, or all that stand before the point."""
  values = (float(row[f'{field}{end}']) for end in ('', '_low', '_high'))
  median, low, high = (
    f'{value:,.0f}' if value >= 100 else f'{value:.3g}' for value in values
  )
  return f'{median} ({low}-{high})'


def _draw(rows: Rows) -> None:
  from alexnet_jax.drawing import canvas

  rows = [row for row in rows if 'gflops' in row or 'PyTorch' in row['name']]
  machines = _group_by_machine(rows)
  fig = canvas.figure(6.4, 0.8 * len(machines) + 0.32 * len(rows))
  heights = [2 + len(group) for group in machines.values()]
  axes = fig.subplots(len(machines), height_ratios=heights, squeeze=False)
  for ax, (machine, group) in zip(axes.flat, machines.items(), strict=True):
    _draw_bars(ax, group)
    rate = max(float(row['gemm_gflops']) for row in group)
    ax.set_title(
      f'{machine}, matrix products at up to {rate:,.0f} GFLOP/s',
      fontsize='small',
    )
  ax.set_xlabel('images/s of a training step, with the least and the most')
  canvas.save(fig, PAGE.parent / PICTURE)


def _draw_bars(ax: Any, rows: Rows) -> None:
  from alexnet_jax.drawing import canvas

  for place, row in enumerate(rows):
    low, middle, high = (
      float(row[f'images_per_sec{end}']) for end in ('_low', '', '_high')
    )
    ink = canvas.colour('PyTorch' in row['name'])
    ax.barh(place, middle, color=ink, height=0.7)
    ax.plot([low, high], [place, place], color=canvas.INK, lw=1)
  names = [
    f'{row["name"]}, batch {row["batch"]}{_options(row)}' for row in rows
  ]
  ax.set_yticks(range(len(rows)), names)
  ax.invert_yaxis()


if __name__ == '__main__':
  app.run(main)
