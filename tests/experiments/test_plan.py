"""Every experiment makes runs that a configuration accepts, and claims numbers
of 2012."""

import re
from pathlib import Path

import jax
import pytest
from experiment_rows import a_row
from flax import nnx

from alexnet_jax.models.networks import make_network
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training import optimizer, schedules
from experiments import plan

ROOT = Path(__file__).parents[2]
FORMS = [
  (name, form) for name in plan.names() for form in plan.load(name).forms
]


@pytest.mark.parametrize('name', plan.names())
def test_every_experiment_claims_something_of_its_variants(name):
  experiment = plan.load(name)
  lines = (ROOT / f'experiments/{name}.py').read_text().splitlines()
  assert len(lines) <= 50, len(lines)
  claimed = {*experiment.claims, experiment.baseline}
  for form in experiment.forms:
    rows = [a_row(run.variant, 0, 0) for run in plan.plan(name, form, 1)]
    assert claimed <= experiment.reader.groups(rows, 50.0).keys()
  # Rows of all variants are read by one type, about one split.
  assert len({claim.measure for claim in experiment.claims.values()}) <= 1
  assert len({claim.split for claim in experiment.claims.values()}) <= 1


@pytest.mark.parametrize(('name', 'form'), FORMS)
def test_every_override_is_accepted_and_builds_a_network(name, form):
  runs = plan.plan(name, form, 2)
  assert len({(run.variant, run.seed) for run in runs}) == len(runs)
  for run in runs[: len(runs) // 2]:
    settings = run.settings('/somewhere')
    assert settings.data.dir == '/somewhere'
    if form in ('gpu', 'clothing10'):  # the networks of 'full' and 'small'
      continue
    size = settings.augment.crop_size
    model = nnx.eval_shape(
      lambda own=(settings.model, 10, size): make_network(
        *own, rngs=nnx.Rngs(params=0)
      )
    )
    optimizer.make_optimizer(settings.optimizer, nnx.state(model))
    schedules.make_schedule(settings.schedule)


@pytest.mark.parametrize('form', ['small', 'gpu', 'cifar'])
def test_forms_run_on_one_device(form):
  for run in plan.select('all', form, 1):
    settings = run.settings('/somewhere')
    mesh = settings.mesh.make_mesh(settings.model.towers, jax.devices()[:1])
    assert mesh.size == 1


def run_of(**overrides):
  return plan.Run('e', 'small', 'v', 0, 'default', overrides, 1)


def test_a_key_says_what_is_trained_and_nothing_else():
  base = run_of()
  assert base.key == run_of(**{'model.width': 0.25}).key  # the default's
  assert base.key == run_of(**{'data.dir': '/x', 'mesh.data': 2}).key
  keys = {
    run_of(**one).key
    for one in ({}, {'seed': 1}, {'model.width': 0.5}, {'length': '1 step'})
  }
  assert len(keys) == 4


@pytest.mark.parametrize(
  'overrides', [{'model.widht': 1.0}, {'model.width': 'wide'}]
)
def test_a_wrong_override_is_named(overrides):
  with pytest.raises(UserError, match="e, variant 'v': "):
    run_of(**overrides).resolve()


def test_members_of_an_ensemble_are_runs_of_their_own():
  runs = plan.plan('ensemble', 'small', 2)
  kinds = [(run.variant, run.seed) for run in runs]
  ones = [('one', seed) for seed in range(10)]
  assert kinds == [*ones[:5], ('five', 4), *ones[5:], ('five', 9)]
  for first, five in ((0, runs[5]), (5, runs[11])):
    members = five.members
    alone = [r for r in runs if r.variant == 'one'][first : first + 5]
    assert [m.key for m in members] == [r.key for r in alone]
    assert five.key not in {r.key for r in runs if r is not five}
  # The first is the base network, which other experiments train, too.
  assert runs[0].key == plan.plan('lrn', 'small', 1)[0].key
  (claim,) = plan.load('ensemble').claims.values()
  assert claim.networks == len(five.members)


def test_a_claim_about_training_errors_reads_them():
  for name, reading in (('weight_decay', ('train', 1)), ('lrn', ('test', 10))):
    runs = plan.plan(name, 'small', 1)
    assert {run.reading for run in runs} == {reading}
  assert plan.plan('lrn', 'full', 1)[0].reading == ('validation', 10)


def test_32_bits_are_exchanged_where_they_are_claimed():
  experiment = plan.load('half_precision_exchange')
  for form in experiment.forms:
    whole, half = (
      run.resolve() for run in plan.plan('half_precision_exchange', form, 1)
    )
    assert whole.dtype == half.dtype == 'float32'
    assert whole.mesh.exchange_dtype == 'float32'
    assert half.mesh.exchange_dtype == 'float16'
    assert whole.matmul_precision == half.matmul_precision == 'highest'


def test_relu_and_tanh_are_compared_at_one_rate_throughout():
  """Not by a rule that lowers it when errors stay, sooner for one of them."""
  for form in ('full', 'small', 'gpu', 'cifar'):
    for run in plan.plan('relu_vs_tanh', form, 1):
      schedule = run.resolve().schedule
      assert (schedule.kind, schedule.drops) == ('staircase', ())


def test_a_variant_without_crops_and_flips_has_the_noise_of_colour():
  """The paper's claim is about these two alone."""
  runs = plan.plan('augmentation', 'small', 1)
  augment = {run.variant: run.resolve().augment for run in runs}
  still, noise = augment['no crops or flips'], augment['all'].color
  assert still.color == noise > 0 == augment['no colour'].color
  assert not still.random_crop and not still.random_flip


def test_claims_are_numbers_of_2012():
  """Each difference of two errors of the paper, or of the authors' logs."""
  paper = {
    'augmentation': {'no colour': 1.0},  # "over 1 %"
    'cifar_13pct': {'13pct': 13.0},
    'cifar_18pct': {'with': 18.0, 'without': 13.0 - 11.0},
    'cifar_80sec': {'80sec': 26.0},
    'depth': {'without conv3': 2.0, 'without conv4': 2.0},  # "about 2 %"
    'ensemble': {'five': 38.1 - 40.7},
    'lrn': {'without': 1.4},
    'one_tower': {'one': 1.7},
    'overlapping_pooling': {'2/2': 0.4},
    'relu_vs_tanh': {'tanh': 6.0},  # times
    'views': {'1': 39.0 - 37.5},
  }
  diary = {
    'batch_size': {'twice': 42.27 - 42.341},
    'half_precision_exchange': {'16 bits': 40.524 - 40.528},
    'lrn': {'without': 42.034 - 40.664},
    'no_talk': {'none (#150)': 41.828 - 40.664},
    'one_tower': {'one': 39.168 - 37.473},
    'overlapping_pooling': {'2/2': 41.058 - 40.664},
    'views': {'1': 39.025 - 37.473},
  }
  for name in plan.names():
    for source, numbers in (('paper', paper), ('diary', diary)):
      claimed = {
        variant: value
        for variant, claim in plan.load(name).claims.items()
        if (value := getattr(claim, source)) is not None
      }
      wanted = numbers.get(name, {})
      assert claimed.keys() == wanted.keys(), name
      for variant, claim in claimed.items():
        digits = len(str(claim).partition('.')[2])
        assert claim == round(wanted[variant], digits), (name, variant)


@pytest.mark.parametrize(
  ('name', 'texts', 'said'),
  [
    ('lrn', ['seed=5'], '--set=seed=5: seeds are those of --seeds'),
    (
      'weight_decay',
      ['optimizer.weight_decay=0.01'],
      "--set=optimizer.weight_decay=0.01: the variant 'none' of weight_decay",
    ),
    ('lrn', ['model.lrn.enabled=False'], "'with' and 'without' of lrn are the"),
    ('relu_vs_tanh', ["evals.every='2 epochs'"], 'curve, and needs 1 epoch'),
  ],
)
def test_what_would_be_overruled_is_refused(name, texts, said):
  with pytest.raises(UserError, match=re.escape(said)):
    plan.select(name, 'small', 1, extra=texts)


def test_what_a_variant_makes_of_a_value_follows_it():
  for size in (32, 64):  # 64 is the form's own
    runs = plan.select('batch_size', 'small', 1, extra=[f'batch_size={size}'])
    sizes = {run.variant: run.settings('/x').batch_size for run in runs}
    assert sizes == {'once': size, 'twice': 2 * size}
  runs = plan.select(
    'relu_vs_tanh', 'small', 1, extra=['schedule.learning_rate=0.02']
  )
  assert {run.variant.split()[2] for run in runs} == {'0.02', '0.06'}


def test_what_all_variants_have_may_be_set():
  """The order of docs/experiments.md, of which one_tower has a variant so."""
  for name in plan.names():
    for form in plan.load(name).forms:
      assert plan.plan(name, form, 1, {'mesh.towers': 1, 'log_every': '1 step'})
