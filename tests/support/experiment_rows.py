"""Rows of experiments as runs leave them, made up."""

from pathlib import Path

import numpy as np

from experiments import plan, rows


def a_row(variant: str, seed: int, top1: float, **more: str) -> rows.Row:
  """A row of `lrn`, small, unless `more` says another."""
  return dict.fromkeys(rows.COLUMNS, '') | {
    'experiment': 'lrn',
    'form': 'small',
    'variant': variant,
    'seed': str(seed),
    'config': f'{variant}{seed}',
    'status': 'finished',
    'data': 'd',
    'split': 'test',
    'views': '1',
    'examples': '400',
    'top1': str(top1),
    'at_chance': '0',
    'hours': '0.5',
    'curve_split': 'train',
    'commit': 'abc',
    'versions': 'jax-1',
    'hardware': '1 x cpu',
    **more,
  }


def planned(variant: str, seed: int, **extra: object) -> rows.Row:
  """What a table knows the row of that run of `lrn`, small, by."""
  runs = plan.plan('lrn', 'small', seed + 1, extra)
  (run,) = (r for r in runs if (r.variant, r.seed) == (variant, seed))
  found = rows.identity(run)
  return {name: found[name] for name in ('config', 'split', 'views')}


def keep(
  folder: Path, variant: str, seed: int, wrong: np.ndarray, **more: str
) -> rows.Row:
  """Writes a row of a run that got these pictures wrong, bool [pictures]."""
  row = a_row(variant, seed, 100 * float(np.mean(wrong)), **more)
  row['examples'] = str(len(wrong))
  rows.add(row, np.packbits(~wrong).tobytes().hex(), folder)
  return row
