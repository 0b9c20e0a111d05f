"""The reader of XLA's text, on lines written by hand."""

import pytest

from alexnet_jax.analysis.hlo import read_collectives

MESH = {'data': 2, 'tower': 4}
SCOPE = 'metadata={op_name="jit(f)/conv3/all_gather" stack_frame_id=1}'


def program(*lines: str, others: str = '') -> str:
  body = '\n'.join(f'  {line}' for line in lines)
  return f'{others}\nENTRY %main (x: f32[4]) -> f32[4] {{\n{body}\n}}\n'


def read(*lines: str, others: str = ''):
  return read_collectives(program(*lines, others=others), MESH)


@pytest.mark.parametrize(
  ('operation', 'elements', 'received'),
  [  # of four devices: three quarters of the result are the others'
    ('all-gather', 40, 30),
    ('all-to-all', 40, 30),
    ('reduce-scatter', 40, 120),  # three others' terms of the result
    ('all-reduce', 40, 60),  # reduce, then gather, quarter by quarter
  ],
)
def test_bytes_a_device_receives(operation, elements, received):
  groups = 'replica_groups={{0,1,2,3},{4,5,6,7}}'
  for dtype, size in (('f32', 4), ('f16', 2), ('bf16', 2), ('s8', 1)):
    (found,) = read(
      f'%x.1 = {dtype}[{elements // 5},5]{{1,0}} {operation}(%y), {groups}, '
      f'{SCOPE}'
    )
    assert found.operation == operation
    assert found.scope == 'jit(f)/conv3/all_gather'
    assert found.axes == ('tower',)
    assert (found.dtype, found.elements) == (dtype, elements)
    assert found.bytes == received * size


@pytest.mark.parametrize(
  ('groups', 'axes'),
  [
    ('{{0,1,2,3},{4,5,6,7}}', ('tower',)),
    ('{{0,4},{1,5},{2,6},{3,7}}', ('data',)),
    ('{{0,1,2,3,4,5,6,7}}', ('data', 'tower')),
    ('[2,4]<=[8]', ('tower',)),
    ('[4,2]<=[2,4]T(1,0)', ('data',)),
    ('[1,8]<=[8]', ('data', 'tower')),
    ('{}', ('data', 'tower')),
    ("mesh['data'=2,'tower'=4] {'tower'}", ('tower',)),
    ("mesh['data'=2,'tower'=4] {'data'}", ('data',)),
    ("mesh['data'=2,'tower'=4] {'data','tower'}", ('data', 'tower')),
    ("mesh['a'=2,'b'=2,'c'=2] {'b','c'}", ('tower',)),
    ("mesh['x'=4,'y'=2], device_ids=(0,4,1,5,2,6,3,7) {'y'}", ('data',)),
  ],
)
def test_groups_are_axes_of_the_mesh(groups, axes):
  (found,) = read(f'%x = f32[8]{{0}} all-reduce(%y), replica_groups={groups}')
  assert found.axes == axes


def test_one_device_sends_nothing():
  each = '{{0},{1},{2},{3},{4},{5},{6},{7}}'
  assert not read(f'%x = f32[8]{{0}} all-reduce(%y), replica_groups={each}')


def test_groups_across_axes_are_refused():
  with pytest.raises(ValueError, match='not along the mesh'):
    read('%x = f32[8]{0} all-reduce(%y), replica_groups={{0,1,4},{2,3,5}}')


@pytest.mark.parametrize('groups', ["mesh['x'=8] {'x':(1)2}", 'V9{0,1}'])
def test_groups_in_an_unknown_form_are_refused(groups):
  with pytest.raises(ValueError):
    read(f'%x = f32[8]{{0}} all-reduce(%y), replica_groups={groups}')


def test_neighbours():
  (found,) = read(
    '%x = f32[8]{0} collective-permute(%y), '
    'source_target_pairs={{0,4},{4,0},{1,5},{5,1}}'
  )
  assert (found.axes, found.bytes) == (('data',), 32)


def test_combined_results_keep_their_scopes():
  first, second = read(
    '%all.5 = (f32[3]{0}, s32[]) all-reduce(%a, %b), '
    'replica_groups=[2,4]<=[8], metadata={op_name="first"}',
    '%g.1 = f32[3]{0} get-tuple-element(%all.5), index=0',
    '%g.2 = s32[] get-tuple-element(%all.5), index=1, '
    'metadata={op_name="second"}',
    '%g.3 = s32[] get-tuple-element(%all.55), index=0, '
    'metadata={op_name="another"}',
  )
  assert (first.scope, first.elements, first.dtype) == ('', 3, 'f32')
  assert (second.scope, second.elements, second.dtype) == ('second', 1, 's32')


def test_asynchronous_ones_count_once():
  (found,) = read(
    '%s = (f32[2]{0}, f32[8]{0}) all-gather-start(%y), '
    'replica_groups=[2,4]<=[8]',
    '%d = f32[8]{0} all-gather-done(%s)',
  )
  assert (found.operation, found.elements) == ('all-gather', 8)


LOOP = """%body.1 (p: f32[8]) -> f32[8] {
  ROOT %x = f32[8]{0} all-reduce(%p), replica_groups=[2,4]<=[8]
}

%outer (p: f32[8]) -> f32[8] {
  ROOT %w = f32[8]{0} while(%p), condition=%c, body=%body.1, KNOWN
}

%c (p: f32[8]) -> pred[] {
  ROOT %true = pred[] constant(true)
}
"""


def test_loops_repeat_what_they_hold():
  """Three rounds of ten."""
  known = 'backend_config={"known_trip_count":{"n":"10"}}'
  (found,) = read(
    '%w = f32[8]{0} while(%p), condition=%c, body=%outer, '
    + known.replace('10', '3'),
    others=LOOP.replace('KNOWN', known),
  )
  assert (found.times, found.bytes) == (30, 30 * 12 * 4)


def test_a_loop_of_unknown_length_is_refused():
  with pytest.raises(ValueError, match='unknown length'):
    read('%x = f32[8]{0} call(%p), to_apply=%outer', others=LOOP)
