"""Memory for batches, used again once nobody holds the batch.

A new array of megabytes costs a page fault for each 4 KB of it, and these take
longer than to fill it.
"""

import math
import mmap
import weakref

import numpy as np

_MOST = 8  # kept for later; what there is beyond is given back
_free: dict[int, list[mmap.mmap]] = {}  # by bytes; readers' threads share it


def take(shape: tuple[int, ...]) -> np.ndarray:
  """uint8 of this shape, with anything in it.

  Its memory is free again when the array and all views of it are gone. JAX
  holds one while it copies from it, or, on CPUs, while a device array lies in
  it.
  """
  size = math.prod(shape)
  free = _free.setdefault(size, [])
  try:
    memory = free.pop()
  except IndexError:
    # At the start of a page; a process that forks must not write into it.
    memory = mmap.mmap(-1, max(size, 1), mmap.MAP_PRIVATE)
  array = np.ndarray(shape, np.uint8, memory)

  def give_back() -> None:
    if len(free) < _MOST:
      free.append(memory)

  # Views of the array refer to it, since it does not own its memory.
  weakref.finalize(array, give_back).atexit = False
  return array
