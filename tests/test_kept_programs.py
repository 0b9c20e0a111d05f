"""Programs that stay compiled from one run of the tests to the next."""

import os
import subprocess
from pathlib import Path

import jax
import kept_programs
import pytest
import small_runs
from jax._src import compilation_cache

pytestmark = pytest.mark.usefixtures('cached')


def used() -> list[str]:
  """By this process, and by those it starts."""
  here = jax.config.jax_compilation_cache_dir
  return [here, os.environ['JAX_COMPILATION_CACHE_DIR']]


def test_a_test_finds_what_earlier_runs_have_compiled(program, tmp_path):
  folder = kept_programs.folder()
  assert used() == [str(folder)] * 2
  assert program(tmp_path).cache == folder
  done = subprocess.run(
    ['git', 'check-ignore', folder / 'a'], cwd=small_runs.ROOT
  )
  assert done.returncode in (0, 128)  # 128: this is no checkout


@pytest.mark.fresh
def test_a_fresh_one_does_not(program, tmp_path, cache_dir):
  assert used() == [str(cache_dir)] * 2
  assert program(tmp_path).cache == cache_dir
  assert kept_programs.folder() not in (cache_dir, *cache_dir.parents)


def test_a_program_that_is_kept_is_not_compiled_again():
  """Nor written again: what is in memory is forgotten in between."""

  def kept():
    return sorted(kept_programs.folder().glob('jit_of_this_test*-cache'))

  def of_this_test(x):
    return 3 * x + 1

  found, events = [], []
  listener = lambda event, **_: events.append(event)  # noqa: E731
  jax.monitoring.register_event_listener(listener)
  try:
    for _ in range(2):
      events.clear()
      jax.clear_caches()
      assert jax.jit(of_this_test)(2) == 7
      found.append(kept())
  finally:
    jax.monitoring.unregister_event_listener(listener)
  assert found[0] and found[0] == found[1]
  assert '/jax/compilation_cache/cache_hits' in events


def written(folder: Path, name: str, data: bytes, second: int) -> Path:
  path = folder / f'{name}-cache'
  path.write_bytes(data)
  os.utime(path, (second, second))
  return path


def test_half_a_program_is_removed_and_the_oldest_of_too_many(tmp_path):
  folder = tmp_path / 'kept'
  kept_programs.tidy(folder)  # makes it
  whole = compilation_cache.compress_executable(os.urandom(1000))
  future = 2**32
  half = written(folder, 'half', whole[:500], future)
  good = [written(folder, f'good{i}', whole, future + i) for i in range(3)]
  kept_programs.tidy(folder)
  assert not half.exists() and all(path.exists() for path in good)
  kept_programs.tidy(folder, most=2 * len(whole))
  assert [path.exists() for path in good] == [False, True, True]
