"""Views of §4.1 against slices and sums in NumPy."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import max_norm_error
from jax import lax
from jax.sharding import PartitionSpec as P

from alexnet_jax.models.towers import MeshShape
from alexnet_jax.runtime import sharding
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training import step
from alexnet_jax.training import views as augment
from configs import default

SIZE, CROP = 40, 8  # offsets 0..32, as of 224 in 256


def make_config(**overrides):
  fields = default.get_config().augment.to_dict()
  return augment.Augment(**fields | {'crop_size': CROP} | overrides)


def make_statistics():
  rng = np.random.default_rng(0)
  rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
  return types.SimpleNamespace(
    mean_image=rng.uniform(100, 150, (SIZE, SIZE, 3)),
    rgb_mean=np.array([120.0, 115.0, 105.0]),
    eigenvalues=np.array([4000.0, 300.0, 60.0]),
    eigenvectors=rotation,
  )


def images(count):
  """Whose every pixel says where it is: uint8 [count, S, S, 3]."""
  rows, columns = np.mgrid[:SIZE, :SIZE]
  place = np.stack([rows, columns, 3 * rows + columns], -1)
  return np.broadcast_to(place, (count, SIZE, SIZE, 3)).astype(np.uint8)


def views(config, count, seed=0):
  constants = augment.make_constants(config, make_statistics())
  keys = jax.random.split(jax.random.key(seed), count)
  got = augment.training_views(config, constants, images(count), keys)
  assert got.dtype == jnp.float32 and got.shape == (count, CROP, CROP, 3)
  return np.asarray(got, np.float64)


def places(views):
  """Of bare views, from what they show: upright, tops, lefts, flipped."""
  flipped = views[:, 0, 0, 1] > views[:, 0, -1, 1]
  upright = np.where(flipped[:, None, None, None], views[:, :, ::-1], views)
  tops, lefts = upright[:, 0, 0, :2].astype(int).T
  return upright, tops, lefts, flipped


def test_crops_and_flips():
  got = views(make_config(color=0.0, mean='none'), 3000)
  upright, tops, lefts, flipped = places(got)
  whole = images(1)[0]
  for view, top, left in zip(upright, tops, lefts, strict=True):
    np.testing.assert_array_equal(
      view, whole[top : top + CROP, left : left + CROP]
    )
  # Each of 33 offsets, both ends included: 91 expected, five deviations 47.
  for offsets in (tops, lefts):
    counts = np.bincount(offsets, minlength=33)
    assert counts.size == 33 and counts.min() > 43 and counts.max() < 139
  # Half are mirrored: five standard deviations are 0.046.
  assert abs(flipped.mean() - 0.5) < 0.046
  # No draw follows another: five standard deviations are 0.091.
  draws = np.corrcoef([tops, lefts, flipped])
  assert np.abs(draws - np.eye(3)).max() < 0.091


def test_tpus_cut_the_same(lowered_for):
  want = views(make_config(), 20)
  lowered_for('tpu')
  np.testing.assert_array_equal(views(make_config(), 20), want)


def test_each_random_switch_alone():
  bare = {'color': 0.0, 'mean': 'none'}
  _, tops, lefts, flipped = places(
    views(make_config(random_crop=False, **bare), 50)
  )
  assert (tops == 16).all() and (lefts == 16).all()
  assert 10 < flipped.sum() < 40
  _, tops, lefts, flipped = places(
    views(make_config(random_flip=False, **bare), 50)
  )
  assert len(set(tops)) > 20 and len(set(lefts)) > 20
  assert not flipped.any()
  # Off leaves the other draws as they are; the seed changes them.
  both = places(views(make_config(**bare), 50))
  np.testing.assert_array_equal((tops, lefts), both[1:3])
  other = places(views(make_config(**bare), 50, seed=1))
  assert (tops != other[1]).any()


def test_each_mean():
  plain = make_config(
    color=0.0, mean='none', random_crop=False, random_flip=False
  )
  centre = images(2)[:, 16:24, 16:24]
  np.testing.assert_array_equal(views(plain, 2), centre)
  statistics = make_statistics()
  for mean, value in (
    ('rgb', statistics.rgb_mean),
    ('image', statistics.mean_image[16:24, 16:24]),
  ):
    config = dataclasses.replace(plain, mean=mean)
    assert max_norm_error(views(config, 2), centre - value) <= 1e-6


def test_the_mean_images_centre_is_subtracted_wherever_the_view_is_cut():
  """Upright, whether the view is mirrored or not."""
  moved = views(make_config(color=0.0), 9)
  bare = views(make_config(color=0.0, mean='none'), 9)
  assert 0 < places(bare)[3].sum() < 9
  mean = make_statistics().mean_image[16:24, 16:24]
  assert max_norm_error(moved, bare - mean) <= 1e-6


@pytest.mark.parametrize(
  ('units', 'color'), [('std', 0.1), ('eigenvalue', 0.02)]
)
def test_colour_noise(units, color):
  """One vector E diag(s) a per image, a normal of width `color` (§4.1).

  The vector is what differs from the same views without noise.
  """
  count = 20000
  bare = views(make_config(color=0.0, mean='none'), count)
  mean = make_statistics().mean_image[16:24, 16:24]
  noise = views(make_config(color_units=units, color=color), count) - (
    bare - mean
  )
  vectors = noise[:, 0, 0]
  # float32 rounds sums of a few hundred by 2e-5, noise of thousands by more.
  assert np.abs(noise - vectors[:, None, None]).max() < 5e-6 * (
    256 + np.abs(vectors).max()
  )
  statistics = make_statistics()
  variances = statistics.eigenvalues
  scale = color * (np.sqrt(variances) if units == 'std' else variances)
  multiples = vectors @ statistics.eigenvectors / scale  # column i: component i
  # 20,000 normal draws; limits are five standard deviations.
  np.testing.assert_allclose(multiples.std(0), 1, rtol=0.025)
  assert np.abs(multiples.mean(0)).max() < 0.036
  np.testing.assert_allclose((multiples**4).mean(0), 3, atol=0.35)
  # They follow neither each other, nor where the view was cut.
  draws = np.corrcoef([*multiples.T, *places(bare)[1:]])
  assert np.abs(draws - np.eye(6)).max() < 0.036


def test_the_sum_is_divided_while_there_is_noise():
  """x = (photograph - mean + noise) / 1.1; without noise, undivided."""
  plain = make_config()
  statistics = make_statistics()
  undivided = views(plain, 5)
  config = make_config(color_divisor=1.1, scale=0.5)
  assert max_norm_error(views(config, 5), 0.5 * undivided / 1.1) <= 1e-6
  # From `color_until` on, of the same program: the photograph less the mean.
  keys = jax.random.split(jax.random.key(0), 5)
  constants = augment.make_constants(config, statistics).without_color()
  got = augment.training_views(config, constants, images(5), keys)
  bare = views(make_config(color=0.0, mean='none'), 5)
  mean = statistics.mean_image[16:24, 16:24]
  assert max_norm_error(got, 0.5 * (bare - mean)) <= 1e-6
  # No noise was asked for: nothing is divided. Evaluation never is.
  none = make_config(color=0.0, color_divisor=1.1)
  assert max_norm_error(views(none, 5), bare - mean) <= 1e-6
  for number in (1, 10):
    got, want = (
      augment.test_views(
        augment.make_constants(c, statistics), images(1), 8, number
      )
      for c in (make_config(color_divisor=1.1), plain)
    )
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(('size', 'crop'), [(256, 227), (41, 8), (40, 8)])
def test_the_mean_is_of_the_place_where_the_central_view_is(size, crop):
  """Caffe's 227 of 256, too, where the room is odd: of a photograph that is
  the mean image, nothing is left."""
  rng = np.random.default_rng(0)
  photograph = rng.integers(0, 256, (size, size, 3), np.uint8)
  statistics = make_statistics()
  statistics.mean_image = photograph.astype(np.float64)
  config = make_config(crop_size=crop, color=0.0)
  constants = augment.make_constants(config, statistics)
  first = {(256, 227): 14, (41, 8): 16, (40, 8): 16}[size, crop]
  here = slice(first, first + crop)
  np.testing.assert_array_equal(constants.mean, photograph[here, here])
  view = augment.test_views(constants, photograph[None], crop, 1)
  assert not view.any()
  still = {'random_crop': False, 'random_flip': False}
  config = dataclasses.replace(config, **still)
  keys = jax.random.split(jax.random.key(0), 1)
  args = jnp.asarray(photograph[None]), keys
  assert not augment.training_views(config, constants, *args).any()


def test_components_are_rows_of_multiples_of_eigenvectors():
  """By hand, with a flat component."""
  statistics = make_statistics()
  statistics.eigenvalues = np.array([9.0, 4.0, -1e-12])  # flat up to rounding
  statistics.eigenvectors = np.array(
    [[0.6, -0.8, 0.0], [0.8, 0.6, 0.0], [0.0, 0.0, 1.0]]
  )
  got = {
    units: augment.make_constants(make_config(color_units=units), statistics)
    for units in ('std', 'eigenvalue')
  }
  std = [[1.8, 2.4, 0.0], [-1.6, 1.2, 0.0], [0.0, 0.0, 0.0]]
  variance = [[5.4, 7.2, 0.0], [-3.2, 2.4, 0.0], [0.0, 0.0, 0.0]]
  assert max_norm_error(got['std'].components, std) <= 1e-6
  assert max_norm_error(got['eigenvalue'].components, variance) <= 1e-6


@pytest.mark.parametrize('mesh', [(1, 1), (2, 1), (1, 2), (4, 2)])
def test_views_do_not_depend_on_the_mesh(mesh):
  config, count = make_config(), 8
  mesh = MeshShape(*mesh).make_mesh(2)
  constants = augment.make_constants(config, make_statistics())
  batch = sharding.put_batch(
    sharding.batch_sharding(mesh), list(range(count)), count, images(count)
  )

  def body(x):
    local = x.shape[0]
    rows = lax.axis_index('data') * local + jnp.arange(local)
    key = jax.random.key(0)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
    return augment.training_views(config, constants, x, keys)

  mapped = jax.shard_map(
    body, mesh=mesh, in_specs=P('data'), out_specs=P('data')
  )
  got = jax.jit(mapped)(batch)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(
    jax.random.key(0), jnp.arange(count)
  )
  want = jax.jit(augment.training_views, static_argnums=0)(
    config, constants, images(count), keys
  )
  np.testing.assert_array_equal(got, want)
  # Of one and the same image, so each example has its own view.
  assert len({view.tobytes() for view in np.asarray(want)}) == count


@pytest.mark.parametrize(
  ('mesh', 'axes'),
  [((1, 1), ('data',)), ((2, 1), ('data',)), ((4, 2), ('data', 'tower'))],
)
def test_images_that_share_are_cut_alike_on_every_mesh(mesh, axes):
  """Chunks of 4 of 8 rows, which lie on up to 4 devices each."""
  count, share = 8, 4
  mesh = MeshShape(*mesh).make_mesh(2)
  key = jax.random.key(3)

  def cut(config, shared):
    constants = augment.make_constants(config, make_statistics())
    place = sharding.batch_sharding(mesh, axes)
    batch = sharding.put_batch(place, list(range(count)), count, images(count))

    def body(x):
      rows = lax.axis_index(axes) * len(x) + jnp.arange(len(x))
      keys = step.row_keys(key, rows, step.VIEW)
      places = step.row_keys(key, rows // share, step.VIEW) if shared else None
      return augment.training_views(config, constants, x, keys, places)

    return np.asarray(
      jax.jit(
        jax.shard_map(body, mesh=mesh, in_specs=P(axes), out_specs=P(axes))
      )(batch)
    )

  bare = make_config(color=0.0, mean='none')
  found = list(zip(*places(cut(bare, True))[1:], strict=True))
  # Each chunk as its number alone would be: (top, left, mirrored).
  alone = list(zip(*places(cut(bare, False))[1:], strict=True))
  assert found == [alone[0]] * 4 + [alone[1]] * 4
  assert alone[0] != alone[1]
  # Colours are each image's own, and the same as without sharing.
  shared, own = (
    cut(make_config(mean='none'), how) - cut(bare, how) for how in (True, False)
  )
  np.testing.assert_allclose(shared[:, 0, 0], own[:, 0, 0], atol=1e-4)
  assert len({vector.tobytes() for vector in own[:, 0, 0]}) == count


def test_test_views():
  constants = augment.make_constants(make_config(), make_statistics())
  mean = make_statistics().mean_image[16:24, 16:24]
  whole = images(2)
  corners = [(0, 0), (0, 32), (32, 0), (32, 32), (16, 16)]
  cuts = [whole[:, y : y + CROP, x : x + CROP] for y, x in corners]
  mirrored = [cut[:, :, ::-1] for cut in cuts]
  nine = [(y, x) for y in (0, 16, 32) for x in (0, 16, 32)]
  grid = [whole[:, y : y + CROP, x : x + CROP] for y, x in nine]
  want = {1: [cuts[4]], 9: grid, 2: [cuts[4], mirrored[4]], 10: cuts + mirrored}
  for number, expected in want.items():
    got = augment.test_views(constants, whole, CROP, number)
    assert max_norm_error(got, np.stack(expected) - mean) <= 1e-6
  with pytest.raises(
    UserError, match=r'views is one of \[1, 2, 9, 10\], not 5'
  ):
    augment.test_views(constants, whole, CROP, 5)


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    ({'mean': 'pixel'}, "augment.mean is one of .*not 'pixel'"),
    ({'color_units': 'var'}, "augment.color_units is one of .*not 'var'"),
    ({'crop_size': 41}, 'augment.crop_size=41 is not in 1..40'),
    ({'crop_size': 0}, 'augment.crop_size=0 is not in 1..40'),
  ],
)
def test_bad_fields_are_refused(overrides, message):
  with pytest.raises(UserError, match=message):
    augment.make_constants(make_config(**overrides), make_statistics())
