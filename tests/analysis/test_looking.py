"""Predictions, features and neighbours, against NumPy and sums by hand."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_pictures
import small_runs
from flax import nnx
from PIL import Image

import alexnet_jax
from alexnet_jax.analysis import examples, measures, pictures
from alexnet_jax.data import builders, sources
from alexnet_jax.data import feature_files as features
from alexnet_jax.runtime import metrics
from alexnet_jax.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures('cached')


def test_nearest_is_brute_force():
  rng = np.random.default_rng(0)
  gallery = rng.normal(size=(101, 17)).astype(np.float32)
  gallery[70] = gallery[13]  # equals: the first comes first
  queries = np.concatenate([gallery[13:15], rng.normal(size=(3, 17))])
  distances = np.linalg.norm(queries[:, None] - gallery[None], axis=-1)
  order = np.argsort(distances, axis=1, kind='stable')[:, :5]
  parts = (gallery[i : i + 40] for i in range(0, 101, 40))
  found, places = measures.find_nearest(queries, parts, 5)
  np.testing.assert_array_equal(places, order)
  assert places[0, :2].tolist() == [13, 70]
  np.testing.assert_allclose(found, np.sort(distances, 1)[:, :5], atol=1e-12)


def test_nearest_refuses_what_does_not_fit():
  with pytest.raises(UserError, match='length 4 .* those here have 3'):
    measures.find_nearest(np.zeros((1, 3)), [np.zeros((2, 4))], 1)
  with pytest.raises(UserError, match='2 photographs to look among, 3 wanted'):
    measures.find_nearest(np.zeros((1, 3)), [np.zeros((2, 3))], 3)


def test_verdicts_are_those_of_an_evaluation():
  rng = np.random.default_rng(2)
  logits = rng.normal(size=(60, 7)).astype(np.float32)
  logits[:9, 3] = logits[:9, 5]  # of equals the first comes first
  labels = np.where(np.arange(60) < 9, 5, rng.integers(0, 7, 60))
  labels[20], logits[20, 2] = 2, -200.0  # too small for a probability
  probabilities = np.asarray(jax.nn.softmax(logits))
  found = measures.judge(np.asarray(jax.nn.log_softmax(logits)), labels)
  assert found.rank[20] == 6
  want = metrics.Metrics.of(jnp.asarray(logits), jnp.asarray(labels)).compute()
  assert found.summary().keys() == want.keys()
  for name, value in found.summary().items():
    np.testing.assert_allclose(value, want[name], rtol=1e-5)

  by_hand = [
    (i, *probabilities[i, [5, logits[i].argmax()]])
    for i in range(60)
    if labels[i] == 5
  ]
  wrong = [row for row in by_hand if logits[row[0]].argmax() != 5]
  most_wrong, least_sure = found.hardest(5, 4)
  assert most_wrong.tolist() == [
    i for i, *_ in sorted(wrong, key=lambda r: r[1])[:4]
  ]
  assert least_sure.tolist() == [
    i for i, *_ in sorted(by_hand, key=lambda r: r[2])[:4]
  ]


def test_confusion_by_hand():
  found = measures.count_confusions(
    np.array([0, 0, 1, 2, 2]), np.array([0, 2, 1, 0, 0]), 3
  )
  assert found.tolist() == [[1, 0, 1], [0, 1, 0], [2, 0, 0]]


def test_colour_by_hand():
  kernels = np.zeros((2, 2, 1, 3, 3))
  kernels[0, :, 0, :, 0] = [[1, 1, 1], [-2, -2, -2]]  # grey
  kernels[0, 0, 0, :, 1] = [0, 5, 0]  # one channel: 25, of which 25 / 3 grey
  kernels[0, :, 0, :, 2] = [[1, -1, 0], [2, 0, -2]]  # opponents
  kernels[1, :, 0, :, 0] = [[2, 2, 2], [1, 0, 0]]  # 13, of which 12 + 1 / 3
  kernels[1, 0, 0, :, 1] = [3, 2, 1]  # 14, of which 12
  want = [[0, 2 / 3, 1], [2 / 39, 1 / 7, 0]]
  np.testing.assert_allclose(pictures.measure_colour(kernels), want, atol=1e-12)


def test_the_colour_of_each_tower():
  kernels = np.zeros((2, 1, 1, 3, 2), np.float32)
  kernels[0, 0, 0, :, 0] = [1, 1, 1]
  kernels[0, 0, 0, :, 1] = [1, -1, 0]
  kernels[1, 0, 0, 2] = 7
  params = nnx.State({'conv1': {'kernel': nnx.Param(jnp.asarray(kernels))}})
  mean, error = pictures.conv1_colour(params)
  np.testing.assert_allclose(mean, [1 / 2, 2 / 3])
  # Of 0 and 1 the standard deviation is 0.707, of their mean 1 / 2.
  np.testing.assert_allclose(error, [1 / 2, 0], atol=1e-12)


def test_occlusion_finds_the_only_pixel_that_counts():
  def probabilities(views):
    one = views[:, 5, 12, 0]
    return np.stack([1 - one, one], 1)

  view = np.full((16, 16, 3), 0.75, np.float32)
  drops = measures.measure_occlusion(probabilities, view, 1, patch=4, stride=4)
  want = np.zeros((4, 4))
  want[1, 2:4] = 0.75  # patches around (6, 10) and (6, 14) hide (5, 12)
  want[1, 2] = 0  # 10 + 2 is the first that is not hidden
  np.testing.assert_allclose(drops, want)
  np.testing.assert_array_equal(view, 0.75)


def test_examples_are_taken_from_all_over(data_dir):
  dataset = builders.open_dataset('pictures', data_dir)
  assert examples.spread_indices(dataset, 'train', 4) == [
    4,
    13,
    22,
    31,
  ]  # of 36
  assert examples.spread_indices(dataset, 'test', 99) == list(range(11))
  _, labels, files = examples.read_examples(dataset, 'test', [0, 10])
  assert labels == [0, 5]
  assert files == ['test/0/0.png', 'test/5/5.png']


@pytest.mark.parametrize('kind', ['npy', 'array_record'])
def test_features_are_read_as_written(tmp_path, kind):
  rng = np.random.default_rng(1)
  rows = rng.normal(size=(300, 5)).astype(np.float32)
  odd = ['a\nb', 'c\\n\\', 'd\te', 'f\u2028g\r', os.fsdecode(b'\xff\xfe')]
  names = [f'a folder/grün {i}.jpg' for i in range(295)] + odd
  labels = list(range(-1, 299))
  path = tmp_path / 'deep' / f'some.{kind}'

  def parts(stop):
    for i in range(0, stop, 128):
      some = slice(i, i + 128)
      yield features.Part(rows[some], names[some], labels[some])

  count = features.write(path, parts(300), {'layer': 'fc7', 'data': None})
  assert count == 300
  read = list(features.read(path))
  np.testing.assert_array_equal(
    np.concatenate([p.features for p in read]), rows
  )
  assert [name for part in read for name in part.names] == names
  assert [label for part in read for label in part.labels] == labels
  if kind == 'npy':
    np.testing.assert_array_equal(np.load(path), rows)

  def broken():
    yield from parts(128)
    raise UserError('a bad image')

  before = path.read_bytes()
  with pytest.raises(UserError, match='a bad image'):
    features.write(path, broken(), {})
  assert path.read_bytes() == before
  assert not list(path.parent.glob('.*'))
  path.write_bytes(before[:100])
  with pytest.raises(UserError, match='is damaged, or not what'):
    list(features.read(path))


@pytest.mark.parametrize('kind', ['npy', 'array_record'])
def test_features_of_something_else_are_refused(tmp_path, kind):
  path = tmp_path / f'some.{kind}'
  about = {'layer': 'fc7', 'network': 'ab', 'data set': None}
  part = features.Part(np.zeros((1, 2), np.float32), ['x'], [0])
  features.write(path, iter([part]), about)
  features.check(path, about)
  features.check(path, {**about, 'data set': 'cd'})  # of single photographs
  for field, here in (('layer', 'fc6'), ('network', 'cd')):
    with pytest.raises(UserError, match=f"another {field}: .*'{here}' here"):
      features.check(path, {**about, field: here})
  (tmp_path / f'some.{kind}.json').write_text('{"format_version": 9}')
  with pytest.raises(UserError, match='is of format 9'):
    features.check(path, about)
  (tmp_path / f'some.{kind}.json').unlink()
  with pytest.raises(UserError, match='does not say what'):
    features.check(path, about)
  with pytest.raises(UserError, match='no features in'):
    features.check(tmp_path / f'gone.{kind}', about)


def test_features_of_another_kind(tmp_path):
  with pytest.raises(UserError, match='a file .*array_record or .*npy'):
    features.check_kind('x.npz')
  odd = os.fsdecode(b'\xff')
  features.check_kind(f'{odd}.npy')
  with pytest.raises(UserError, match=r'^.udcff\.array_record: .* is UTF-8'):
    features.check_kind(f'{odd}.array_record')
  with pytest.raises(UserError, match='no features in'):
    list(features.read(tmp_path / 'x.npy'))


def test_photographs_are_named_by_files_folders_and_globs(tmp_path):
  for name in ('b/2.jpg', 'b/1.jpg', 'b/.hidden', 'b/c/3.jpg', '.d/4.jpg'):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
  b = tmp_path / 'b'
  assert sources.named([str(b / '2.jpg'), str(b)]) == [
    *(str(b / name) for name in ('2.jpg', '1.jpg', '2.jpg', 'c/3.jpg')),
  ]
  assert sources.named([str(b / '*.jpg')]) == [
    str(b / '1.jpg'),
    str(b / '2.jpg'),
  ]
  with pytest.raises(UserError, match='gone: there is no such file'):
    sources.named([str(tmp_path / 'gone')])


# ---- The programs.


def program(*arguments, **environment) -> subprocess.CompletedProcess:
  done = subprocess.run(
    [sys.executable, '-m', *map(str, arguments)],
    env=os.environ | environment,
    cwd=small_runs.ROOT,
    capture_output=True,
    text=True,
  )
  assert 'Traceback' not in done.stderr, done.stderr
  return done


def test_predict_says_what_the_network_says(reference, tmp_path):
  # JSON stays JSON where the terminal has only ASCII.
  files = [tmp_path / 'in' / name for name in ('0.png', '\U0001f431.png')]
  files[0].parent.mkdir()
  for i, file in enumerate(files):
    small_pictures.draw_picture(i, (300, 280)).save(file)
  bad = tmp_path / 'in' / '1.jpg'
  bad.write_bytes(b'no image')
  done = program(
    *('alexnet_jax.predict', tmp_path / 'in', f'--workdir={reference}'),
    *('--format=json', '--top=3', '--views=2'),
    PYTHONIOENCODING='ascii:backslashreplace',
  )
  assert done.returncode == 2
  assert f'error: {bad}: not an image of these kinds' in done.stderr
  answers = json.loads(done.stdout)
  assert [answer['image'] for answer in answers] == list(map(str, files))
  model = alexnet_jax.load(reference)
  for file, answer in zip(files, answers, strict=True):
    logits = np.asarray(model(model.preprocess(file, views=2))[:, 0])
    e = np.exp(logits.astype(np.float64))
    softmax = (e / e.sum(-1, keepdims=True)).mean(0)
    order = np.argsort(-softmax)[:3]
    found = answer['predictions']
    assert [p['label'] for p in found] == order.tolist()
    assert [p['class'] for p in found] == [model.class_names[k] for k in order]
    np.testing.assert_allclose(
      [p['probability'] for p in found], softmax[order], rtol=1e-5
    )


def test_features_go_on_past_a_bad_image(reference, tmp_path):
  files = [tmp_path / 'in' / name for name in ('a.png', 'b.jpg', 'c.png')]
  files[0].parent.mkdir()
  for i, file in enumerate(files[::2]):
    small_pictures.draw_picture(i, (300, 280)).save(file)
  files[1].write_bytes(b'no image')
  words = ('alexnet_jax.features', tmp_path / 'in', f'--workdir={reference}')
  done = program(*words, f'--output={tmp_path / "x.npy"}')
  assert done.returncode == 2
  assert done.stderr.count(f'error: {files[1]}: not an image') == 1
  (part,) = features.read(tmp_path / 'x.npy')
  assert part.names == [str(files[0]), str(files[2])]
  assert json.loads((tmp_path / 'x.npy.json').read_text())['rows'] == 2
  expected = alexnet_jax.load(reference).features(files[::2])
  np.testing.assert_allclose(part.features, expected, atol=1e-6)
  assert np.abs(expected[0] - expected[1]).max() > 1e-3
  for file in files[::2]:
    file.unlink()
  done = program(*words, f'--output={tmp_path / "y.npy"}')
  assert done.returncode == 2 and 'not one of these is' in done.stderr
  assert not list(tmp_path.glob('*y.npy*'))


def test_a_data_set_of_other_classes_is_not_looked_at(reference, monkeypatch):
  model = alexnet_jax.load(reference)
  dataset = examples.open_data(model, None)
  other = dataclasses.replace(dataset, class_names=dataset.class_names[::-1])
  monkeypatch.setattr(builders, 'open_dataset', lambda *_: other)
  with pytest.raises(UserError, match='other classes than the network'):
    examples.open_data(model, None)


def test_neighbours_are_those_of_the_features(reference, data_dir, tmp_path):
  done = program(
    *('alexnet_jax.features', f'--workdir={reference}', '--split=train'),
    f'--output={tmp_path / "train.npy"}',
  )
  assert done.returncode == 0, done.stderr
  gallery = np.load(tmp_path / 'train.npy')
  source = builders.open_dataset('pictures', data_dir).source('train')
  model = alexnet_jax.load(reference)
  np.testing.assert_allclose(
    gallery, model.features([row['image'] for row in source]), atol=1e-6
  )
  file = tmp_path / 'seventh.png'
  Image.fromarray(source[7]['image']).save(file)
  done = program(
    *('alexnet_jax.neighbours', file, f'--workdir={reference}', '--top=3'),
    f'--features={tmp_path / "train.npy"}',
    f'--output={tmp_path / "near.png"}',
  )
  assert done.returncode == 0, done.stderr
  order = np.argsort(np.linalg.norm(gallery - gallery[7], axis=1))[:3]
  other = program(
    *('alexnet_jax.neighbours', file, f'--workdir={reference}'),
    *('--layer=fc6', f'--features={tmp_path / "train.npy"}'),
  )
  assert other.returncode == 2
  assert "of another layer: 'fc7' there, 'fc6' here" in other.stderr
  lines = done.stdout.splitlines()
  assert lines[0] == str(file)
  names = builders.open_dataset('pictures', data_dir).files('train', order)
  assert [line.split()[1:] for line in lines[1:4]] == [
    [str(source[place]['label']), name]
    for place, name in zip(order, names, strict=True)
  ]
  rows = (tmp_path / 'train.tsv').read_text().splitlines()
  assert (
    rows[order[1]]
    == f'{source[order[1]]["label"]}\ttrain:{order[1]}:{names[1]}'
  )
  assert order[0] == 7 and float(lines[1].split()[0]) < 1e-3
  with Image.open(tmp_path / 'near.png') as image:
    assert min(image.size) > 100
