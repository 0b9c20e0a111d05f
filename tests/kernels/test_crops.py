"""Windows of photographs against slices."""

import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.kernels.crops import crops


@pytest.mark.parametrize('platform', ['default', 'tpu'])
def test_crops(lowered_for, platform):
  lowered_for(platform)
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (3, 9, 9, 3)).astype(np.uint8)
  corners, mirrored = [(0, 4), (4, 0), (2, 3)], [False, True, True]
  got = crops(
    jnp.asarray(images), jnp.asarray(corners), jnp.asarray(mirrored), 5
  )
  assert got.dtype == jnp.uint8
  for cut, image, (y, x), mirror in zip(
    got, images, corners, mirrored, strict=True
  ):
    want = image[y : y + 5, x : x + 5]
    np.testing.assert_array_equal(cut, want[:, ::-1] if mirror else want)
