"""The order in which training reads a split: Grain's shuffle, for many
positions at once.

Grain permutes an epoch with a small block cipher (Simon, four rounds) whose
keys follow from the seed and the epoch, and encrypts a number again while the
result is no position of the split. It does so for one position a call; here
NumPy does so for all positions of a batch, and gives the same numbers, but for
splits of 2 ** (2 k) + 1 pictures, 65,537 and more: there Grain's block is too
small, so that one picture comes twice and another never.
"""

import functools

import numpy as np

_ROUNDS = 4
_LEAST_BITS = 16  # of a block, however small the split is
_MASK = 0xFFFFFFFF


class Order:
  """Which example stands at each place of an endless stream of epochs."""

  def __init__(self, seed: int, count: int):
    """Computes nothing yet.

    Args:
      seed: of the run.
      count: examples of the split, at least 1.
    """
    self._count = count
    # How `grain.MapDataset.seed(seed).shuffle()` comes to its own seed.
    self._seed = int(np.random.SeedSequence([seed, 1]).generate_state(1)[0])

  def positions(self, places: np.ndarray) -> np.ndarray:
    """The examples at some places of the stream.

    Args:
      places: int64 [N], counted from the start of the first epoch; they may
        be of several epochs.

    Returns:
      int64 [N], positions in the order of storage.
    """
    epochs, indices = np.divmod(places, self._count)
    found = np.zeros_like(indices)
    if self._count > 1:
      for epoch in np.unique(epochs):
        here = epochs == epoch
        seed = (self._seed + int(epoch)) & _MASK
        found[here] = _shuffled(indices[here], seed, self._count)
    return found


def _shuffled(indices: np.ndarray, seed: int, count: int) -> np.ndarray:
  """Where the shuffle of one epoch sends int64 [N]."""
  bits = (count - 1).bit_length()
  bits = max(bits + bits % 2, _LEAST_BITS)
  if bits == _LEAST_BITS:
    return _table(seed, count)[indices % 2**bits]
  found = encrypt(indices, round_keys(seed), bits)
  (out,) = np.nonzero(found >= count)
  while out.size:
    found[out] = encrypt(found[out], round_keys(seed), bits)
    out = out[found[out] >= count]
  return found


# A batch may straddle epochs, and several threads may read.
@functools.lru_cache(8)
def _table(seed: int, count: int) -> np.ndarray:
  """What the shuffle makes of every number of the smallest block, int64
  [2 ** 16]: a small split is a small part of them, and to encrypt until the
  result is in it would take thousands of turns."""
  numbers = np.arange(2**_LEAST_BITS)
  found = encrypt(numbers, round_keys(seed), _LEAST_BITS)
  # After k turns an entry is the first position that is met in 2 ** k
  # encryptions, or the number after them if there is none.
  while (found[:count] >= count).any():
    out = found >= count
    found[out] = found[found[out]]
  return found


def encrypt(
  numbers: np.ndarray, keys: tuple[int, ...], bits: int
) -> np.ndarray:
  """One pass of the cipher over int64 [N], of which the low `bits` count."""
  word = bits // 2
  mask = (1 << word) - 1

  def turn(x: np.ndarray, by: int) -> np.ndarray:
    return (x << by | x >> (word - by)) & mask

  def mix(x: np.ndarray) -> np.ndarray:
    return (turn(x, 1) & turn(x, 8)) ^ turn(x, 2)

  left, right = numbers >> word & mask, numbers & mask
  for key in keys:
    left, right = right, left ^ mix(right) ^ (key & mask)
  return left << word | right


@functools.lru_cache(64)
def round_keys(seed: int) -> tuple[int, ...]:
  """C++'s `std::seed_seq{seed}.generate`, as Grain takes its round keys.

  Args:
    seed: uint32.

  Returns:
    Four uint32.
  """
  n = _ROUNDS
  b = [0x8B8B8B8B] * n
  for k in range(n):
    here, after, last = k, (k + 1) % n, (k + 2) % n
    x = b[here] ^ b[after] ^ b[k - 1]
    one = 1664525 * (x ^ x >> 27) & _MASK
    two = one + (1, 1 + seed, 2, 3)[k] & _MASK
    b[after] = b[after] + one & _MASK
    b[last] = b[last] + two & _MASK
    b[here] = two
  for k in range(n):
    here, after, last = k, (k + 1) % n, (k + 2) % n
    x = b[here] + b[after] + b[k - 1] & _MASK
    one = 1566083941 * (x ^ x >> 27) & _MASK
    two = one - k & _MASK
    b[after] ^= one
    b[last] ^= two
    b[here] = two
  return tuple(b)
