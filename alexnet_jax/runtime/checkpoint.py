"""Checkpoints that are whole or do not count. The only file that knows Orbax.

    checkpoints/
      1200/
        state/         Orbax's files: the arrays of the state
        meta.json      what else the run needs, and the validation error
        manifest.json  size and SHA-256 of every file above, written last

A checkpoint exists once it has a manifest, and it is read only if each file
still agrees with it: Orbax by itself restores a flipped bit silently. Before
the manifest is written, what Orbax wrote is opened as a reader would.
"""

import contextlib
import json
import math
from collections.abc import Container, Mapping
from concurrent import futures
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from alexnet_jax.runtime import orbax_logs
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.runtime.files import (
  MANIFEST,
  UNFINISHED,
  explained,
  find_damage,
  write_atomically,
  write_manifest,
)

STATE, META = 'state', 'meta.json'


class Checkpointer(contextlib.AbstractContextManager['Checkpointer']):
  """The checkpoints of one run: the last few, and the best.

  A save goes on in the background while training continues; the next save
  waits for it. Every process of a run makes the same calls; process 0 writes
  everything but the arrays. Use it as a context manager, or `close` it.
  """

  def __init__(self, directory: epath.PathLike, keep: int = 3):
    """Touches nothing on disk.

    Args:
      directory: folder of the checkpoints, made at the first save.
      keep: how many of the last to keep; the best comes on top.

    Raises:
      UserError: `keep` is not at least 1.
    """
    if keep < 1:
      raise UserError(f'{keep} checkpoints cannot be kept: keep at least 1')
    orbax_logs.quieten()
    path = epath.Path(directory)
    self._directory = path if path.is_absolute() else path.absolute()
    self._keep = keep
    # Where a folder cannot be made, asynchronous making of it leaves threads
    # that wait five minutes for it.
    self._orbax = ocp.StandardCheckpointer(
      async_options=ocp.AsyncOptions(create_directories_asynchronously=False)
    )
    self._background = futures.ThreadPoolExecutor(1, 'checkpoint')
    self._saving: futures.Future | None = None
    # What is wrong with each checkpoint looked at; None is nothing.
    self._damage: dict[int, str | None] = {}

  def save(
    self,
    step: int,
    state: Any,
    meta: Mapping[str, Any],
    error: float | None = None,
  ) -> None:
    """Starts to save; returns once the state is copied off the devices.

    Args:
      step: the checkpoint's name. One that this object has saved or restored
        is left as it is; any other of that name is replaced.
      state: pytree of arrays, on any sharding; may be donated right after.
      meta: what JSON can hold.
      error: the lower the better, for 'best'. None if it was not measured.

    Raises:
      UserError: the previous save failed, or this one could not begin.
    """
    self.wait()
    if self._damage.get(step, UNFINISHED) is None:
      return
    self._damage.pop(step, None)  # of what this one replaces
    path = self._path(step)
    text = json.dumps({'error': error, 'meta': meta}, indent=2)
    with explained(f'checkpoint {path}', Exception):
      if jax.process_index() == 0:
        self._remove_all_but(set(self.steps()) - {step})
      self._orbax.save(path / STATE, state, force=True)
    described = _describe(state)
    self._saving = self._background.submit(self._finish, step, text, described)

  def wait(self) -> None:
    """Waits for the save under way.

    Raises:
      UserError: it failed; earlier checkpoints are as they were.
    """
    saving, self._saving = self._saving, None
    if saving is not None:
      saving.result()

  def close(self) -> None:
    """Waits for the save under way, and ends the threads."""
    try:
      self.wait()
    finally:
      self._background.shutdown()
      with contextlib.suppress(Exception):  # raised, by `wait`, already
        self._orbax.close()

  def __exit__(self, *_) -> None:
    self.close()

  def steps(self) -> list[int]:
    """Steps whose save was completed, ascending; damage does not show."""
    return [s for s in self._folders() if (self._path(s) / MANIFEST).exists()]

  def best(self) -> tuple[int, float] | None:
    """The step with the lowest error, and that."""
    step = self._best(self.steps())
    return None if step is None else (step, self._read(step)['error'])

  def restore(
    self, which: int | str, abstract_state: Any, partial: bool = False
  ) -> tuple[Any, dict[str, Any]] | None:
    """Reads a checkpoint whose every file agrees with its manifest.

    Args:
      which: a step; 'best', the lowest error, the earliest of equals; or
        'last', the last that is not damaged, with a warning for each skipped.
      abstract_state: pytree of `jax.ShapeDtypeStruct` whose shardings say
        where the arrays go; not necessarily those they were saved with.
      partial: `abstract_state` is a dict with some of the state's names; the
        rest is not read.

    Returns:
      (state, meta), or None if 'last' was asked and no save was completed.

    Raises:
      UserError: there is no such checkpoint, it is damaged, or it is of
        another network.
    """
    step = self._choose(which)
    if step is None:
      return None
    path = self._path(step) / STATE
    self._check_structure(path, abstract_state, partial)
    try:
      if partial:
        wanted = ocp.args.PyTreeRestore(
          abstract_state,
          ocp.checkpoint_utils.construct_restore_args(abstract_state),
          partial_restore=True,
        )
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as orbax:
          state = orbax.restore(path, wanted)
      else:
        state = self._orbax.restore(path, abstract_state)
    except Exception as error:  # Orbax's, of files it did not write
      raise _unreadable(path.parent, error) from error
    return state, self._read(step)['meta']

  def read_meta(self, which: int | str) -> dict[str, Any] | None:
    """Reads the `meta` that `restore` would return, under the same rules."""
    step = self._choose(which)
    return None if step is None else self._read(step)['meta']

  def _finish(self, step: int, text: str, described: dict[str, str]) -> None:
    """Completes a save, in the background; prunes then, and not before."""
    path = self._path(step)
    with explained(f'checkpoint {path}', Exception):
      self._orbax.wait_until_finished()
      if jax.process_index() == 0:
        if _saved_structure(path) != described:
          raise _unreadable(path, 'it does not hold the state that was saved')
        write_atomically(path / META, text)
        write_manifest(path)
        whole = [s for s in self.steps() if not self._known_damage(s)]
        self._remove_all_but({*whole[-self._keep :], self._best(whole)})
    self._damage[step] = None

  def _path(self, step: int) -> epath.Path:
    return self._directory / str(step)

  def _folders(self) -> list[int]:
    """Steps that were saved or begun, ascending."""
    if not self._directory.exists():
      return []
    names = (path.name for path in self._directory.iterdir())
    return sorted(int(n) for n in names if n.isdecimal() and n == str(int(n)))

  def _remove_all_but(self, keep: Container[int | None]) -> None:
    for step in self._folders():
      if step not in keep:
        # The manifest first: half of a checkpoint must not look complete.
        (self._path(step) / MANIFEST).unlink(missing_ok=True)
        self._path(step).rmtree()

  def _read(self, step: int) -> dict[str, Any]:
    """Returns meta.json: {'error': float | None, 'meta': dict}."""
    if damage := find_damage(self._path(step), META):
      raise UserError(f'checkpoint {self._path(step)} is damaged: {damage}')
    try:
      read = json.loads((self._path(step) / META).read_text())
      whole = isinstance(read['meta'], dict) and (
        read['error'] is None or math.isfinite(read['error'])
      )
    except Exception as error:  # of a file that something else wrote
      raise _unreadable(self._path(step), f'{META}: {error!r}') from error
    if not whole:
      raise _unreadable(self._path(step), f'{META} is not of this program')
    return read

  def _best(self, steps: list[int]) -> int | None:
    errors = {step: self._read(step)['error'] for step in steps}
    measured = [step for step in steps if errors[step] is not None]
    return min(measured, key=errors.__getitem__, default=None)

  def _choose(self, which: int | str) -> int | None:
    """The step to read, verified; None for 'last' if there is none."""
    self.wait()
    # Process 0 looks, for all: a file may be bad on one machine only.
    found = self._find(which) if jax.process_index() == 0 else None
    none = np.int32(-1)
    number = none if found is None else np.int32(found)
    step = int(multihost_utils.broadcast_one_to_all(number))
    if step == none:
      return None
    self._damage[step] = None
    return step

  def _find(self, which: int | str) -> int | None:
    if which == 'last':
      return self._last()
    steps = self.steps()
    there_are = f'complete are those of steps {steps}'
    if which == 'best':
      step = self._best(steps)
      if len(steps) == 1:  # such as of an imported network, not evaluated yet
        step = steps[0]
      if step is None:
        raise UserError(
          f'no checkpoint in {self._directory} has a validation error, so '
          f'none is the best; {there_are}'
        )
    elif str(which).isdecimal():
      step = int(which)
      if step not in self._folders():
        raise UserError(
          f'no checkpoint of step {step} in {self._directory}; {there_are}'
        )
    else:
      raise UserError(
        f"{which!r} is not a checkpoint: ask for 'last', 'best' or a step"
      )
    if damage := self._look(step):
      raise UserError(
        f'checkpoint {self._path(step)} is damaged: {damage}; {there_are}'
      )
    return step

  def _last(self) -> int | None:
    folders = self._folders()
    for step in reversed(folders):
      known = step in self._damage
      damage = self._look(step)
      if damage is None:
        return step
      if not known:
        logging.warning(
          'skipping damaged checkpoint %s: %s', self._path(step), damage
        )
    if self.steps():
      raise UserError(
        f'every checkpoint in {self._directory} is damaged: put an intact '
        'copy back, or start again in another --workdir'
      )
    return None

  def _look(self, step: int) -> str | None:
    if step not in self._damage:
      self._damage[step] = find_damage(self._path(step))
    return self._damage[step]

  def _known_damage(self, step: int) -> str | None:
    return self._damage.get(step) or find_damage(self._path(step), META)

  def _check_structure(
    self, path: epath.Path, abstract_state: Any, partial: bool
  ) -> None:
    """Refuses other names, shapes and dtypes (Orbax casts silently)."""
    saved = _saved_structure(path.parent)
    wanted = _describe(abstract_state)
    names = wanted.keys() if partial else saved.keys() | wanted.keys()
    differences = [
      f'{name} is {saved.get(name, "missing")}, '
      f'not {wanted.get(name, "expected")}'
      for name in sorted(names)
      if saved.get(name) != wanted.get(name)
    ]
    if differences:
      raise UserError(
        f'checkpoint {path.parent} is of another network: '
        + '; '.join(differences[:5])
        + (f'; and {len(differences) - 5} more' if differences[5:] else '')
      )


def _saved_structure(path: epath.Path) -> dict[str, str]:
  """What `_describe` says of the state in a checkpoint."""
  try:
    handler = ocp.PyTreeCheckpointHandler()
    return _describe(handler.metadata(path / STATE).tree)
  except Exception as error:  # Orbax's, of files it did not write
    raise _unreadable(path, error) from error


def _unreadable(path: epath.Path, why: object) -> UserError:
  """Of a checkpoint that agrees with its manifest and still cannot be read."""
  reason = str(why).partition('\n')[0][:300]
  return UserError(
    f'checkpoint {path} cannot be read: {reason}. Remove it to go on from an '
    'earlier one'
  )


def _describe(tree: Any) -> dict[str, str]:
  """{'params/conv1/bias': 'float32[96]', ...}"""
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): (
      f'{np.dtype(leaf.dtype)}{list(leaf.shape)}'
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }
