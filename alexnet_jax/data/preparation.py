"""The making of a data set: whole or not there, whatever happens meanwhile."""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from etils import epath

from alexnet_jax.data import (
  builders,
  imagenet,
  listing,
  parquet_sets,
  photographs,
  sources,
  tfds_sets,
  webdataset_sets,
)
from alexnet_jax.data.builders import Dataset
from alexnet_jax.runtime.errors import UserError, printable
from alexnet_jax.runtime.files import (
  explained,
  in_bucket,
  locked,
  make_folder,
  upload,
)

SOURCES = ('imagenet2012', 'imagenet_v2', 'folder', 'shapes')
TFDS, HF, WEBDATASET = SETS = ('tfds:', 'hf:', 'webdataset:')
_BYTES = {'raw': 3.0, 'jpeg': 0.61}  # about, per pixel, on disk


def ensure_shapes(data_dir: epath.PathLike) -> None:
  """Draws the data set `shapes` unless it is there. Processes that come while
  one draws wait, and say so."""
  if not builders.is_there(builders.dataset_path('shapes', data_dir)):
    prepare('shapes', data_dir=data_dir)


def prepare(
  source: str,
  *,
  data_dir: epath.PathLike,
  name: str | None = None,
  input_dir: str | None = None,
  encoding: str = 'raw',
  size: int = photographs.SIZE,
  validation_share: float = 0.1,
  test_share: float = 0.0,
  skip_bad: bool = False,
  overwrite: bool = False,
  num_workers: int | None = None,
) -> Dataset:
  """Writes a data set, unless it is there already.

  At every moment it is either absent or whole: it is written beside its place
  and renamed at the end, and what a killed run left is removed by the next.
  In a bucket, it is written to a temporary folder here and then copied there,
  TFDS's description last: before that, no data set is seen.

  Args:
    source: one of `SOURCES`, see `sources` and `imagenet`; or 'tfds:NAME',
      'hf:PATH_OR_NAME' or 'webdataset:SHARDS', see the modules of these.
    data_dir: folder of all data sets.
    name: of this one; by default that of the source, if it has one.
    input_dir: where the photographs are, but for 'shapes', hf and webdataset;
      of 'tfds:NAME', TFDS's folder, by default where TFDS has it.
    encoding: 'raw' pixels, or 'jpeg' of quality 90, 4:4:4. The statistics are
      those of the pixels as they will be read back.
    size: side of the square images, pixels.
    validation_share: see `sources.folder`.
    test_share: likewise.
    skip_bad: leave out files that cannot be decoded, and list them, instead of
      stopping at the first.
    overwrite: replace a data set of this name that was made otherwise.
    num_workers: processes that decode; by default one per core. What is written
      does not depend on it.

  Raises:
    UserError: anything that the user can mend.
  """
  kind = source.partition(':')[0]
  if kind in ('folder', 'hf', 'webdataset') and not name:
    raise UserError(f'--source={kind} needs --name=NAME for the data set')
  if source not in SOURCES and not source.startswith(SETS):
    raise UserError(
      f'--source={source}: take {", ".join(SOURCES)}, hf:PATH_OR_NAME, '
      'webdataset:SHARDS or tfds:NAME'
    )
  name = name or re.split('[/:]', source.removeprefix(TFDS))[0]
  if not re.fullmatch('[a-z][a-z0-9_]*', name):
    raise UserError(f'--name={name}: take lower-case letters, digits and _')
  request = _request(
    source, input_dir, encoding, size, validation_share, test_share
  )
  path = builders.dataset_path(name, data_dir)
  if str(path) == request.get('input'):
    raise UserError(f"{path} is TFDS's: choose another --name or --data_dir")
  with explained(path):
    make_folder(path.parent)

  def say_so() -> None:
    print(f'waiting for another process that prepares {name}', flush=True)

  with (
    locked(path.parent / '.lock', say_so),
    _scratch(path.parent / 'incomplete') as scratch,
  ):
    if builders.is_there(path) and not overwrite:
      dataset = _reuse(builders.open_dataset(name, data_dir), request)
      _warn_of_changes(dataset, request)
      return dataset
    found = _find(request)
    _check_disk(found, encoding, size, scratch)
    builder = builders.Photographs(
      name, scratch, found, request, skip_bad=skip_bad, workers=num_workers
    )
    with explained(path):
      builder.download_and_prepare(
        download_dir=scratch / 'downloads', file_format='array_record'
      )
      if in_bucket(path):
        upload(builder.data_path, path, last=builders.DESCRIPTION)
      else:
        if path.exists():
          path.rename(scratch / 'overwritten')
        builder.data_path.rename(path)
  dataset = builders.open_dataset(name, data_dir)
  print(f'{path}: {_counts(dataset)}', flush=True)
  return dataset


def _reuse(dataset: Dataset, request: dict[str, Any]) -> Dataset:
  was = dataset.fingerprint['request']
  for key in was | request:
    if was.get(key) != request.get(key):
      raise UserError(
        f'{dataset.path} is already there, made with {key} = {was.get(key)}, '
        f'not {request.get(key)}: choose another --name, or --overwrite it'
      )
  print(f'{dataset.path} is already there: {_counts(dataset)}', flush=True)
  return dataset


def _warn_of_changes(dataset: Dataset, request: dict[str, Any]) -> None:
  """Says so where there are other files now than a data set was made of."""
  was = dataset.fingerprint['listing']
  if was is None:
    return
  try:
    now = _listed(request)
  except UserError as error:
    change = str(error)
  else:
    if now is None or now == was:
      return
    change = f'{now["files"]:,} files now, {was["files"]:,} then'
  listing.warn(
    f'{printable(request["input"])} has changed since {dataset.path} was made '
    f'of it ({change}): --overwrite makes it anew'
  )


def _listed(request: dict[str, Any]) -> Mapping[str, Any] | None:
  """`sources.listed` of what is there now; None: it is not there any more."""
  match request['source'].partition(':')[0]:
    case 'folder' | 'imagenet_v2' if os.path.isdir(request['input']):
      return sources.read_tree(Path(request['input'])).listing
    case 'hf' if os.path.exists(request['input']):
      return parquet_sets.listed(Path(request['input']))
    case 'webdataset':
      return webdataset_sets.listed(request['input'])
  return None


@contextlib.contextmanager
def _scratch(path: epath.Path) -> Iterator[epath.Path]:
  """An empty folder for the time being, cleared of what a killed run left; for
  a bucket, one that is here."""
  if in_bucket(path):
    with tempfile.TemporaryDirectory() as temporary:
      yield epath.Path(temporary)
    return
  shutil.rmtree(path, ignore_errors=True)
  path.mkdir()
  try:
    yield path
  finally:
    shutil.rmtree(path)


def _request(
  source: str,
  input_dir: str | None,
  encoding: str,
  size: int,
  validation_share: float,
  test_share: float,
) -> dict[str, Any]:
  """What identifies a data set: stored with it, compared when asked again."""
  request: dict[str, Any] = {
    'source': source,
    'encoding': encoding,
    'size': size,
  }
  _, colon, what = source.partition(':')
  if colon and not all(what.split('::')):
    raise UserError(f'--source={source}: say which behind the colon')
  if source.startswith(TFDS):
    found = tfds_sets.find(source.removeprefix(TFDS), input_dir)
    request['input'] = os.path.abspath(found)  # with the version
  elif source.startswith(HF):
    found = parquet_sets.find(source.removeprefix(HF))
    request['input'] = os.path.abspath(found)  # of the hub, with the commit
  elif source.startswith(WEBDATASET):
    request['input'] = webdataset_sets.find(source.removeprefix(WEBDATASET))
  elif source != 'shapes':
    if not input_dir:
      raise UserError(f'--source={source} needs --input=FOLDER')
    request['input'] = os.path.abspath(input_dir)
  if source == 'folder' or source.startswith(SETS):
    shares = (validation_share, test_share)
    if not (min(shares) >= 0 and sum(shares) < 1):  # of NaN, either
      raise UserError(
        f'--validation_share={validation_share} --test_share={test_share}: '
        'take shares from 0 on, together below 1'
      )
    request['validation_share'] = validation_share
    request['test_share'] = test_share
  return request


def _find(request: dict[str, Any]) -> sources.Source:
  match request['source']:
    case 'shapes':
      return sources.drawn_shapes()
    case 'imagenet2012':
      return imagenet.imagenet2012(Path(request['input']))
    case 'imagenet_v2':
      return imagenet.imagenet_v2(Path(request['input']))
  shares = {s: request[f'{s}_share'] for s in ('validation', 'test')}
  if request['source'].startswith(WEBDATASET):
    return webdataset_sets.webdataset(request['input'], shares)
  made = {'folder': sources.folder, 'hf': parquet_sets.parquet}.get(
    request['source'].partition(':')[0], tfds_sets.prepared
  )
  return made(Path(request['input']), shares)


def _check_disk(
  found: sources.Source, encoding: str, size: int, path: epath.Path
) -> None:
  count = sum(map(len, found.examples.values()))
  need = count * size**2 * _BYTES[encoding]
  free = shutil.disk_usage(path).free
  if need > free:
    raise UserError(
      f'{path} has {free / 1e9:.2f} GB free and --encoding={encoding} takes '
      f'about {need / 1e9:.2f} GB: choose another --data_dir'
      + (' or --encoding=jpeg' if encoding == 'raw' else '')
    )


def _counts(dataset: Dataset) -> str:
  counts = (f'{n:,} {s}' for s, n in dataset.fingerprint['examples'].items())
  lines = [f'{", ".join(counts)} images of {dataset.num_classes:,} classes']
  if skipped := dataset.fingerprint['skipped']:
    lines += [f'{len(skipped)} left out (--skip_bad):']
    lines += map(printable, skipped)
  if unused := dataset.fingerprint['unused']:
    lines += [f'{len(unused):,} not used: metadata.json there names them']
  return '\n  '.join(lines)
