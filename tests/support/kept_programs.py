"""Where compiled programs stay from one run of the tests to the next.

JAX names a program by what it was compiled from, by its flags and by jaxlib's
version, not by the processor that its machine code is for: so each kind of
processor, and each Python, has a folder of its own. All of it may be removed
at any time.
"""

import hashlib
import platform
import time
from pathlib import Path

import jax
import jaxlib
from jax._src import compilation_cache

_ROOT = Path(__file__).parents[2] / '.cache' / 'compiled'


def folder() -> Path:
  """That of this machine, Python and JAX."""
  words = [
    f'jax-{jax.__version__}',
    f'jaxlib-{jaxlib.__version__}',
    f'python-{platform.python_version()}',
    hashlib.sha256(_processor().encode()).hexdigest()[:12],
  ]
  return _ROOT / '-'.join(words)


def _processor() -> str:
  """Model and features of the first processor."""
  try:
    first = Path('/proc/cpuinfo').read_text().partition('\n\n')[0]
  except OSError:
    return f'{platform.machine()} {platform.processor()}'
  fields = ('vendor_id', 'cpu family', 'model', 'stepping', 'flags', 'Features')
  return '\n'.join(
    line for line in first.splitlines() if line.startswith(fields)
  )


def tidy(kept: Path, most: int = 2 * 10**9) -> None:
  """Before the tests: removes what is cut short, and the oldest of too many.

  JAX writes a program in place and never again: where a process was killed in
  between, half a file would be found, and compiled anew, for ever.

  Args:
    kept: a folder of compiled programs, which is made if there is none.
    most: bytes that may stay.
  """
  kept.mkdir(parents=True, exist_ok=True)
  mark = kept / 'tidied'
  since = mark.stat().st_mtime if mark.exists() else 0.0
  now = time.time()
  files = sorted(kept.glob('*-cache'), key=lambda file: file.stat().st_mtime)
  left = sum(file.stat().st_size for file in files)
  for file in files:
    about = file.stat()
    if left > most or (about.st_mtime >= since and not _is_whole(file)):
      file.unlink(missing_ok=True)
      left -= about.st_size
  mark.write_text(f'{now}\n')


def _is_whole(file: Path) -> bool:
  try:
    compilation_cache.decompress_executable(file.read_bytes())
  except Exception:  # whatever the format says of half a file
    return False
  return True
