"""What a compiled program sends and moves, read from its text.

XLA's text of the optimized program is the one account of its communication:
what was asked for may have been removed, combined or repeated in a loop. It is
also the one account of memory by layer, for XLA's own sum ('bytes accessed')
has no layers in it.
"""

import dataclasses
import itertools
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

_BITS = {'pred': 8, 'bf16': 16}  # else the digits of the name: f32, s8
_COLLECTIVES = {
  *('all-gather', 'all-reduce', 'all-to-all', 'collective-broadcast'),
  *('collective-permute', 'ragged-all-to-all', 'reduce-scatter'),
}
# These move nothing.
_FREE = {'bitcast', 'constant', 'get-tuple-element', 'parameter', 'tuple'}
_ON_CHIP = 'S(1)'  # a layout's memory space: a TPU's vector memory
# %name = type opcode(operands), attributes
_INSTRUCTION = re.compile(
  r'\s+(?:ROOT )?%(?P<name>\S+) = (?P<type>\(.*?\)|\S+) (?P<opcode>[\w-]+)'
  r'\((?P<operands>.*?)\)(?:[,\s]|$)'
)
_ARRAY = re.compile(r'\b([a-z]+\d*)\[([\d,]*)\](\{[^}]*\})?')
_CALLED = re.compile(
  r'(?:calls|to_apply|body|condition|branch_computations|called_computations'
  r'|true_computation|false_computation)=(?:\{([^}]*)\}|(%[\w.-]+))'
)


@dataclasses.dataclass(frozen=True)
class Collective:
  """One array that devices send each other.

  Attributes:
    operation: 'all-gather', 'all-reduce', ...
    scope: where it comes from: JAX's name stack, which holds every
      `jax.named_scope` and, in a backward pass, `transpose(...)`.
    axes: the mesh axes along which the devices of a group differ.
    dtype: XLA's name of what is sent, such as 'f32'.
    elements: numbers in the result on one device.
    group: devices that take part together.
    times: how often it is done in one run of the program.
  """

  operation: str
  scope: str
  axes: tuple[str, ...]
  dtype: str
  elements: int
  group: int
  times: int

  @property
  def bytes(self) -> int:
    """What a device receives of the others in one run of the program, at
    least; for an all-reduce, 2 (n - 1) / n of the array."""
    others = self.group - 1
    match self.operation:
      case 'all-reduce':
        received = math.ceil(2 * self.elements * others / self.group)
      case 'reduce-scatter':
        received = self.elements * others
      case 'collective-permute' | 'collective-broadcast':
        received = self.elements
      case _:
        received = self.elements * others // self.group
    return received * self.times * _bits(self.dtype) // 8


def read_collectives(
  text: str, mesh_shape: Mapping[str, int]
) -> list[Collective]:
  """The collectives of a program, those among a single device left out.

  Args:
    text: `jitted.lower(...).compile().as_text()`.
    mesh_shape: sizes by axis name of the mesh it was compiled for, whose
      devices are the program's in order.

  Raises:
    ValueError: XLA does not know how often a loop with collectives runs, or a
      group of devices is not along axes of the mesh.
  """
  computations = _computations(text)
  found = []
  for name, times in _runs(computations):
    lines = computations[name]
    for one in _instructions(lines):
      line, operation = one.string, one['opcode'].removesuffix('-start')
      if operation not in _COLLECTIVES:
        continue
      groups = _groups(line, math.prod(mesh_shape.values()))
      size = groups.shape[1]
      if size == 1:
        continue
      if not times:
        raise ValueError(f'in a loop of unknown length: {line.strip()}')
      scopes = _scopes(one, lines)
      for index, array in enumerate(_results(one)):
        found.append(
          Collective(
            operation=operation,
            scope=scopes.get(index, scopes[None]),
            axes=_axes(groups, mesh_shape, line),
            dtype=array.dtype,
            elements=math.prod(array.shape),
            group=size,
            times=times,
          )
        )
  return found


class Kernel(NamedTuple):
  """An instruction of a program's entry that moves something.

  Attributes:
    name: as a trace has it.
    opcode: such as 'fusion'; of a custom call, what it calls.
    scope: where it comes from, as `Collective` has it.
    type: of its results.
    read: bytes.
    written: bytes.
  """

  name: str
  opcode: str
  scope: str
  type: str
  read: int
  written: int


def bytes_by_scope(text: str) -> dict[str, int]:
  """What a program moves to and from memory: {JAX's name stack: bytes}."""
  moved: dict[str, int] = defaultdict(int)
  for one in list_kernels(text):
    moved[one.scope] += one.read + one.written
  return dict(moved)


def list_kernels(text: str) -> list[Kernel]:
  """What runs one after the other, and what it moves to and from memory.

  Each instruction of the program's entry, most of which are fusions, counts
  those of its operands and results that lie in a TPU's HBM once; what is inside
  a fusion stays on the chip. XLA's own sum counts what lies in vector memory,
  too. A loop counts all that it carries, in and out.
  """
  sizes: dict[str, int] = {}
  reads: dict[str, int] = {}  # of copies that go on beside other work
  found = []
  for one in _instructions(_computations(text)['']):
    name, opcode = one['name'], one['opcode']
    size = sizes[name] = _size(one['type'])
    if opcode in _FREE:
      continue
    operands = re.findall(r'%([\w.-]+)', one['operands'])
    read = sum(sizes.get(operand, 0) for operand in operands)
    if opcode.endswith('-start'):
      reads[name] = read
      continue
    if opcode.endswith('-done'):  # it reads no more than what arrives
      arrives = _size(one['type'], anywhere=True)
      read = min(arrives, sum(reads.get(operand, 0) for operand in operands))
    target = re.search(r'custom_call_target="(.*?)"', one.string)
    if target:  # room that a library works in is a row of bytes
      size -= _size(' '.join(re.findall(r'\bu8\[\d+\]', one['type'])))
    found.append(
      Kernel(
        name,
        target[1] if target else opcode,
        _scope(one.string),
        one['type'],
        read,
        size,
      )
    )
  return found


# -- the text


class _Array(NamedTuple):
  dtype: str
  shape: tuple[int, ...]
  layout: str


def _computations(text: str) -> dict[str, list[str]]:
  """Lines by computation; the entry's name is ''."""
  computations: dict[str, list[str]] = {}
  lines: list[str] = []
  for line in text.splitlines():
    if line.startswith(('%', 'ENTRY')) and line.endswith('{'):
      name = '' if line.startswith('ENTRY') else line.split()[0]
      lines = computations[name] = []
    else:
      lines.append(line)
  return computations


def _instructions(lines: Iterable[str]) -> Iterator[re.Match[str]]:
  """Those lines that are instructions, as `_INSTRUCTION` matches them."""
  return filter(None, map(_INSTRUCTION.match, lines))


def _arrays(type_: str) -> list[_Array]:
  """The arrays of a type, which may be a tuple of them."""
  return [
    _Array(dtype, tuple(_ints(dims)) if dims else (), layout)
    for dtype, dims, layout in _ARRAY.findall(type_)
  ]


def _scope(line: str) -> str:
  found = re.search(r'op_name="(.*?)"', line)
  return found[1] if found else ''


def _size(type_: str, anywhere: bool = False) -> int:
  """Bytes of a type's arrays in HBM, or of all; scalars do not count."""
  return sum(
    math.prod(array.shape) * _bits(array.dtype) // 8
    for array in _arrays(type_)
    if array.shape and (anywhere or _ON_CHIP not in array.layout)
  )


def _bits(dtype: str) -> int:
  digits = re.search(r'\d+', dtype)
  return _BITS[dtype] if dtype in _BITS else int(digits[0]) if digits else 8


def _ints(text: str) -> list[int]:
  return [int(number) for number in text.split(',')]


# -- collectives


def _runs(computations: dict[str, list[str]]) -> Iterator[tuple[str, int]]:
  """Each call of a computation, and how often it is made; 0: unknown."""
  waiting = [('', 1)]
  while waiting:
    name, times = waiting.pop()
    yield name, times
    for line in computations[name]:
      if ' async-done(' in line or ' async-update(' in line:
        continue  # of what async-start called
      trips = 1
      if ' while(' in line:
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', line)
        trips = int(known[1]) if known else 0
      for several, one in _CALLED.findall(line):
        for called in (several or one).split(', '):
          waiting.append((called, times * trips))


def _groups(line: str, devices: int) -> np.ndarray:
  """Devices that take part together, [groups, size]."""
  if pairs := re.search(r'source_target_pairs=\{(.*?\})\}', line):
    return _numbers(pairs[1])
  if explicit := re.search(r'replica_groups=\{(\{.*?\})\}', line):
    return _numbers(explicit[1])
  if along := re.search(
    r'replica_groups=mesh\[(.*?)\](?:, device_ids=\((.*?)\))? \{(.*?)\}', line
  ):
    return _along(*along.groups())
  iota = re.search(
    r'replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?', line
  )
  if iota is None:
    if 'replica_groups=' in line.replace('replica_groups={}', ''):
      raise ValueError(f'groups in an unknown form: {line.strip()}')
    return np.arange(devices)[None]  # of all
  shape, dims = _ints(iota[1]), _ints(iota[2])
  ids = np.arange(math.prod(dims)).reshape(dims)
  if iota[3]:
    ids = ids.transpose(_ints(iota[3]))
  return ids.reshape(shape)


def _along(mesh: str, ids: str | None, names: str) -> np.ndarray:
  """Groups along axes of a mesh, as XLA writes them since JAX 0.12: of
  "'a'=2,'b'=4", in its order or that of `ids`, along "'b'"."""
  sizes = re.findall(r"'?(\w+)'?=(\d+)", mesh)
  shape = [int(size) for _, size in sizes]
  places = [name for name, _ in sizes]
  axes = [places.index(name.strip("'")) for name in names.split(',')]
  devices = np.array(_ints(ids)) if ids else np.arange(math.prod(shape))
  last = range(-len(axes), 0)
  group = math.prod(shape[axis] for axis in axes)
  return np.moveaxis(devices.reshape(shape), axes, last).reshape(-1, group)


def _numbers(text: str) -> np.ndarray:
  return np.array([_ints(row) for row in re.findall(r'\{([\d,]+)\}?', text)])


def _axes(
  groups: np.ndarray, mesh_shape: Mapping[str, int], line: str
) -> tuple[str, ...]:
  """The axes along which the devices of each group differ."""
  places = np.array(np.unravel_index(groups, tuple(mesh_shape.values())))
  differ = (places != places[:, :, :1]).any(axis=(1, 2))
  axes = tuple(itertools.compress(mesh_shape, differ))
  whole = math.prod(mesh_shape[axis] for axis in axes)
  if groups.shape[1] != whole and 'source_target_pairs' not in line:
    raise ValueError(f'groups are not along the mesh: {line.strip()}')
  return axes


def _scopes(one: re.Match[str], lines: list[str]) -> dict[int | None, str]:
  """Scopes of a collective's results: XLA combines collectives of different
  scopes, and leaves those to the instructions that take the results out."""
  scopes: dict[int | None, str] = {None: _scope(one.string)}
  if ' all-to-all' in one.string:  # its results are the parts of one
    return scopes
  taken = f' get-tuple-element(%{one["name"]}), index='
  for other in lines:
    if taken in other:
      index = re.match(r'\d+', other.partition(taken)[2])
      assert index is not None
      scopes[int(index[0])] = _scope(other)
  return scopes


def _results(one: re.Match[str]) -> list[_Array]:
  """Each array that a collective gives."""
  arrays = _arrays(one['type'])
  if one['opcode'] in ('all-gather-start', 'collective-permute-start'):
    # (operands, results[, contexts])
    arrays = [a for a in arrays if a[:2] != ('u32', ())]
    arrays = arrays[len(arrays) // 2 :]
  return arrays
