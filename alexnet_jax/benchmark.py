r"""Measures what was compiled and how fast it runs.

  python -m alexnet_jax.benchmark comms --config=configs/imagenet2012.py \
    --mesh=1,2

comms: what the compiled training and evaluation steps send between devices,
layer by layer, beside the least that the shapes demand. It runs nothing and
needs neither a data set nor the devices: on CPUs it makes virtual ones.
"""

from collections.abc import Sequence

from absl import flags, logging
from ml_collections import config_flags

from alexnet_jax.runtime import errors

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'What to compile, such as configs/imagenet2012.py.'
)
_MESH = flags.DEFINE_list(
  'mesh', ['1', '2'], 'DATA,TOWER: devices that spread the batch, the towers.'
)
_CLASSES = flags.DEFINE_integer(
  'classes', 1000, 'Outputs of fc8.', lower_bound=1
)
flags.mark_flag_as_required('config')


def main(argv: Sequence[str]) -> None:
  logging.set_verbosity(logging.WARNING)
  commands = {'comms': _comms}
  if len(argv) < 2 or argv[1] not in commands:
    raise errors.UserError(f'say what to measure: {", ".join(commands)}')
  commands[argv[1]]()


def _comms() -> None:
  from alexnet_jax.runtime import backend

  config = _CONFIG.value
  mesh = _MESH.value
  if len(mesh) != 2 or not all(size.isdecimal() for size in mesh):
    raise errors.UserError(f'--mesh={",".join(mesh)}: write it as 1,2')
  config.mesh.data, config.mesh.towers = map(int, mesh)
  backend.configure(config.mesh.data, config.mesh.towers, config.deterministic)

  from alexnet_jax.learning import communication
  from alexnet_jax.runtime import sharding

  setup = communication.abstract_setup(config, _CLASSES.value)
  print(sharding.device_map(setup.mesh, config.model.towers, setup.owt))
  for name, rows in (
    ('training', communication.of_training(setup)),
    ('evaluation, 1 view', communication.of_evaluation(setup)),
  ):
    print(f'\n{name}:\n{communication.table(setup, rows)}')


if __name__ == '__main__':
  errors.run(main, words=1)
