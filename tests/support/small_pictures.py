"""Small photographs, and data sets made of them."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from alexnet_jax.data import (
  preparation,
)


def draw_picture(seed: int, size: tuple[int, int] = (80, 60)) -> Image.Image:
  rng = np.random.default_rng(seed)
  pixels = rng.integers(0, 256, (6, 8, 3), np.uint8)
  return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def draw_jpeg(seed: int) -> bytes:
  buffer = io.BytesIO()
  draw_picture(seed).save(buffer, 'JPEG')
  return buffer.getvalue()


def write_tree(root: Path, counts: dict[str, int], seed: int = 0) -> Path:
  """Writes `count` photographs into each folder of `counts`."""
  for folder, count in counts.items():
    (root / folder).mkdir(parents=True, exist_ok=True)
    for i in range(count):
      (root / folder / f'{i}.jpg').write_bytes(draw_jpeg(seed := seed + 1))
  return root


def prepare(source: str, tmp_path: Path, input_dir=None, **kwargs):
  kwargs = {'data_dir': tmp_path / 'data', 'num_workers': 1} | kwargs
  if source == 'folder':
    kwargs.setdefault('name', 'pets')
  return preparation.prepare(source, input_dir=input_dir, **kwargs)


def contents(folder: Path) -> dict[str, bytes]:
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob('*'))
    if path.is_file() and path.name != '.lock'
  }


def start(tmp_path: Path, tree: Path, **environment: str) -> subprocess.Popen:
  return subprocess.Popen(
    [
      *(sys.executable, '-m', 'alexnet_jax.prepare', '--source=folder'),
      *(f'--input={tree}', '--name=pets', f'--data_dir={tmp_path / "data"}'),
      '--workers=2',
    ],
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    start_new_session=True,
    env=os.environ | environment,
  )
