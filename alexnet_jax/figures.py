r"""Draws the network and what it has learned.

  python -m alexnet_jax.figures architecture --config=configs/imagenet2012.py
  python -m alexnet_jax.figures curves WORKDIR...

architecture: figure 2, the towers with shapes, neurons, parameters and what
they send each other. curves: loss, errors and rate, of one run or several. The
picture goes to --output; its ending says the kind: .png, .jpg, .svg or .pdf.
"""

import sys
from collections.abc import Sequence

from absl import flags, logging
from ml_collections import config_flags

from alexnet_jax.runtime import errors

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'architecture: what to draw, such as configs/default.py.'
)
_CLASSES = flags.DEFINE_integer(
  'classes', 1000, 'architecture: outputs of fc8.', lower_bound=1
)
_OUTPUT = flags.DEFINE_string(
  'output', None, 'The file to write. Default: WORKDIR/<what>.png.'
)


def main(argv: Sequence[str]) -> None:
  logging.set_verbosity(logging.WARNING)
  commands = {
    'architecture': _architecture,
    'curves': _curves,
  }
  what, *words = argv[1:] or ['']
  if what not in commands:
    raise errors.UserError(f'say what to draw: {", ".join(commands)}')
  from alexnet_jax.drawing import canvas

  if not words and what != 'architecture':
    raise errors.UserError(f'say of which run: figures {what} WORKDIR')
  output = _OUTPUT.value or '/'.join([*words[:1], f'{what}.png'])
  canvas.check_kind(output)
  canvas.save(commands[what](*words), output)


def _architecture():
  from alexnet_jax.drawing import architecture as drawing
  from alexnet_jax.learning import architecture

  config, classes = _CONFIG.value, _CLASSES.value
  if config is None:
    raise errors.UserError('say of what: --config=FILE')
  layers = architecture.describe(config, classes)
  return drawing.draw(layers, config.augment.crop_size, config.model.towers)


def _curves(*workdirs: str):
  from alexnet_jax.drawing import canvas, charts
  from alexnet_jax.runtime import writers

  rows = map(writers.read_rows, workdirs)
  return charts.curves(dict(zip(canvas.names_of(workdirs), rows, strict=True)))


if __name__ == '__main__':
  errors.run(main, words=sys.maxsize)
