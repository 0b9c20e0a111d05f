"""ILSVRC2012 from its official tars, read where they are; and ImageNet-V2."""

import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import tensorflow_datasets as tfds
from tensorflow_datasets.datasets.siscore import labels as siscore

from alexnet_jax.data.listing import Unused, warn, warn_unused
from alexnet_jax.data.photographs import Photograph
from alexnet_jax.data.sources import Source, read_tree
from alexnet_jax.runtime.errors import UserError, printable

TARS = {
  'train': 'ILSVRC2012_img_train.tar',  # of one tar per synset
  'validation': 'ILSVRC2012_img_val.tar',
}
COUNTS = {'train': 1_281_167, 'validation': 50_000}
_KINDS = {  # of members that are no files
  tarfile.DIRTYPE: 'a folder',
  tarfile.LNKTYPE: 'a link',
  tarfile.SYMTYPE: 'a link',
  tarfile.FIFOTYPE: 'a FIFO',
  tarfile.CHRTYPE: 'a device',
  tarfile.BLKTYPE: 'a device',
}


def imagenet2012(root: Path) -> Source:
  """The training and validation photographs in the two tars.

  Class i is line i of the labels that TFDS ships; a validation file's label is
  found by the number in its name (also from TFDS). Members that are no plain
  files are named, and not used.

  Args:
    root: folder that holds the two tars of `TARS`.

  Raises:
    UserError: a tar is missing, damaged or not what its name says.
  """
  for tar in TARS.values():
    if not (root / tar).is_file():
      there = ', '.join(sorted(path.name for path in root.glob('*.tar')))
      raise UserError(
        f'{tar} is not in --input={root} (tars there: {there or "none"}). It '
        'keeps its official name; it comes from '
        'https://image-net.org/download-images'
      )
  print(f'listing the tars in {root}', flush=True)
  ids = _tfds_lines('labels.txt')
  unused: list[Unused] = []
  examples = {
    'train': list(_imagenet_train(root / TARS['train'], ids, unused)),
    'validation': list(_imagenet_val(root / TARS['validation'], ids, unused)),
  }
  warn_unused(root, unused)
  for split, photographs in examples.items():
    if len(photographs) != COUNTS[split]:
      classes = len({photograph.label for photograph in photographs})
      warn(
        f'{TARS[split]} has {len(photographs):,} images of {classes:,}'
        f' classes; the official one has {COUNTS[split]:,} of 1,000'
      )
  return Source(tuple(ids), examples, unused)


def imagenet_v2(root: Path) -> Source:
  """The test photographs that Recht et al. gathered anew in 2019.

  Args:
    root: one of their sets, unpacked: class i of ILSVRC2012 is in the folder i.

  Raises:
    UserError: the folders are not 0 to 999, or one of them is empty.
  """
  tree = read_tree(root)
  ids = _tfds_lines('labels.txt')
  if set(tree.class_names) != set(map(str, range(len(ids)))):
    raise UserError(
      f'{printable(root)} is no set of ImageNet-V2 as its tar has it, whose '
      f'folders are 0 to {len(ids) - 1}: its {len(tree.class_names)} folders '
      'have other names'
    )
  labels = [int(name) for name in tree.class_names]
  found = [
    Photograph(e.name, labels[e.label], str(root / e.name))
    for examples in tree.examples.values()
    for e in examples
  ]
  found.sort(key=lambda photograph: photograph.label)
  if empty := set(range(len(ids))) - {photograph.label for photograph in found}:
    raise UserError(f'{printable(root)}: no photographs in {min(empty)}/')
  warn_unused(root, tree.unused)
  return Source(tuple(ids), {'test': found}, tree.unused, tree.listing)


def readable(names: Sequence[str]) -> tuple[str, ...]:
  """Class names for people: n01440764 is 'tench (n01440764)', by the words that
  TFDS ships. What is no synset of ILSVRC2012 stays as it is."""
  if not any(re.fullmatch(r'n\d{8}', name) for name in names):
    return tuple(names)
  ids = _tfds_lines('labels.txt')
  words = dict(zip(ids, siscore.IMAGENET_LABELS_LIST, strict=True))
  return tuple(
    f'{words[name].partition(",")[0]} ({name})' if name in words else name
    for name in names
  )


def shortened(names: Sequence[str]) -> tuple[str, ...]:
  """Of `readable` names, for pictures: 'tench', but both that are a maillot
  keep their synset."""
  words = [re.sub(r' \(n\d{8}\)$', '', name) for name in names]
  return tuple(
    word if words.count(word) == 1 else name
    for word, name in zip(words, names, strict=True)
  )


def _imagenet_train(
  path: Path, ids: Sequence[str], unused: list[Unused]
) -> Iterator[Photograph]:
  labels = {wordnet_id: label for label, wordnet_id in enumerate(ids)}
  for synset in members(path, unused):
    name = PurePosixPath(synset.name)
    if name.suffix != '.tar':
      raise UserError(
        f'{path} holds {name}; the official file holds one tar per synset'
      )
    if name.stem not in labels:
      raise UserError(
        f'{path} holds {name}: {name.stem} is not one of the 1,000 synsets '
        'of ILSVRC2012'
      )
    images = list(members(path, unused, synset))
    if not images:
      raise UserError(f'{path}: no photographs in {name}')
    for image in images:
      yield Photograph(
        f'{path.name}/{name}/{image.name}',
        labels[name.stem],
        str(path),
        image.offset_data,
        image.size,
      )


def _imagenet_val(
  path: Path, ids: Sequence[str], unused: list[Unused]
) -> Iterator[Photograph]:
  answers = _tfds_lines('validation_labels.txt')
  labels = {wordnet_id: label for label, wordnet_id in enumerate(ids)}
  for image in members(path, unused):
    name = PurePosixPath(image.name).name
    match = re.fullmatch(r'ILSVRC2012_val_(\d{8})\.JPEG', name)
    if not match or not 1 <= int(match[1]) <= len(answers):
      raise UserError(
        f'{path} holds {name}; the official file holds '
        f'ILSVRC2012_val_00000001.JPEG to ILSVRC2012_val_{len(answers):08}.JPEG'
      )
    yield Photograph(
      f'{path.name}/{name}',
      labels[answers[int(match[1]) - 1]],
      str(path),
      image.offset_data,
      image.size,
    )


def members(
  path: Path, unused: list[Unused], inner: tarfile.TarInfo | None = None
) -> Iterator[tarfile.TarInfo]:
  """The plain files of a tar, or of one that is a member of it; adds all else
  to `unused`."""
  start = inner.offset_data if inner else 0
  end = start + inner.size if inner else path.stat().st_size
  where = f'{path.name}/{inner.name}' if inner else path.name
  after = start  # of the last member
  try:
    with path.open('rb') as file:
      file.seek(start)
      with tarfile.open(fileobj=file, mode='r:') as tar:
        for member in tar:
          if member.size < 0 or member.offset_data + member.size > end:
            raise tarfile.ReadError(f'{member.name} is cut off')
          after = tar.offset
          if member.isfile() and not member.issparse():
            yield member
            continue
          kind = _KINDS.get(member.type, 'not a plain file')
          unused.append(Unused(f'{where}/{member.name}', kind))
        # `tarfile` takes a cut between two members, and what is no header, for
        # the end.
        file.seek(after)
        if after >= end or file.read(512) != bytes(512):
          raise tarfile.ReadError('its end is cut off')
  except Exception as error:  # damaged bytes may raise anything
    raise UserError(
      f'{path} is not a whole tar ({str(error) or type(error).__name__}); '
      'download it again'
    ) from error


def _tfds_lines(file: str) -> list[str]:
  path = tfds.core.tfds_path(f'datasets/imagenet2012/{file}')
  return path.read_text().split()
