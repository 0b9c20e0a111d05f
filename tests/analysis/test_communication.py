"""The towers talk before conv3, fc6 and fc7 and in fc8's sum: nowhere else."""

import pytest

from alexnet_jax.analysis import communication
from alexnet_jax.analysis.communication import Transfer
from alexnet_jax.models.towers import TOWER
from alexnet_jax.training.settings import Settings, configure
from configs import default, imagenet2012

CLASSES = 1000
BATCH = 8


def configured(config, data, towers, **overrides) -> Settings:
  config.batch_size = BATCH
  config.mesh.data, config.mesh.towers = data, towers
  config.update_from_flattened_dict(overrides)
  return configure(config)


def small(data, towers, **overrides) -> Settings:
  """Width 1/8; crops of 96 have maps of 23, 11, 5, 5, 5 and 2."""
  overrides = {'model.width': 1 / 8, 'augment.crop_size': 96, **overrides}
  return configured(default.get_config(), data, towers, **overrides)


def abstract(settings):
  return communication.abstract_setup(settings, CLASSES)


def training(settings) -> list[Transfer]:
  return communication.training_transfers(abstract(settings))


def needs(settings):
  spread = abstract(settings).mesh.shape[TOWER]
  return communication.needed_bytes(settings, CLASSES, spread)


# Numbers per image that one tower needs of the other, by hand.
PAPER = {
  'conv3': 13 * 13 * 128,
  'fc6': 6 * 6 * 128,
  'fc7': 2048,
}
SMALL = {'conv3': 5 * 5 * 16, 'fc6': 2 * 2 * 16, 'fc7': 256}


def assert_only(rows: list[Transfer], talk: dict[str, int], data: int, size=4):
  """Between towers: `talk`, back too when training, the logits and less than
  64 bytes of metrics."""
  images = BATCH // data
  want = {(layer, 'forward'): size * n for layer, n in talk.items()}
  want['fc8', 'forward'] = 4 * CLASSES
  if any(row.direction == 'backward' for row in rows):
    want |= {(layer, 'backward'): size * n for layer, n in talk.items()}
  got = {
    (row.layer, row.direction): row.bytes / images
    for row in rows
    if row.kind == 'activations'
  }
  assert got == want
  assert {r.axes for r in rows if r.kind == 'activations'} == {('tower',)}
  assert sum(row.bytes for row in rows if row.kind == 'scalars') < 64


def test_the_papers_network_sends_the_least_there_can_be():
  settings = configured(imagenet2012.get_config(), 1, 2)
  net = abstract(settings)
  trained = communication.training_transfers(net)
  assert_only(trained, PAPER, data=1)
  assert {row.kind for row in trained} == {'activations', 'scalars'}
  received = {
    (row.layer, row.direction): row.bytes // BATCH
    for row in trained
    if row.kind == 'activations'
  }
  assert received['conv3', 'forward'] == 86_528
  assert received['fc6', 'backward'] == 18_432
  assert received == needs(settings)

  evaluation = communication.evaluation_transfers(net, BATCH)
  assert_only(evaluation, PAPER, data=1)
  assert not [row for row in evaluation if row.direction == 'backward']

  text = communication.format_transfers(
    net, trained, needs(settings), net.batch_size
  )
  lines = text.splitlines()
  assert lines[1].split() == [
    *('conv3', 'forward', 'all-gather', 'tower', 'f32', '86,528', '86,528')
  ]
  assert lines[-1] == 'each device holds 30,483,112 parameters'
  # Both devices: maps and units forward and back, and the halves of logits.
  each = 2 * (2 * (86528 + 18432 + 8192) + 4000)
  *_, found, _, word = lines[-2].split()
  assert word == 'image'
  # And the scalars of metrics, a few bytes.
  assert 0 <= int(found.replace(',', '')) - each < 8


@pytest.mark.parametrize('data', [2, 4])
def test_replicas_send_each_gradient_once(data):
  net = abstract(small(data, 2))
  rows = communication.training_transfers(net)
  assert_only(rows, SMALL, data)
  gradients = [row for row in rows if row.kind == 'parameters']
  assert {row.axes for row in gradients} == {('data',)}
  # Half of every layer, and the whole bias of fc8.
  halves = [
    *(11 * 11 * 3 * 6 + 6, 5 * 5 * 6 * 16 + 16, 3 * 3 * 32 * 24 + 24),
    *(3 * 3 * 24 * 24 + 24, 3 * 3 * 24 * 16 + 16),
    *(2 * 2 * 32 * 256 + 256, 512 * 256 + 256, 256 * CLASSES + CLASSES),
  ]
  assert [row.elements for row in reversed(gradients)] == halves
  assert communication.parameters_on_a_device(net) == sum(halves)


def test_a_talk_at_conv4_is_seen():
  net = small(1, 2, **{'model.conv4.reads': 'both'})
  rows = training(net)
  with pytest.raises(AssertionError):
    assert_only(rows, SMALL, data=1)
  extra = [row for row in rows if row.layer == 'conv4']
  assert [row.bytes for row in extra] == [5 * 5 * 24 * 4 * BATCH] * 2
  assert needs(net)['conv4', 'backward'] == 5 * 5 * 24 * 4


@pytest.mark.parametrize('data', [1, pytest.param(2, marks=pytest.mark.slow)])
def test_towers_that_do_not_talk_send_logits_only(data):
  """With 'owt' fc6 still needs the maps of the images of others."""
  own = {f'model.{layer}.reads': 'own' for layer in ('conv3', 'fc6', 'fc7')}
  net = small(data, 2, **own)
  assert_only(training(net), {}, data)
  net = small(data, 2, **own, **{'mesh.parallelism': 'owt'})
  rows = training(net)
  assert_only(rows, {'fc6': 2 * 2 * 16 // 2}, data)
  for row in rows:
    if row.kind == 'activations':
      need = needs(net)[row.layer, row.direction]
      assert row.bytes == need * BATCH // data


def test_neighbours_in_the_other_tower_are_counted():
  net = small(1, 2, **{'model.lrn.across_towers': True})
  normed = {'lrn1': 23 * 23 * 6, 'lrn2': 11 * 11 * 16}
  assert_only(training(net), {**SMALL, **normed}, data=1)
  assert needs(net)['lrn1', 'forward'] == 4 * normed['lrn1']


def test_one_weird_trick_moves_the_talk_and_float16_halves_it():
  overrides = {'mesh.parallelism': 'owt', 'mesh.exchange_dtype': 'float16'}
  net = small(2, 2, **overrides)
  rows = training(net)
  talk = {layer: n for layer, n in SMALL.items() if layer != 'conv3'}
  assert_only(rows, talk, data=2, size=2)
  for row in rows:
    if row.kind == 'activations':
      assert row.dtype == ('f32' if row.layer == 'fc8' else 'f16')
      need = needs(net)[row.layer, row.direction]
      assert row.bytes == need * BATCH // 2
  # All of a convolution's gradient, over all devices; half of the others'.
  gradients = {row.layer: row for row in rows if row.kind == 'parameters'}
  assert gradients['conv1'].axes == ('data', 'tower')
  assert gradients['conv1'].elements == 2 * (11 * 11 * 3 * 6 + 6)
  assert gradients['fc7'].axes == ('data',)
  assert gradients['fc7'].elements == 512 * 256 + 256
  (labels,) = [row for row in rows if row.kind == 'labels']
  assert labels.elements == BATCH // 2


def test_the_table_counts_by_image_of_a_device():
  """8 images on two devices of the data axis: 4 each."""
  settings = small(2, 2)
  net = abstract(settings)
  sent = 4 * 4 * (5 * 5 * 16)  # images, bytes of a float32, numbers each
  place = ('conv3', 'forward', 'all-gather', ('tower',), 'f32')
  row = communication.Transfer(
    'activations', *place, elements=2 * sent // 4, bytes=sent
  )
  text = communication.format_transfers(
    net, [row], needs(settings), net.batch_size
  )
  _, line, *_ = text.splitlines()
  assert line.split()[-2:] == ['1,600', '1,600']
