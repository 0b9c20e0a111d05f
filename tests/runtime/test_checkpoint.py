"""Checkpoints: to the bit, on any mesh, and never a half one."""

import itertools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax.runtime import files
from alexnet_jax.runtime.checkpoint import Checkpointer
from alexnet_jax.runtime.errors import UserError


def make_mesh(data: int, tower: int):
  types = (jax.sharding.AxisType.Explicit,) * 2
  devices = jax.devices()[: data * tower]
  return jax.make_mesh((data, tower), ('data', 'tower'), types, devices=devices)


def make_state(mesh, seed: int = 0):
  """A little of everything that a run saves; bits, not only numbers."""
  rng = np.random.default_rng(seed)
  towers = NamedSharding(mesh, P('tower'))
  everywhere = NamedSharding(mesh, P())
  bits = rng.integers(0, 2**32, (2, 3, 5), dtype=np.uint32)
  params = {
    'conv1': {
      'kernel': jax.device_put(bits.view(np.float32), towers),  # NaNs as well
      'bias': jax.device_put(
        jnp.asarray(rng.normal(size=(2, 4)), jnp.bfloat16), towers
      ),
    },
    'fc8': {'bias': jax.device_put(jnp.arange(7.0), everywhere)},
  }
  tx = optax.chain(optax.trace(0.9), optax.scale(-1.0))
  return jax.device_put(
    {
      'params': params,
      'opt_state': tx.init(params),
      'step': np.int32(rng.integers(100)),
      'key': rng.integers(0, 2**32, 2, dtype=np.uint32),
    },
    jax.tree.map(
      lambda x: x.sharding if isinstance(x, jax.Array) else everywhere,
      {'params': params, 'opt_state': tx.init(params), 'step': 0, 'key': 0},
    ),
  )


def abstract(state, mesh=None):
  def leaf(x):
    sharding = x.sharding
    if mesh is not None:
      sharding = NamedSharding(mesh, sharding.spec)
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

  return jax.tree.map(leaf, state)


def assert_same_bits(actual, expected):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for a, b in zip(
    jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
  ):
    assert a.dtype == b.dtype and a.shape == b.shape
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def small(step: int):
  return {'w': jnp.full((3,), step, jnp.float32), 'step': jnp.int32(step)}


def save_all(folder, steps, errors=None, keep=10):
  with Checkpointer(folder, keep) as checkpointer:
    for i, step in enumerate(steps):
      error = errors[i] if errors else None
      checkpointer.save(step, small(step), {'step': step}, error)


def last(folder):
  """(step, warned) of what a new process restores, state and meta agreeing."""
  with Checkpointer(folder) as checkpointer:
    state, meta = checkpointer.restore('last', abstract(small(0)))
  assert_same_bits(state, small(meta['step']))
  return meta['step']


# Round trips.


def test_round_trip_is_exact(tmp_path):
  state = make_state(make_mesh(2, 2))
  meta = {'config': {'lr': 0.1}, 'schedule': [1, 2.5], 'text': 'é', 'n': None}
  with Checkpointer(tmp_path / 'new' / 'folder') as checkpointer:
    assert checkpointer.restore('last', abstract(state)) is None
    assert checkpointer.read_meta('last') is None
    checkpointer.save(7, state, meta, 0.25)
    restored, restored_meta = checkpointer.restore('last', abstract(state))
    assert checkpointer.read_meta('best') == meta
  assert_same_bits(restored, state)
  assert restored_meta == meta


@pytest.mark.parametrize(
  ('before', 'after'),
  list(itertools.permutations([(1, 1), (1, 2), (2, 2), (4, 2)], 2)),
)
def test_moves_between_meshes(tmp_path, before, after):
  state = make_state(make_mesh(*before))
  mesh = make_mesh(*after)
  with Checkpointer(tmp_path) as checkpointer:
    checkpointer.save(1, state, {})
  with Checkpointer(tmp_path) as checkpointer:
    restored, _ = checkpointer.restore(1, abstract(state, mesh))
  assert_same_bits(restored, state)
  for leaf, old in zip(
    jax.tree.leaves(restored), jax.tree.leaves(state), strict=True
  ):
    assert leaf.sharding == NamedSharding(mesh, old.sharding.spec)


def test_a_relative_path(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  save_all('runs/a', [1])
  assert last('runs/a') == 1


def test_training_goes_on_during_a_save(tmp_path, monkeypatch):
  """The arrays are donated, and overwritten, before the save is done."""
  step = jax.jit(
    lambda state: jax.tree.map(lambda x: x + jnp.ones((), x.dtype), state),
    donate_argnums=0,
  )
  state = {'w': jnp.zeros((300, 1000)), 'step': jnp.int32(0)}
  may_finish = threading.Event()
  write = files.write_manifest
  monkeypatch.setattr(
    'alexnet_jax.runtime.checkpoint.write_manifest',
    lambda path: may_finish.wait(60) and write(path),
  )
  with Checkpointer(tmp_path) as checkpointer:
    state = step(state)
    checkpointer.save(1, state, {})
    for _ in range(20):
      state = step(state)
    assert int(state['step']) == 21
    assert checkpointer.steps() == []  # still being saved
    may_finish.set()
    checkpointer.wait()
    assert checkpointer.steps() == [1]
    restored, _ = checkpointer.restore(1, abstract(state))
  assert set(np.unique(restored['w'])) == {1.0}
  assert int(restored['step']) == 1


# What is kept.


def test_keeps_the_last_and_the_best(tmp_path):
  errors = [0.5, 0.1, 0.2, 0.1, None, 0.3, 0.4, None]
  save_all(tmp_path, range(1, 9), errors, keep=3)
  with Checkpointer(tmp_path) as checkpointer:
    # 2 and 4 are equally good: the earlier is the best, as for the schedule.
    assert checkpointer.steps() == [2, 6, 7, 8]
    assert checkpointer.read_meta('best') == {'step': 2}
    assert checkpointer.read_meta('last') == {'step': 8}
    # A later process knows of it.
    checkpointer.save(9, small(9), {'step': 9}, 0.05)
    checkpointer.save(10, small(10), {'step': 10}, 0.05)
    checkpointer.wait()
    assert checkpointer.steps() == [8, 9, 10]
    assert checkpointer.read_meta('best') == {'step': 9}


def test_a_step_saved_or_restored_is_left_alone(tmp_path):
  save_all(tmp_path, [1])

  def written():
    found = (tmp_path / '1' / 'manifest.json').stat()
    return found.st_ino, found.st_mtime_ns

  before = written()
  with Checkpointer(tmp_path) as checkpointer:
    checkpointer.restore('last', abstract(small(0)))
    checkpointer.save(1, small(1), {'step': 1})
  assert written() == before


def test_the_old_goes_only_once_the_new_is_complete(tmp_path, monkeypatch):
  save_all(tmp_path, [1], [0.5], keep=1)

  def fail(path):
    assert (path.parent / '1' / 'manifest.json').exists()
    raise OSError(28, 'No space left on device')

  with Checkpointer(tmp_path, keep=1) as checkpointer:
    monkeypatch.setattr('alexnet_jax.runtime.checkpoint.write_manifest', fail)
    checkpointer.save(2, small(2), {'step': 2}, 0.1)
    with pytest.raises(UserError, match=r'/2 could not be.*No space left'):
      checkpointer.wait()
    assert checkpointer.steps() == [1]
    monkeypatch.undo()
    checkpointer.save(2, small(2), {'step': 2}, 0.1)
    checkpointer.wait()
    assert checkpointer.steps() == [2]
  assert last(tmp_path) == 2


def test_a_save_that_cannot_be_read_is_an_error_at_once(tmp_path):
  """Orbax takes brackets for a pattern, and merges no arrays then."""
  with Checkpointer(tmp_path / 'a[1]') as checkpointer:
    checkpointer.save(1, small(1), {'step': 1})
    with pytest.raises(UserError, match='1 cannot be read'):
      checkpointer.wait()
    assert checkpointer.steps() == []


def test_a_save_of_something_else_is_an_error_at_once(tmp_path, monkeypatch):
  with Checkpointer(tmp_path) as checkpointer:
    save = checkpointer._orbax.save
    monkeypatch.setattr(
      checkpointer._orbax,
      'save',
      lambda path, state, **kwargs: save(path, {'w': state['w']}, **kwargs),
    )
    checkpointer.save(1, small(1), {'step': 1})
    with pytest.raises(UserError, match='does not hold the state that was'):
      checkpointer.wait()
    assert checkpointer.steps() == []


# Asking for what is not there.


def test_absent_steps_are_named(tmp_path):
  save_all(tmp_path, [10, 20])
  with Checkpointer(tmp_path) as checkpointer:
    with pytest.raises(UserError, match=r'step 15.*\[10, 20\]'):
      checkpointer.read_meta(15)
    with pytest.raises(UserError, match=r'none is the best.*\[10, 20\]'):
      checkpointer.read_meta('best')
    with pytest.raises(UserError, match=r"'lats' is not.*'last', 'best'"):
      checkpointer.read_meta('lats')
    assert checkpointer.read_meta('20') == {'step': 20}  # a flag's text


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'w': ((4,), 'float32')}, r'w is float32\[3\], not float32\[4\]'),
    ({'w': ((3,), 'bfloat16')}, r'w is float32\[3\], not bfloat16\[3\]'),
    ({'v': ((3,), 'float32')}, r'v is missing, not float32\[3\]'),
    ({'w': None}, r'w is float32\[3\], not expected'),
  ],
)
def test_another_network_is_refused(tmp_path, change, message):
  save_all(tmp_path, [1])
  wanted = abstract(small(0))
  for name, leaf in change.items():
    if leaf is None:
      del wanted[name]
    else:
      wanted[name] = jax.ShapeDtypeStruct(
        leaf[0], leaf[1], sharding=wanted['step'].sharding
      )
  with (
    Checkpointer(tmp_path) as checkpointer,
    pytest.raises(UserError, match=message),
  ):
    checkpointer.restore('last', wanted)
