"""Changes of bytes at random: what a disk, a network or an enemy may do."""

import dataclasses
import random

NUMBERS = [b'\xff' * 4, b'\x7f' + b'\xff' * 3, b'\x80' + b'\0' * 3, b'\0' * 4]


@dataclasses.dataclass(frozen=True)
class Change:
  """One change to some bytes; `where` and `to` are shares of their length."""

  kind: str
  where: float
  to: float
  size: int
  junk: bytes

  KINDS = tuple(
    ['flip', 'cut', 'zero', 'insert', 'delete', 'copy', 'number', 'digits']
  )

  def apply(self, data: bytes) -> bytes:
    start = int(self.where * len(data))
    end, to = start + self.size, int(self.to * len(data))
    match self.kind:
      case 'flip':
        flipped = bytes(
          byte ^ (1 << self.size % 8) for byte in data[start:][:1]
        )
        return data[:start] + flipped + data[start + 1 :]
      case 'cut':
        return data[:start]
      case 'zero':
        return data[:start] + bytes(len(data[start:end])) + data[end:]
      case 'insert':
        return data[:start] + self.junk + data[start:]
      case 'delete':
        return data[:start] + data[end:]
      case 'copy':
        part = data[start:end]
        return data[:to] + part + data[to + len(part) :]
      case 'number':  # 32 bits of a length, a size, an offset
        return data[:start] + NUMBERS[self.size % 4] + data[start + 4 :]
      case 'digits':  # of the next number that is written out
        text = data[start : start + 200]
        found = [i for i, byte in enumerate(text) if chr(byte).isdigit()]
        at = start + (found[0] if found else 0)
        return data[:at] + self.junk[:3] + data[at + 1 :]
    raise ValueError(self.kind)


def random_changes(rng: random.Random) -> list[Change]:
  return [
    Change(
      rng.choice(Change.KINDS),
      # Headers are short, and lie at the beginning.
      rng.random() ** rng.choice([1, 4]),
      rng.random(),
      rng.choice([1, 2, 4, 16, 100, 512, 5000]),
      rng.choice([rng.randbytes(rng.randint(1, 600)), b'-9', b'9' * 12, b'[[']),
    )
    for _ in range(rng.randint(1, 4))
  ]


def spoil(data: bytes, changes: list[Change]) -> bytes:
  for change in changes:
    data = change.apply(data)
  return data
