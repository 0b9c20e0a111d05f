"""Several processes as one run (`jax.distributed`), and how they end."""

import contextlib
import faulthandler
import functools
import hashlib
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from absl import logging

# Private, for `jax.process_count()` would start the backend.
from jax._src import distributed as _distributed
from jax.experimental import multihost_utils

from alexnet_jax.runtime.errors import UserError, refuse

# Seconds after which a silent process counts as dead, and all others end.
HEARTBEAT = 60
# Seconds until a run says that it waits for processes, and until it gives up.
SILENCE, PATIENCE = 10, 240


def initialize(
  mode: str = 'auto',
  coordinator: str | None = None,
  processes: int | None = None,
  process: int | None = None,
) -> None:
  """Joins the other processes of the run; once, and before any backend.

  Process 0 alone speaks: the others are silent but for errors.

  Args:
    mode: 'auto': as Slurm, Cloud TPU, Kubernetes or Open MPI say, alone where
      there is none of them; 'off': alone; 'manual': as the other arguments
      say.
    coordinator: HOST:PORT, where process 0 listens.
    processes: how many there are.
    process: which one this is.

  Raises:
    UserError: they make no sense, or there is no such place to listen at.
  """
  given = (coordinator, processes, process)
  if any((value is None) == (mode == 'manual') for value in given):
    raise UserError(
      f'--distributed={mode} --coordinator={coordinator} --processes='
      f'{processes} --process={process}: manual needs all three, the others '
      'none'
    )
  if mode == 'off' or jax.distributed.is_initialized():
    return
  try:
    with _waiting(mode):
      jax.distributed.initialize(
        *given,
        cluster_detection_method='deactivate' if mode == 'manual' else None,
        initialization_timeout=SILENCE + PATIENCE + 60,
        heartbeat_timeout_seconds=HEARTBEAT,
      )
  except (ValueError, RuntimeError) as error:
    if mode == 'auto' and 'coordinator_address should be' in str(error):
      return  # there is no cluster
    raise UserError(
      f'--distributed={mode}: the processes did not find each other: {error}'
    ) from error
  if mode == 'auto' and _has_its_own_devices():
    for name in ('jax_cuda_visible_devices', 'jax_rocm_visible_devices'):
      jax.config.update(name, 'all')
  if num_processes() > 1:
    # The runtime aborts a process that has lost another, and says why: a
    # listing of all threads adds nothing.
    faulthandler.disable()
  if _distributed.global_state.process_id:
    sys.stdout = open(os.devnull, 'w')  # noqa: SIM115
    logging.set_verbosity(logging.ERROR)


@contextlib.contextmanager
def _waiting(mode: str) -> Iterator[None]:
  """Says so while processes are missing, and ends this one before JAX aborts
  it with a stack trace of C++."""
  met = threading.Event()

  def watch() -> None:
    if met.wait(SILENCE):
      return
    print(
      f'--distributed={mode}: waiting for other processes of this run',
      file=sys.stderr,
      flush=True,
    )
    if met.wait(PATIENCE):
      return
    status = refuse(
      f'--distributed={mode}: not all processes of this run were there after '
      f'{SILENCE + PATIENCE} seconds: look whether each has started, and '
      'reaches the port of process 0'
    )
    sys.stderr.flush()
    os._exit(status)

  threading.Thread(target=watch, daemon=True).start()
  try:
    yield
  finally:
    met.set()


def num_processes() -> int:
  """`jax.process_count()`, without starting a backend."""
  return _distributed.global_state.num_processes


def union(indices: set[int]) -> set[int]:
  """The int32 numbers >= 0 that any process has; all call it together, while
  no other program of theirs is under way."""
  if num_processes() == 1:
    return set(indices)
  count = np.int32(len(indices))
  row = np.full(multihost_utils.process_allgather(count).max(), -1, np.int32)
  if not row.size:
    return set()
  row[:count] = sorted(indices)
  return set(multihost_utils.process_allgather(row).ravel().tolist()) - {-1}


def refuse_different(what: str, value: Any) -> None:
  """Refuses a value, as JSON has it, that processes have differently; all call
  it together.

  Raises:
    UserError: with `what` it is.
  """
  if num_processes() > 1 and _with_the_same(value) < num_processes():
    raise UserError(
      f'{what} is not the same in all processes: give each the same copy'
    )


@functools.cache
def processes_here() -> tuple[int, int]:
  """How many processes of the run, this one among them, are on this machine,
  and how many have its cores; all call it together, first when no program of
  theirs is under way. Of a container: in that container."""
  if num_processes() == 1:
    return 1, 1
  machine = socket.gethostname()
  cores = sorted(os.sched_getaffinity(0))
  return _with_the_same(machine), _with_the_same([machine, cores])


def _with_the_same(value: Any) -> int:
  """The processes that call this with the same value, as JSON has it."""
  digest = hashlib.sha256(json.dumps(value).encode()).digest()
  own = np.frombuffer(digest, np.uint8)
  return int((multihost_utils.process_allgather(own) == own).all(1).sum())


def _has_its_own_devices() -> bool:
  """Whether all accelerators that this process sees are for it.

  JAX gives the n-th process of a node the n-th accelerator, which is wrong for
  one process per node, and where the scheduler shows each only its own.
  """
  here = os.environ.get('SLURM_STEP_TASKS_PER_NODE') or os.environ.get(
    'OMPI_COMM_WORLD_LOCAL_SIZE', ''
  )
  seen = os.environ.get('CUDA_VISIBLE_DEVICES', '')
  # Slurm writes 1(x4) for one process on each of four nodes.
  return bool(
    re.fullmatch(r'1(\(x\d+\))?', here) or re.fullmatch('[^,]+', seen)
  )


class CommonError(UserError):
  """One that all processes of a run have at the same place."""


@contextlib.contextmanager
def together() -> Iterator[None]:
  """In a run of several processes, an error ends this one at once.

  The others see it leave, and end, too. To clean up would be to wait for them,
  while they wait for this one; a `CommonError` they all clean up after.
  """
  try:
    yield
  except BaseException as error:
    if num_processes() == 1 or isinstance(error, CommonError):
      raise
    status = 1
    if isinstance(error, UserError):
      status = refuse(str(error))
    elif isinstance(error, jax.errors.JaxRuntimeError):
      reason = str(error).partition('\n')[0]
      refuse(f'{reason}. Run the same command again to go on')
    else:
      sys.excepthook(*sys.exc_info())
    print(
      f'process {_distributed.global_state.process_id} of {num_processes()} '
      'leaves, and so will the others; if one left before, its own messages '
      'say why',
      file=sys.stderr,
    )
    sys.stdout.flush()
    sys.stderr.flush()
    if not _distributed.global_state.process_id:
      # It holds all connections: those with the same error speak first.
      time.sleep(1)
    os._exit(status)
