r"""Run #145-half: one tower of #145, its top widened, on ILSVRC2010.

  command   alexnet prepare --source=folder --input=ILSVRC2010 \
              --name=imagenet2010
            alexnet train --config=configs/krizhevsky_145_half.py
  hardware  one GPU or TPU core
  time      not known; not run here
  expected  39.168 % top-1 and 18.229 % top-5 error on test over ten views (the
            run's own); two towers there: 37.473 and 16.999

conv5 has the kernels of both towers, fc6 and fc7 the units, so that the
parameters are nearly as many (§3.2). ILSVRC2010 is a tree `train/ validation/
test/<class>/*`.
"""

from ml_collections import ConfigDict

from configs import krizhevsky_145


def get_config() -> ConfigDict:
  """#145 with one tower; its rates are taken to be #145's."""
  config = krizhevsky_145.get_config()
  config.data.name = 'imagenet2010'
  config.evals.final_split = 'test'
  config.mesh.towers = 1
  config.model.towers = 1
  config.model.conv5.features = 256
  config.model.fc6.features = 4096
  config.model.fc7.features = 4096
  return config
