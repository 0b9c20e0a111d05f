"""A damaged checkpoint is noticed, named, and never used."""

import json
import os
import random
import shutil
from pathlib import Path

import pytest
from etils import epath
from test_checkpoint import abstract, last, save_all, small

from alexnet_jax.runtime import files
from alexnet_jax.runtime.checkpoint import Checkpointer
from alexnet_jax.runtime.errors import UserError


def flip_a_bit(file: Path):
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 1
  file.write_bytes(content)


def truncate(file: Path):
  os.truncate(file, file.stat().st_size - 1)


def files_of(folder: Path) -> list[str]:
  return sorted(
    str(file.relative_to(folder))
    for file in folder.rglob('*')
    if file.is_file()
  )


@pytest.mark.parametrize('damage', [flip_a_bit, truncate, Path.unlink])
def test_damage_to_any_file_is_noticed(tmp_path, caplog, damage):
  save_all(tmp_path, [1, 2])
  intact = tmp_path / 'intact'
  shutil.copytree(tmp_path / '2', intact)
  names = files_of(intact)
  assert {'manifest.json', 'meta.json'} < set(names) and len(names) > 8
  for name in names:
    shutil.rmtree(tmp_path / '2')
    shutil.copytree(intact, tmp_path / '2')
    damage(tmp_path / '2' / name)
    caplog.clear()
    with Checkpointer(tmp_path) as checkpointer:
      assert checkpointer.read_meta('last') == {'step': 1}, name
      assert checkpointer.read_meta('last') == {'step': 1}, name
      (warning,) = caplog.messages  # once, though asked twice
      assert str(tmp_path / '2') in warning
      # The manifest does not know its own name: a bit of it names another.
      assert name in warning or name == 'manifest.json', warning
      with pytest.raises(UserError, match='2 is damaged'):
        checkpointer.read_meta(2)
  assert last(tmp_path) == 1


def test_every_bit_of_the_manifest_matters(tmp_path):
  save_all(tmp_path, [1])
  manifest = tmp_path / '1' / 'manifest.json'
  whole = json.loads(manifest.read_text())
  content = manifest.read_bytes()
  for i in random.Random(0).sample(range(len(content)), 200):
    flipped = bytearray(content)
    flipped[i] ^= 1 << (i % 8)
    manifest.write_bytes(flipped)
    if files.find_damage(epath.Path(manifest.parent)) is None:
      # Only white space may change unnoticed.
      assert json.loads(flipped) == whole


def test_a_damaged_checkpoint_is_saved_anew(tmp_path):
  save_all(tmp_path, [1, 2, 3])
  flip_a_bit(tmp_path / '3' / 'meta.json')
  flip_a_bit(tmp_path / '2' / 'state' / '_METADATA')
  with Checkpointer(tmp_path, keep=2) as checkpointer:
    assert checkpointer.read_meta('last') == {'step': 1}
    checkpointer.save(2, small(2), {'step': 2})
    checkpointer.wait()
    assert checkpointer.steps() == [1, 2]  # 3 counts for nothing
    checkpointer.save(3, small(3), {'step': 3})
    checkpointer.wait()
    assert checkpointer.steps() == [2, 3]
  assert last(tmp_path) == 3


def test_damage_to_the_best_is_an_error(tmp_path):
  save_all(tmp_path, [1, 2], [0.1, 0.2])
  flip_a_bit(tmp_path / '1' / 'state' / '_METADATA')
  with (
    Checkpointer(tmp_path) as checkpointer,
    pytest.raises(UserError, match=r'1 is damaged: state/_METADATA'),
  ):
    checkpointer.restore('best', abstract(small(0)))


def test_all_damaged_never_starts_from_nothing(tmp_path):
  save_all(tmp_path, [1, 2])
  for step in '12':
    flip_a_bit(tmp_path / step / 'state' / 'manifest.ocdbt')
  with (
    Checkpointer(tmp_path) as checkpointer,
    pytest.raises(UserError, match=r'every checkpoint .* is damaged'),
  ):
    checkpointer.read_meta('last')


def test_a_first_save_cut_short_starts_from_nothing(tmp_path, caplog):
  save_all(tmp_path, [1])
  (tmp_path / '1' / 'manifest.json').unlink()
  with Checkpointer(tmp_path) as checkpointer:
    assert checkpointer.read_meta('last') is None
    assert 'cut short' in caplog.text
    checkpointer.save(5, small(5), {'step': 5})
  assert files_of(tmp_path)[0].startswith('5/')  # and clears up


def test_only_looking_changes_nothing(tmp_path):
  """An evaluation may look while training saves."""
  save_all(tmp_path, [1])
  (tmp_path / '2' / 'state.orbax-checkpoint-tmp').mkdir(parents=True)
  before = files_of(tmp_path), os.listdir(tmp_path / '2')
  assert last(tmp_path) == 1
  assert (files_of(tmp_path), os.listdir(tmp_path / '2')) == before


def test_a_manifest_leads_nowhere_else(tmp_path):
  secret = tmp_path / 'secret'
  secret.write_text('')
  folder = tmp_path / 'folder'
  folder.mkdir()
  empty = {'size': 0, 'sha256': files._sha256(epath.Path(secret))}
  for name in ('../secret', str(secret), '/dev/zero'):
    (folder / 'manifest.json').write_text(json.dumps({name: empty}))
    damage = files.find_damage(epath.Path(folder))
    assert damage == f'{name} is missing'


@pytest.mark.parametrize(
  'text', ['', '{}', '[]', 'null', '{"a": 1}', '{"a": {}}', '\xff', '[' * 99999]
)
def test_a_manifest_of_nonsense(tmp_path, text):
  (tmp_path / 'manifest.json').write_text(text, encoding='latin1')
  assert 'manifest.json' in files.find_damage(epath.Path(tmp_path))
