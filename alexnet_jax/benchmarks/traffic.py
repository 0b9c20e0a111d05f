"""What a compiled program reads and writes, by layer: from its text.

XLA's own sum ('bytes accessed') has no layers in it. Here each instruction of
the program's entry, most of which are fusions, counts its operands and its
results once; what is inside a fusion stays on the chip.
"""

import math
import re
from collections import defaultdict

_BYTES = {'pred': 1, 'bf16': 2}
_ARRAY = re.compile(r'\b([a-z]+\d*)\[([\d,]*)\]')
_LINE = re.compile(
  r'\s+(?:ROOT )?%(?P<name>\S+) = (?P<type>\(.*?\)|\S+) (?P<opcode>[\w-]+)'
  r'\((?P<operands>.*?)\)(?:[,\s]|$)'
)
# They move nothing; what an asynchronous copy moves is counted at its start.
_FREE = {
  'bitcast', 'constant', 'get-tuple-element', 'parameter', 'tuple',
}  # fmt: skip


def by_scope(text: str) -> dict[str, int]:
  """{JAX's name stack of an instruction: bytes}."""
  entry = text[text.index('\nENTRY ') :]
  sizes: dict[str, int] = {}
  moved: dict[str, int] = defaultdict(int)
  for line in entry.splitlines():
    found = _LINE.match(line)
    if not found:
      continue
    size = sizes[found['name']] = _size(found['type'])
    opcode = found['opcode']
    if opcode in _FREE or opcode.endswith('-done'):
      continue
    operands = re.findall(r'%([\w.-]+)', found['operands'])
    scope = re.search(r'op_name="(.*?)"', line)
    moved[scope[1] if scope else ''] += size + sum(
      sizes.get(name, 0) for name in operands
    )
  return dict(moved)


def _size(type_: str) -> int:
  return sum(
    math.prod(map(int, dims.split(','))) * _width(dtype) if dims else 0
    for dtype, dims in _ARRAY.findall(type_)
  )


def _width(dtype: str) -> int:
  digits = re.search(r'\d+', dtype)
  return _BYTES.get(dtype) or (int(digits[0]) // 8 if digits else 1)
