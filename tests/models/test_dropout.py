"""Dropout (§4.2)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.models import layers
from alexnet_jax.models.networks import read_table
from alexnet_jax.runtime.errors import UserError
from configs import default


def test_dropout_of_the_paper_halves_at_test_time():
  keys = jax.random.split(jax.random.key(0), 4)
  x = jnp.ones((4, 5000))
  got = np.asarray(layers.dropout(x, 0.25, keys))
  assert set(np.unique(got)) == {0, 1}
  # 20,000 draws: five standard deviations of the share kept are 0.0153.
  assert abs(got.mean() - 0.75) < 0.0153
  # One mask per example.
  assert (got[0] != got[1]).any()
  np.testing.assert_array_equal(layers.dropout(x, 0.25, None), 0.75)


def test_inverted_dropout_has_the_same_masks():
  keys = jax.random.split(jax.random.key(0), 4)
  x = jnp.ones((4, 500))
  got = layers.dropout(x, 0.25, keys, 'inverted')
  want = np.asarray(layers.dropout(x, 0.25, keys)) / 0.75
  np.testing.assert_allclose(got, want, rtol=1e-6)
  np.testing.assert_array_equal(layers.dropout(x, 0.25, None, 'inverted'), 1)


def test_another_form_of_dropout_is_refused():
  model = default.get_config().model
  model.dropout_form = 'both'
  with pytest.raises(UserError, match="'inverted', 'paper'.*, not 'both'"):
    read_table(model.to_dict())
