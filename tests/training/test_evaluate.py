"""Errors of a checkpoint: every example once, and refusals in one message."""

import collections
import csv
import dataclasses
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_runs
from flax import nnx
from ml_collections import ConfigDict

from alexnet_jax.data import builders, stats
from alexnet_jax.models.alexnet import AlexNet
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training import agreement, loop
from alexnet_jax.training import evaluation as evaluate
from alexnet_jax.training.settings import configure

pytestmark = pytest.mark.usefixtures('cached')

# ---- Evaluation, against logits of views cut by NumPy.


def oracle(
  config: ConfigDict, workdir: Path, which: str, split: str, views: int
) -> tuple[float, float]:
  """Top-1 and top-5 error of a checkpoint: softmax averaged over views."""
  return errors_of(*oracle_means(config, workdir, which, split, views))


def oracle_means(
  config: ConfigDict, workdir: Path, which: str, split: str, views: int
) -> tuple[np.ndarray, np.ndarray]:
  """The averaged softmax [N, classes] and the labels."""
  dataset = builders.open_dataset('pictures', config.data.dir)
  source = dataset.source(split)
  images = np.stack([source[i]['image'] for i in range(len(source))])
  labels = np.array([source[i]['label'] for i in range(len(source))])
  crop, room = 64, 256 - 64
  places = {
    1: [(room // 2, room // 2)],
    10: [(y, x) for y in (0, room) for x in (0, room)] + [(room // 2,) * 2],
  }[views]
  cuts = [images[:, y : y + crop, x : x + crop] for y, x in places]
  if views > 1:
    cuts += [cut[:, :, ::-1] for cut in cuts]
  low = room // 2
  mean = dataset.statistics.mean_image[low : low + crop, low : low + crop]

  model = AlexNet(
    configure(config).model, dataset.num_classes, crop, rngs=nnx.Rngs(params=1)
  )
  arrays, _ = small_runs.saved(config, workdir, which)
  graphdef, params = nnx.split(model)
  names = jax.tree_util.tree_leaves_with_path(params)
  params = jax.tree.unflatten(
    jax.tree.structure(params),
    [arrays[f'.params{jax.tree_util.keystr(path)}'] for path, _ in names],
  )
  apply = jax.jit(lambda views: nnx.merge(graphdef, params)(views))
  probabilities = 0
  for cut in cuts:
    logits = np.asarray(apply(jnp.asarray(cut - mean, jnp.float32)), np.float64)
    exps = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities += exps / exps.sum(axis=1, keepdims=True)
  return probabilities / len(cuts), labels


def errors_of(probabilities: np.ndarray, labels: np.ndarray):
  order = np.argsort(-probabilities, axis=1)
  wrong = order != labels[:, None]
  return wrong[:, 0].mean(), wrong[:, :5].all(axis=1).mean()


@pytest.mark.parametrize('views', [1, 10])
@pytest.mark.parametrize(
  ('which', 'split'), [('best', 'validation'), ('last', 'test'), ('16', 'test')]
)
def test_evaluation_counts_every_example_once(
  which, split, views, config, reference, capsys
):
  top1, top5 = oracle(config, reference, which, split, views)
  values = evaluate.evaluate_checkpoint(
    reference, which, split, views, {'evals.batch_size': 8}
  )
  assert (values['top1_error'], values['top5_error']) == (top1, top5)
  step = {'best': 5, 'last': 18, '16': 16}[which]
  about, errors = capsys.readouterr().out.splitlines()[-2:]
  count = small_runs.IMAGES[split]
  s = 's' if views > 1 else ''
  assert about == (
    f'pictures, {split}: {count} images, {views} view{s}, step {step}'
  )
  assert errors == (
    f'loss {values["loss"]:.4f}, top-1 error {with_spread(top1, count)}, '
    f'top-5 error {with_spread(top5, count)}'
  )


def with_spread(error: float, count: int) -> str:
  """Of few pictures: the standard error is above 1 %."""
  spread = 100 * np.sqrt(error * (1 - error) / count)
  digits = 0 if spread >= 10 else 1
  return f'{100 * error:.{digits}f} ± {spread:.{digits}f}%'


@pytest.mark.parametrize('views', [1, 10])
def test_networks_are_averaged(config, reference, tmp_path, capsys, views):
  """Two runs: the reference, and a copy that stopped at step 5."""
  copy = tmp_path / 'copy'
  shutil.copytree(reference, copy)
  for step in (14, 16, 18):
    shutil.rmtree(copy / f'checkpoints/{step}')
  both = [
    oracle_means(config, folder, 'last', 'test', views)
    for folder in (reference, copy)
  ]
  probabilities = (both[0][0] + both[1][0]) / 2
  labels = both[0][1]
  values = evaluate.evaluate_checkpoint(
    [reference, copy], 'last', 'test', views
  )
  assert 'step 18, 5, mean of 2 networks\n' in capsys.readouterr().out
  assert (values['top1_error'], values['top5_error']) == errors_of(
    probabilities, labels
  )
  right = probabilities[np.arange(len(labels)), labels]
  assert values['loss'] == pytest.approx(-np.log(right).mean(), rel=1e-4)
  for alone, _ in both:  # far from what either says
    loss = -np.log(alone[np.arange(len(labels)), labels]).mean()
    assert abs(values['loss'] / loss - 1) > 1e-3


def test_networks_of_other_pictures_are_not_averaged(
  reference, tmp_path, caplog
):
  copy = tmp_path / 'copy'
  shutil.copytree(reference, copy)
  with np.load(copy / 'statistics.npz') as file:
    arrays = dict(file)
  arrays['mean_image'] = arrays['mean_image'] + 1
  np.savez(copy / 'statistics.npz', **arrays)
  with pytest.raises(UserError, match='cannot be averaged: .* mean image'):
    evaluate.evaluate_checkpoint([reference, copy], 'last', 'test', 1)
  (said,) = [r.getMessage() for r in caplog.records if 'own mean' in r.msg]
  assert 'data set pictures by up to 1.00 of 255' in said


def test_what_a_network_sees_cannot_be_asked_for(reference, caplog):
  """What differs from the run is refused by name; what does not, is not."""
  for field, run_has, value in (
    ('augment.mean', 'image', 'none'),
    ('augment.scale', 1.0, 0.5),
    ('augment.crop_size', 64, 80),
    ('model.width', 0.05, 0.1),
    ('model.conv1.features', 48, 50),
  ):
    words = f'{field}={value!r}, but the net.* with {run_has!r}: leave this out'
    with pytest.raises(UserError, match=words):
      evaluate.evaluate_checkpoint(reference, 'last', 'test', 1, {field: value})
  same = {'augment.mean': 'image', 'model.width': 0.05, 'seed': 0}
  evaluate.evaluate_checkpoint(reference, 'last', 'test', 1, same)
  assert 'not used' not in caplog.text
  other = {'evals.batch_size': 5, 'evals.split': 'test', 'seed': 1}
  evaluate.evaluate_checkpoint(reference, 'last', 'test', 1, other)
  assert [r.getMessage() for r in caplog.records if 'not used' in r.msg] == [
    'config.evals.split is not used in an evaluation',
    'config.seed is not used in an evaluation',
  ]


@pytest.mark.parametrize(
  ('names', 'words'),
  [
    ('012354', r"number 4 on '5', '4' \(6 .* here, and '4', '5' \(6 .* in the"),
    ('01234', r'number 5 on none \(5 classes in all\) here'),
    ('abcdef', r"number 0 on 'a', 'b', 'c', ... \(6 classes in all\) here"),
  ],
)
def test_other_classes_are_refused(
  names, words, config, reference, tmp_path, monkeypatch
):
  """Of another order, too, by an evaluation and by a run that goes on."""
  opened = builders.open_dataset

  def renamed(*arguments):
    dataset = opened(*arguments)
    return dataclasses.replace(dataset, class_names=tuple(names))

  monkeypatch.setattr(builders, 'open_dataset', renamed)
  with pytest.raises(UserError, match=words):
    evaluate.evaluate_checkpoint(reference, 'last', 'test', 1)
  copy = shutil.copytree(reference, tmp_path / 'copy')
  config.length = '5 epochs'
  with pytest.raises(UserError, match=words):
    loop.train_and_evaluate(config, copy)


def test_only_an_imported_network_may_have_classes_without_names():
  numbers, names = ['0', '1'], ['cat', 'dog']
  agreement.check_classes('x', numbers, names, trained=False)
  with pytest.raises(UserError, match='other classes than x'):
    agreement.check_classes('x', numbers, names, trained=True)
  with pytest.raises(UserError, match='other classes than x'):
    agreement.check_classes('x', numbers, [*names, 'eel'], trained=False)


def test_pictures_of_another_size_are_refused(reference, monkeypatch):
  opened = builders.open_dataset

  def shrunk(*arguments):
    dataset = opened(*arguments)
    mean = stats.of_mean(dataset.statistics.mean_image[:128, :128])
    return dataclasses.replace(dataset, statistics=mean)

  monkeypatch.setattr(builders, 'open_dataset', shrunk)
  with pytest.raises(UserError, match=r'used to pictures of 256 .*--size=256'):
    evaluate.evaluate_checkpoint(reference, 'last', 'test', 1)


def test_the_last_rows_of_a_run_are_those_of_evaluation(reference):
  for split in ('validation', 'test'):
    values = evaluate.evaluate_checkpoint(reference, 'last', split, 1)
    row = [r for r in small_runs.rows(reference) if f'{split}/loss' in r][-1]
    for key, value in values.items():
      assert value == pytest.approx(row[f'{split}/{key}'], rel=1e-6)


def test_eval_mode_needs_a_workdir_and_nothing_else(
  config, reference, cache_dir
):
  def run(workdir, *more, status=0):
    done = subprocess.run(
      [
        *(sys.executable, '-m', 'alexnet_jax.main', '--mode=eval'),
        *(f'--workdir={workdir}', *more),
      ],
      cwd=small_runs.ROOT,
      env=os.environ | {'JAX_COMPILATION_CACHE_DIR': str(cache_dir)},
      capture_output=True,
      text=True,
    )
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr

  words = ('--checkpoint=last', '--split=test', '--views=10')
  top1, top5 = oracle(config, reference, 'last', 'test', 10)
  errors = (
    f'top-1 error {with_spread(top1, 11)}, top-5 error {with_spread(top5, 11)}'
  )
  assert errors in run(reference, *words, '--config.evals.batch_size=5')
  out = run(f'{reference},{reference}', *words)
  assert errors in out and out.count('mesh: ') == 1
  out = run(reference, '--config.augment.scale=0.5', status=2)
  assert 'error: config.augment.scale=0.5, but the network of' in out
  out = run(reference.parent / 'none', status=2)
  assert f'error: no run in {reference.parent}/none: there are ' in out
  assert str(reference) in out


@pytest.mark.parametrize(
  ('which', 'split', 'views', 'words'),
  [
    ('7', 'test', 1, ['no checkpoint of step 7', '[5, 14, 16, 18]']),
    ('newest', 'test', 1, ["'newest'", "'last', 'best' or a step"]),
    ('last', 'testing', 1, ["'testing'", 'train, validation, test']),
  ],
)
def test_an_evaluation_that_cannot_be_is_refused(
  which, split, views, words, reference
):
  with pytest.raises(UserError) as refusal:
    evaluate.evaluate_checkpoint(reference, which, split, views)
  for word in words:
    assert word in str(refusal.value)


def test_evaluation_needs_a_run(tmp_path):
  with pytest.raises(UserError, match='train first'):
    evaluate.evaluate_checkpoint(tmp_path, 'last', 'test', 1)


def test_a_run_keeps_its_decoder(tmp_path):
  pytest.importorskip('simplejpeg')
  data_dir = small_runs.prepare_pictures(tmp_path, 'pictures', encoding='jpeg')
  config = small_runs.small_config(
    data_dir, data__decoder='simplejpeg', length='1 step'
  )
  assert loop.train_and_evaluate(config, tmp_path / 'run') == 0
  config.data.decoder, config.length = 'pillow', '2 steps'
  message = "decoder is 'pillow' here and 'simplejpeg' in the checkpoint"
  with pytest.raises(UserError, match=message):
    loop.train_and_evaluate(config, tmp_path / 'run')
  with pytest.raises(UserError, match=message):
    evaluate.evaluate_checkpoint(
      tmp_path / 'run', 'last', 'validation', 1, {'data.decoder': 'pillow'}
    )


def test_a_decoder_that_is_not_installed_is_named(data_dir, monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda _: None)
  with pytest.raises(UserError, match="decoder='simplejpeg' is not installed"):
    builders.open_dataset('pictures', data_dir, 'simplejpeg')


# ---- Class by class.


def test_a_table_by_class(config, reference, tmp_path, capsys):
  workdir = shutil.copytree(reference, tmp_path / 'run')
  values = evaluate.evaluate_checkpoint(
    workdir, 'best', 'validation', 1, {'evals.batch_size': 4}, classes=True
  )
  probabilities, labels = oracle_means(config, workdir, 'best', 'validation', 1)
  order = np.argsort(-probabilities, axis=1)
  assert values['top1_error'] == (order[:, 0] != labels).mean()
  with (workdir / 'per_class_validation.csv').open() as file:
    table = list(csv.DictReader(file))
  said = json.loads((workdir / 'per_class_validation.json').read_text())
  assert (said['split'], said['views']) == ('validation', 1)
  assert len(table) == len(said['classes']) == 6
  shown = capsys.readouterr().out
  errors = []
  for line, row in zip(table, said['classes'], strict=True):
    mine = order[labels == int(row['class'])]
    wrong = mine[mine[:, 0] != int(row['class']), 0]
    p, n = len(wrong) / len(mine), len(mine)
    errors.append(p)
    assert row['pictures'] == int(line['pictures']) == n
    assert row['top1_error'] == float(line['top1_error']) == p
    np.testing.assert_allclose(row['stderr'], np.sqrt(p * (1 - p) / n))
    top5 = (mine[:, :5] != int(row['class'])).all(1).mean()
    assert row['top5_error'] == top5
    right = probabilities[labels == int(row['class']), int(row['class'])]
    np.testing.assert_allclose(row['loss'], -np.log(right).mean(), rtol=1e-4)
    assert row['taken_for'] == dict(collections.Counter(map(str, wrong)))
    assert f'{n}  {row["class"]}: ' in shown
  assert errors == sorted(errors, reverse=True)
