"""Fine-tuning (§6): a network that is trained on other pictures first.

It was trained on shapes that the program draws, a poor stand-in for the larger
ImageNet of the paper. Validation has 300 pictures a class of Imagenette's
training split: docs/experiments.md has how both sets are made. Rates are those
of configs/folder.py and configs/finetune.py; none was searched.
"""

from experiments.claims import Lower
from experiments.forms import Form
from experiments.plan import Experiment


def _few(pictures: int) -> Form:
  return Form(
    'folder',
    {
      'augment.crop_size': 128,
      'model.width': 0.25,
      'mesh.data': 1,
      'data.name': f'imagenette_{pictures}',
      'length': '600 steps',
      'schedule.kind': 'cosine',  # the same for any length of an epoch
      'evals.every': '150 steps',
      'evals.batch_size': 128,
      'checkpoint.every': '150 steps',
      'checkpoint.keep': 1,
    },
    f'{pictures} photographs of each of 10 classes, width 1/4, 128 pixels',
  )


def variants(_):
  yield 'scratch', {}
  tuned = {
    'pretrained.source': 'runs/shapes_146',
    'schedule.learning_rate': 0.001,
    'optimizer.learning_rate_multipliers': (('fc8', 10.0), ('', 1.0)),
  }
  yield 'tuned', tuned


EXPERIMENT = Experiment(
  claim='§6, with drawn shapes for its larger ImageNet: training on other '
  'pictures first lowers the error',
  variants=variants,
  forms={f'few_{n}': _few(n) for n in (10, 50, 200)},
  baseline='scratch',
  claims={'tuned': Lower(split='validation')},
)
