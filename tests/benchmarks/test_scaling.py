"""What TPUs would do: the arithmetic by hand, the page against its rows."""

import importlib.util
from pathlib import Path

import pytest
import test_communication

from alexnet_jax.analysis import hlo
from alexnet_jax.benchmarks import results, scaling_page, tpu
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training.settings import configure
from configs import default

ROOT = Path(__file__).parents[2]
ROWS = ROOT / 'experiments/results/tpu.json'
LEADS = ROOT / 'experiments/results/tpu_leads.csv'


def row(chips=8, mesh='4,2', batch=1024, **fields):
  return {
    'topology': 'v5e:2x4',
    'versions': 'jax 0',
    'commit': 'abc',
    'chips': chips,
    'mesh': mesh,
    'parallelism': 'towers',
    'batch': batch,
    'flops': 197e9,  # 1 ms
    'bytes': 2 * 819e6,  # 2 ms
    'received': {'parameters': 100e6, 'activations': 500e6},  # 3 ms
    'temporary': 3e9,
    'arguments': 1e9,
    'layers': {'conv1': 1.0, 'conv1 backward': 2.0, 'rest': 0.5},
  } | fields


def test_the_roofline_by_hand():
  time = tpu.Roofline.of(row())
  assert (time.products, time.memory, time.links) == pytest.approx(
    (0.001, 0.002, 0.003)
  )
  assert time.binds == 'links'
  assert time.hidden == pytest.approx(0.003)
  # The same counts on a v6e: 918 TFLOP/s, 1,640 GB/s, 400 GB/s.
  other = tpu.Roofline.of(row(received={'parameters': 0}), 'v6e')
  assert other.products == pytest.approx(197e9 / 918e12)
  assert other.memory == pytest.approx(0.0009988, rel=1e-3)
  assert (other.links, other.binds) == (0, 'memory')


def test_the_table_counts_by_image_and_chip():
  cells = [
    c.strip() for c in tpu.format_rooflines([row()]).splitlines()[2].split('|')
  ]
  # 1,024 images on 8 chips: 128 each, in 3 ms.
  assert cells[1:-1] == [
    *('v5e:2x4', '8', '4,2', 'towers', '1,024', '1.54', '12.8', '4.00', '600'),
    *('1.00', '2.00', '3.00', 'links', '341,333'),
  ]


def test_where_splitting_the_network_stops_paying():
  # Half of 488 MB of gradients saved; 113 kB an image of its 128.
  split = row(received={'parameters': 244e6, 'activations': 128 * 113e3})
  whole = row(mesh='8,1', received={'parameters': 488e6, 'activations': 0})
  assert scaling_page.crossing(split, whole) == pytest.approx(244e6 / 113e3)
  assert [scaling_page.way_of(r) for r in (split, whole)] == ['towers', 'data']


def test_points_that_have_rows_are_not_compiled_again():
  (first, *rest) = scaling_page.POINTS
  assert (first.chips, first.batch, first.mesh) == (1, 1024, (1, 1))
  one = row(chips=1, mesh='1,1', batch=1024)
  assert scaling_page.missing_points([one]) == list(rest)
  assert len({*scaling_page.POINTS}) == len(scaling_page.POINTS)
  for point in scaling_page.POINTS:
    data, towers = point.mesh
    assert data * towers == point.chips
    rows, columns = point.topology.partition(':')[2].split('x')
    assert int(rows) * int(columns) >= point.chips


def test_a_line_of_the_plot_goes_from_few_chips_to_many():
  rows = [
    row(chips=p.chips, mesh='{},{}'.format(*p.mesh), batch=p.batch)
    | {'parallelism': p.parallelism}
    for p in reversed(scaling_page.POINTS)
  ]
  panels = scaling_page.plotted_series(rows)
  assert len(panels) == 2
  for lines in panels.values():
    assert len(lines) == len(scaling_page.WAYS)
    for points in lines.values():
      assert [chips for chips, _ in points] == [1, 8, 32, 256]


def test_the_page_is_that_of_the_rows():
  rows = results.read_json(ROWS)
  assert not scaling_page.missing_points(rows)
  page = (ROOT / 'docs/scaling.md').read_text()
  leads = results.read_csv(LEADS)
  assert page == scaling_page.format_page(page, rows, leads)
  assert 'Compiled, not run' in page
  assert (ROOT / 'docs' / scaling_page.PICTURE).exists()


def test_bytes_of_a_program_by_scope():
  first = 'metadata={op_name="x/lrn1/mul"}'
  second = 'metadata={op_name="transpose(jvp(pool1))/add"}'
  text = f"""HloModule m
%fused (p: f32[8]) -> f32[8] {{
  %p = f32[8]{{0}} parameter(0)
  ROOT %n = f32[8]{{0}} negate(%p)
}}

ENTRY %main (a: f32[8], b: bf16[4,2]) -> f32[8] {{
  %a = f32[8]{{0:T(256)}} parameter(0)
  %b = bf16[4,2]{{1,0}} parameter(1)
  %c = f32[8]{{0}} fusion(%a), kind=kLoop, calls=%fused, {first}
  %d = bf16[8]{{0}} bitcast(%b), metadata={{op_name="x/free"}}
  ROOT %e = (f32[8]{{0}}, u8[3]{{0}}) fusion(%c, %d), kind=kLoop, {second}
}}
"""
  # A negation: 32 in, 32 out. The other: 32 + 16 in, 32 + 3 out.
  assert hlo.bytes_by_scope(text) == {
    'x/lrn1/mul': 64,
    'transpose(jvp(pool1))/add': 83,
  }
  assert tpu._bytes_by_layer(text, images=1) == {
    'lrn1': pytest.approx(64e-6),
    'pool1 backward': pytest.approx(83e-6),
  }


def test_what_stays_in_vector_memory_is_not_counted():
  name = 'metadata={op_name="update/add"}'
  text = f"""HloModule m

ENTRY %main (a: f32[8], b: f32[4]) -> f32[8] {{
  %a = f32[8]{{0:T(256)}} parameter(0)
  %b = f32[4]{{0:T(256)S(1)}} parameter(1)
  %in = (f32[8]{{0:S(1)}}, f32[8]{{0}}, u32[]{{:S(2)}}) copy-start(%a)
  %half = ((f32[8]{{0}}), f32[2]{{0:S(1)}}, s32[]{{:S(2)}}) slice-start(%a)
  %here = f32[8]{{0:S(1)}} copy-done(%in), {name}
  %some = f32[2]{{0:S(1)}} slice-done(%half), {name}
  %c = f32[8]{{0:S(1)}} fusion(%here, %b, %some), kind=kLoop, {name}
  %out = (f32[8]{{0}}, f32[8]{{0:S(1)}}, u32[]{{:S(2)}}) copy-start(%c)
  ROOT %e = f32[8]{{0}} copy-done(%out), {name}
}}
"""
  # 32 and 8 are read into it, 32 are written from it.
  assert hlo.bytes_by_scope(text) == {'update/add': 32 + 8 + 32}


def test_another_chip_is_refused():
  with pytest.raises(UserError, match="--topology=h100:1: one of .'v4'"):
    tpu.compile_step(configure(default.get_config()), 'h100:1', 10)


def test_without_libtpu_it_says_what_to_install():
  if importlib.util.find_spec('libtpu'):
    pytest.skip('libtpu is here')
  with pytest.raises(UserError, match='make tpu-report'):
    tpu.compile_step(configure(default.get_config()), 'v5e:2x2', 10)


@pytest.mark.slow
def test_a_small_step_compiles_for_a_tpu():
  if not importlib.util.find_spec('libtpu'):
    pytest.skip('no libtpu here: .venv-tpu/bin/python of `make tpu-report`')
  config = default.get_config()
  config.batch_size, config.dtype = 8, 'bfloat16'
  config.mesh.data = config.mesh.towers = 2
  config.augment.crop_size, config.model.width = 64, 0.125
  found = tpu.compile_step(
    configure(config), 'v5e:2x2', test_communication.CLASSES
  )
  assert found['chips'] == 4 and found['flops'] > 0
  assert found['received']['parameters'] > found['received']['scalars'] > 0
  assert 0 < sum(found['layers'].values()) * 2e6 < 2 * found['bytes']
