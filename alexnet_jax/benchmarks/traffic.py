"""What a compiled program moves to and from memory, by layer: from its text.

XLA's own sum ('bytes accessed') has no layers in it, and counts what a TPU
keeps in its vector memory as if that were HBM. Here each instruction of the
program's entry, most of which are fusions, counts those of its operands and
results that lie in HBM once; what is inside a fusion stays on the chip. A loop
counts all that it carries, in and out.
"""

import math
import re
from collections import defaultdict

_BYTES = {'pred': 1, 'bf16': 2}
_ARRAY = re.compile(r'\b([a-z]+\d*)\[([\d,]*)\](\{[^}]*\})?')
_LINE = re.compile(
  r'\s+(?:ROOT )?%(?P<name>\S+) = (?P<type>\(.*?\)|\S+) (?P<opcode>[\w-]+)'
  r'\((?P<operands>.*?)\)(?:[,\s]|$)'
)
_FREE = {
  'bitcast', 'constant', 'get-tuple-element', 'parameter', 'tuple',
}  # fmt: skip
_ON_CHIP = 'S(1)'  # a layout's memory space: vector memory


def by_scope(text: str) -> dict[str, int]:
  """{JAX's name stack of an instruction: bytes}."""
  entry = text[text.index('\nENTRY ') :]
  sizes: dict[str, int] = {}
  reads: dict[str, int] = {}  # of copies that go on beside other work
  moved: dict[str, int] = defaultdict(int)
  for line in entry.splitlines():
    found = _LINE.match(line)
    if not found:
      continue
    size = sizes[found['name']] = _size(found['type'])
    opcode = found['opcode']
    if opcode in _FREE:
      continue
    operands = re.findall(r'%([\w.-]+)', found['operands'])
    read = sum(sizes.get(name, 0) for name in operands)
    if opcode.endswith('-start'):
      reads[found['name']] = read
      continue
    if opcode.endswith('-done'):  # of what is there, no more than arrives
      arrives = _size(found['type'], anywhere=True)
      read = min(arrives, sum(reads.get(name, 0) for name in operands))
    scope = re.search(r'op_name="(.*?)"', line)
    moved[scope[1] if scope else ''] += size + read
  return dict(moved)


def _size(type_: str, anywhere: bool = False) -> int:
  """Bytes of a type's arrays in HBM, or of all."""
  return sum(
    math.prod(map(int, dims.split(','))) * _width(dtype) if dims else 0
    for dtype, dims, layout in _ARRAY.findall(type_)
    if anywhere or _ON_CHIP not in layout
  )


def _width(dtype: str) -> int:
  digits = re.search(r'\d+', dtype)
  return _BYTES.get(dtype) or (int(digits[0]) // 8 if digits else 1)
