"""Metrics against a NumPy float64 oracle written from the definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from alexnet_jax.runtime.metrics import Metrics


def oracle(logits, labels, mask=None) -> dict[str, float]:
  """Sorts each row, where the program counts how many are ahead."""
  logits = np.asarray(logits, np.float64)
  loss = top1 = top5 = count = 0
  for i, label in enumerate(labels):
    if mask is not None and not mask[i]:
      continue
    row = logits[i] - logits[i].max()
    loss += np.log(np.exp(row).sum()) - row[label]
    order = np.argsort(-row, kind='stable')
    top1 += label not in order[:1]
    top5 += label not in order[:5]
    count += 1
  return {
    'loss': loss / count,
    'top1_error': top1 / count,
    'top5_error': top5 / count,
  }


def random_batch(seed, batch=64, classes=20, ties=True):
  rng = np.random.default_rng(seed)
  logits = rng.normal(0, 3, (batch, classes))
  logits = logits.round() if ties else logits
  return (
    logits.astype(np.float32),
    rng.integers(0, classes, batch).astype(np.int32),
    rng.random(batch) < 0.7,
  )


def assert_same(actual, expected):
  # The errors are ratios of the same integers; float32 sums a loss.
  assert actual['top1_error'] == expected['top1_error']
  assert actual['top5_error'] == expected['top5_error']
  np.testing.assert_allclose(actual['loss'], expected['loss'], rtol=1e-5)


@pytest.mark.parametrize('classes', [2, 3, 5, 6, 20, 1000])
@pytest.mark.parametrize('ties', [False, True])
def test_equals_the_oracle(classes, ties):
  logits, labels, mask = random_batch(classes, classes=classes, ties=ties)
  measure = jax.jit(Metrics.of)
  assert_same(measure(logits, labels).compute(), oracle(logits, labels))
  assert_same(
    measure(logits, labels, mask).compute(), oracle(logits, labels, mask)
  )


def test_constant_logits_are_chance():
  labels = np.arange(100, dtype=np.int32) % 10
  errors = Metrics.of(jnp.zeros((100, 10)), labels).compute()
  assert errors['top1_error'] == 0.9
  assert errors['top5_error'] == 0.5
  np.testing.assert_allclose(errors['loss'], np.log(10), rtol=1e-6)


def test_nan_is_an_error():
  logits = jnp.array([[jnp.nan, 0.0], [0.0, jnp.nan], [1.0, 0.0]])
  errors = Metrics.of(logits, jnp.array([0, 0, 0])).compute()
  assert errors['top1_error'] == errors['top5_error'] == 2 / 3
  assert np.isnan(errors['loss'])


def test_padding_does_not_count_whatever_is_in_it():
  logits = jnp.array([[2.0, 1.0], [jnp.nan, jnp.nan]])
  labels, mask = jnp.array([0, -1]), jnp.array([True, False])
  metrics = Metrics.of(logits, labels, mask)
  assert int(metrics.count) == 1
  assert metrics.compute()['top1_error'] == 0
  assert np.isfinite(metrics.compute()['loss'])


def test_merges_over_batches_and_devices():
  logits, labels, mask = random_batch(0, batch=64)
  halves = [
    Metrics.of(logits[i], labels[i], mask[i])
    for i in (slice(0, 10), slice(10, 64))
  ]
  assert_same((halves[0] + halves[1]).compute(), oracle(logits, labels, mask))

  mesh = jax.make_mesh((4,), ('data',))
  measure = jax.shard_map(
    lambda *batch: jax.lax.psum(Metrics.of(*batch), 'data'),
    mesh=mesh,
    in_specs=P('data'),
    out_specs=P(),
  )
  with jax.set_mesh(mesh):
    batch = jax.device_put(
      (logits, labels, mask), jax.NamedSharding(mesh, P('data'))
    )
    metrics = jax.jit(measure)(*batch)
  assert_same(metrics.compute(), oracle(logits, labels, mask))


def test_counts_are_exact_integers():
  # float32 stops counting at 2**24.
  labels = jnp.zeros(1, jnp.int32)
  one = Metrics.of(jnp.array([[0.0, 1.0]]), labels)
  many = jax.tree.map(lambda x: x * jnp.array(2**24, x.dtype), one)
  assert int((many + one).top1_errors) == 2**24 + 1
  assert int((many + one).count) == 2**24 + 1
  assert one.count.dtype == one.top1_errors.dtype == jnp.int32


def test_bfloat16_logits_are_summed_in_float32():
  logits, labels, _ = random_batch(1, ties=True)  # small integers: exact
  metrics = Metrics.of(jnp.asarray(logits, jnp.bfloat16), labels)
  assert metrics.loss.dtype == jnp.float32
  assert_same(metrics.compute(), oracle(logits, labels))
