r"""Says what is on photographs.

  alexnet predict IMAGE... --workdir=runs/mine

IMAGE is a file, a folder (all files below it) or a glob. The network is the
best one of the run in --workdir; the data set need not be there. A file that
is no image is named at the end, and the exit status is 2 then.

  --format=table    lines for people
  --format=json     [{"image": ..., "predictions": [{"class": ..., "name": ...,
                    "label": ..., "probability": ...}, ...]}, ...]; the name
                    of one of ImageNet's classes has words before its synset
  --format=picture  the photographs with bars, as in figure 4, in --output
"""

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags

from alexnet_jax.runtime import errors, options

_WORKDIR = options.workdir()
_CHECKPOINT = options.checkpoint()
_VIEWS = options.views()
_TOP = flags.DEFINE_integer('top', 5, 'Classes to name.', lower_bound=1)
_FORMAT = flags.DEFINE_enum(
  'format', 'table', ['table', 'json', 'picture'], 'What to make of it.'
)
_OUTPUT = flags.DEFINE_string(
  'output',
  'predictions.png',
  'With --format=picture: the file to write; its ending says the kind.',
)
_MOST = 64  # photographs on one picture


def main(argv: Sequence[str]) -> int:
  if len(argv) < 2:
    raise errors.UserError('say which photographs: predict IMAGE...')
  if _FORMAT.value != 'picture':
    errors.refuse_flags(['output'], 'it is for --format=picture')
  from alexnet_jax import library
  from alexnet_jax.data import sources

  files = sources.named(argv[1:])
  if _FORMAT.value == 'picture':
    _check_picture(len(files))
  model = library.load(_WORKDIR.value, _CHECKPOINT.value)
  problems: list[str] = []
  results = _results(model, files, problems)
  if _FORMAT.value == 'json':
    answers = [_answer(model, *result[:2]) for result in results]
    ascii_only = sys.stdout.encoding.lower() != 'utf-8'
    print(json.dumps(answers, indent=1, ensure_ascii=ascii_only))
  elif _FORMAT.value == 'table':
    for file, probabilities, _ in results:
      print(errors.printable(file))
      for row in _answer(model, file, probabilities)['predictions']:
        print(f'  {row["probability"]:6.1%}  {row["name"]}')
  else:
    _draw(model, list(results))
  for problem in problems:
    errors.refuse(problem)
  return 2 if problems else 0


def _results(
  model: Any, files: Sequence[str], problems: list[str]
) -> Iterator[tuple[str, Any, Any]]:
  """(file, probabilities [C], uint8 [side, side, 3]) of all that are images."""
  from alexnet_jax import library
  from alexnet_jax.data import given
  from alexnet_jax.runtime.writers import Progress

  with Progress(len(files), 'images', show=len(files) > 1) as progress:
    for start in range(0, len(files), library.BATCH):
      some = files[start : start + library.BATCH]
      if good := given.read_good(some, model.side, problems):
        names, squares = zip(*good, strict=True)
        found = model.predict(list(squares), int(_VIEWS.value))
        yield from zip(names, found, squares, strict=True)
      progress.update(len(some))


def _answer(model: Any, file: str, probabilities: Any) -> dict[str, Any]:
  order = (-probabilities).argsort(kind='stable')[: _TOP.value]
  return {
    'image': file,
    'predictions': [
      {
        'class': model.class_names[k],
        'name': model.readable_names[k],
        'label': int(k),
        'probability': float(probabilities[k]),
      }
      for k in order
    ],
  }


def _check_picture(count: int) -> None:
  from alexnet_jax.drawing import canvas

  canvas.check_kind(_OUTPUT.value)
  if count > _MOST:
    raise errors.UserError(
      f'{count} photographs do not fit on a picture: at most {_MOST}'
    )


def _draw(model: Any, results: list[tuple[str, Any, Any]]) -> None:
  import numpy as np

  from alexnet_jax.drawing import canvas, panels

  if not results:
    return
  files, probabilities, images = zip(*results, strict=True)
  fig = panels.predictions(
    images,
    np.stack(probabilities),
    model.readable_names,
    [file.rpartition('/')[2] for file in files],
    top=_TOP.value,
  )
  title = f'{_WORKDIR.value}, {model.stage}'
  canvas.save(canvas.titled(fig, title), _OUTPUT.value)


if __name__ == '__main__':
  errors.run(main, words=errors.ANY)
