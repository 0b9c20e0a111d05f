"""Short names for large things: what a file says that it is of."""

import hashlib
import json
from typing import Any

import numpy as np


def fingerprint(*parts: Any) -> str:
  """A short name for NumPy arrays and values of JSON.

  Equal ones share it; others do not.
  """
  digest = hashlib.sha256()
  for part in parts:
    if isinstance(part, np.ndarray):
      digest.update(f'{part.dtype}{part.shape}'.encode())
      digest.update(part.tobytes())
    else:
      digest.update(json.dumps(part).encode())
  return digest.hexdigest()[:16]
