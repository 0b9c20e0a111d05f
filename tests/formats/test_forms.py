"""Which network a file stands for, and which have no form in it."""

import shutil

import numpy as np
import pytest

from alexnet_jax.data import stats
from alexnet_jax.formats import conversion
from alexnet_jax.formats.names import Network
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training import pretrained
from configs import torchvision


@pytest.mark.parametrize('form', ['grouped', 'caffe', 'torchvision'])
def test_only_fc6_has_its_order_turned(form, tmp_path):
  config = torchvision.get_config()
  config.model.layers = tuple(x for x in config.model.layers if x != 'fc6')
  config.model.fc6.features = 2048  # as it is where nothing reads it
  nothing = stats.of_mean(np.zeros((256, 256, 3)))
  network = Network(config.to_dict(), {}, tuple('abcdef'), nothing)
  with pytest.raises(UserError, match='fc7 reads the maps of conv5: only'):
    conversion.write(tmp_path / 'x', form, network)


def test_a_file_in_the_folder_of_a_run_is_not_the_run(reference, tmp_path):
  copy = shutil.copytree(reference, tmp_path / 'run')
  (copy / 'model.safetensors').write_bytes(b'another network')
  got, want = (pretrained.read(x, 18).params for x in (copy, reference))
  for name, array in want.items():
    np.testing.assert_array_equal(got[name], array)


@pytest.mark.parametrize(
  ('fields', 'words'),
  [
    ({'model.rounding': 'up'}, "model.rounding is 'up', not 'down'"),
    ({'model.lrn.enabled': True}, r"model.conv1.then is .*'norm'"),
    ({'model.dropout_form': 'paper'}, "dropout_form is 'paper'"),
    ({'model.conv1.pad': 1}, 'model.conv1.pad is 1, not 2'),
    ({'model.activation': 'tanh'}, "activation is 'tanh'"),
    ({'model.width': 0.5}, 'model.conv1.features is 32, not 64'),
    ({'augment.crop_size': 160}, 'the last maps have 4 pixels a side, not 6'),
    ({'augment.mean': 'image'}, "augment.mean is 'image', not 'rgb'"),
    ({'augment.mean': 'none'}, "augment.mean is 'none', not 'rgb'"),
  ],
)
def test_what_torchvisions_program_does_not_do_is_refused(
  fields, words, tmp_path
):
  config = torchvision.get_config()
  config.update_from_flattened_dict(fields)
  nothing = stats.of_mean(np.zeros((256, 256, 3)))
  network = Network(config.to_dict(), {}, tuple('abcdef'), nothing)
  with pytest.raises(UserError, match=words):
    conversion.write(tmp_path / 'x.safetensors', 'torchvision', network)
