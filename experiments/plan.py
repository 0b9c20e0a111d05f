"""What an experiment is: named overrides of a configuration, and claims about
them.

A file of this folder has one `EXPERIMENT`. Its runs are its variants times
seeds; a run is known by what its configuration sets otherwise than
configs/default.py, so experiments that share a run train it once.
"""

import ast
import dataclasses
import hashlib
import importlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from alexnet_jax.models import table
from alexnet_jax.runtime.errors import UserError
from experiments.claims import Claim
from experiments.forms import FORMS, Form, Overrides

if TYPE_CHECKING:
  from alexnet_jax.training.settings import Settings

FOLDER = Path(__file__).parent
_MACHINERY = {
  *('plan', 'job', 'run', 'rows', 'cost', 'table', 'speed'),
  *('claims', 'forms', 'measures'),
}
# What a run's result does not depend on, but for the order of sums.
_PLACES = (
  *('data.dir', 'data.workers', 'data.prefetch', 'data.cache'),
  *('mesh.data', 'mesh.towers'),
)

# Forms that take months on CPUs.
ON_GPUS = ('gpu', 'full')

Variants = Callable[[ConfigDict], Iterator[tuple[str, Overrides]]]


@dataclasses.dataclass(frozen=True)
class Experiment:
  """What is claimed and how it is tested.

  Attributes:
    claim: in words, and where.
    variants: gives (name, overrides) of every variant, from the form's
      configuration; 'views' among the overrides is the number of views of its
      last evaluation, and 'networks' how many are averaged in it.
    baseline: the variant that others are compared with.
    claims: by variant.
    forms: by name.
  """

  claim: str
  variants: Variants
  baseline: str
  claims: Mapping[str, Claim] = dataclasses.field(default_factory=dict)
  forms: Mapping[str, Form] = dataclasses.field(default_factory=lambda: FORMS)

  def __post_init__(self):
    read = {(claim.split, claim.grid) for claim in self.claims.values()}
    if len(read) > 1:
      raise ValueError(f'claims about several splits, or grids: {sorted(read)}')

  @property
  def reader(self) -> Claim:
    """What reads the rows of all variants."""
    return next(iter(self.claims.values()), Claim())


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
  """One training: a variant of an experiment in a form, with a seed.

  Attributes:
    overrides: of the form, the variant and the seed together.
    views: of the last evaluation.
    split: of it; '': `evals.final_split`, or without one `evals.split`.
    networks: averaged there; of more than one, those of this seed and of the
      seeds before it, which have runs of their own.
  """

  experiment: str
  form: str
  variant: str
  seed: int
  config: str
  overrides: Overrides
  views: int
  split: str = ''
  networks: int = 1

  @property
  def reading(self) -> tuple[str, int]:
    """The split and the number of views of the last evaluation."""
    evals = self.resolve().evals
    return self.split or evals.final_split or evals.split, self.views

  @property
  def members(self) -> list['Run']:
    """The runs that train the networks; none: it trains its own."""
    if self.networks == 1:
      return []
    return [
      dataclasses.replace(
        self, seed=seed, overrides={**self.overrides, 'seed': seed}, networks=1
      )
      for seed in range(self.seed - self.networks + 1, self.seed + 1)
    ]

  def resolve(self, data_dir: str | None = None) -> ConfigDict:
    """The whole configuration.

    Raises:
      UserError: an override of a field that there is not, or of another type.
    """
    config = importlib.import_module(f'configs.{self.config}').get_config()
    try:
      config.update_from_flattened_dict(dict(self.overrides))
    except (KeyError, AttributeError, TypeError, ValueError) as error:
      raise UserError(
        f'{self.experiment}, variant {self.variant!r}: {error}'
      ) from None
    if data_dir:
      config.data.dir = data_dir
    return config

  def settings(self, data_dir: str | None = None) -> 'Settings':
    """The whole configuration, checked."""
    from alexnet_jax.training.settings import configure

    return configure(self.resolve(data_dir))

  @property
  def key(self) -> str:
    """Twelve digits that say what is trained.

    Of what differs from configs/default.py, or for a network with a table of
    its own from that, only: a field that is added there later, with the value
    that was so all along, leaves them as they are.
    """
    default = importlib.import_module('configs.default').get_config()
    config = self.resolve()
    own = {} if config.model.name == 'alexnet' else {'model.name': None}
    if own:
      default.model = table.TABLES[config.model.name]()
    before, now = flat(default) | own, flat(config)
    changed = {
      field: value
      for field, value in sorted(now.items())
      if value != before[field] and field not in _PLACES
    }
    if self.members:
      changed['networks'] = self.networks
    text = json.dumps(changed)
    return hashlib.sha256(text.encode()).hexdigest()[:12]

  def __str__(self) -> str:
    return f'{self.variant}, seed {self.seed}'


def flat(config: ConfigDict, prefix: str = '') -> dict[str, Any]:
  """{'model.width': 0.25, ...}"""
  fields: dict[str, Any] = {}
  for name, value in config.items():
    if isinstance(value, ConfigDict):
      fields |= flat(value, f'{prefix}{name}.')
    else:
      fields[prefix + name] = value
  return fields


def names() -> list[str]:
  """Of all experiments."""
  return sorted({path.stem for path in FOLDER.glob('*.py')} - _MACHINERY)


def load(name: str) -> Experiment:
  """The experiment of experiments/<name>.py.

  Raises:
    UserError: there is none.
  """
  if name not in names():
    raise UserError(f'--experiment={name}: there are {", ".join(names())}')
  return importlib.import_module(f'experiments.{name}').EXPERIMENT


def plan(
  name: str, form: str, seeds: int, extra: Overrides | None = None
) -> list[Run]:
  """Every run of an experiment: one seed of each variant first.

  Where a variant averages several networks, all others have as many seeds for
  each of its own.

  Raises:
    UserError: there is no such experiment or form, or `extra` is overruled, or
      leaves two variants alike.
  """
  experiment = load(name)
  if form not in experiment.forms:
    raise UserError(
      f'--form={form}: {name} has {", ".join(sorted(experiment.forms))}'
    )
  where = experiment.forms[form]
  common = {**where.overrides, **(extra or {})}
  base = Run(name, form, '', 0, where.config, common, 1).resolve()
  variants = list(experiment.variants(base))
  plain = Run(name, form, '', 0, where.config, where.overrides, 1).resolve()
  _refuse_overruled(name, variants, plain, extra or {})
  most = max(int(own.get('networks', 1)) for _, own in variants)
  runs = []
  for seed in range(seeds * most):
    for variant, overrides in variants:
      own = dict(overrides)
      views = int(own.pop('views', where.views))
      networks = int(own.pop('networks', 1))
      if (seed + 1) % networks:
        continue
      fields = {**common, **own, 'seed': seed}
      runs.append(
        Run(
          *(name, form, variant, seed, where.config, fields, views),
          experiment.reader.split,
          networks,
        )
      )
  if extra:
    _refuse_alike([run for run in runs if run.seed < most])
  return runs


def _refuse_overruled(
  name: str,
  variants: Sequence[tuple[str, Overrides]],
  plain: ConfigDict,
  extra: Overrides,
) -> None:
  """Refuses fields that a variant has a value of whatever is set, or that the
  experiment needs as they are.

  Args:
    name: of the experiment.
    variants: of the form with `extra`.
    plain: the form's configuration without it.
    extra: what is set.
  """
  experiment = load(name)
  fixed = dict(experiment.variants(plain))
  for field, value in extra.items():
    if field == 'seed':
      raise UserError(f'--set=seed={value}: seeds are those of --seeds')
    if value == (needed := flat(plain).get(field)):
      continue
    if field in experiment.reader.fixed:
      raise UserError(
        f'--set={field}={value}: {name} counts epochs on its curve, and needs '
        f'{needed}'
      )
    for variant, own in variants:
      # What a variant makes of its form's value is not overruled.
      same = own.get(field) == fixed.get(variant, {}).get(field)
      if same and own.get(field, value) != value:
        raise UserError(
          f'--set={field}={value!r}: the variant {variant!r} of {name} has '
          f'{own[field]!r}'
        )


def _refuse_alike(runs: Sequence[Run]) -> None:
  """Refuses variants that are one network, read in one way, by what is set."""
  seen: dict[tuple, str] = {}
  for run in runs:
    what = run.key, run.reading, run.networks
    other = seen.setdefault(what, run.variant)
    if other != run.variant:
      raise UserError(
        f'--set: the variants {other!r} and {run.variant!r} of '
        f'{run.experiment} are the same then'
      )


def select(
  text: str,
  form: str,
  seeds: int,
  variants: str = '',
  extra: Sequence[str] = (),
) -> list[Run]:
  """The runs of several experiments: one seed of everything first.

  Args:
    text: names with commas, or 'all'.
    form: of all; 'all' leaves out experiments that have no such form.
    seeds: of each variant.
    variants: a regular expression that is found in those wanted.
    extra: FIELD=VALUE of the configuration, for all runs.

  Raises:
    UserError: there is no such experiment or form, or nothing is left.
  """
  chosen = names() if text == 'all' else text.split(',')
  if text == 'all':
    chosen = [name for name in chosen if form in load(name).forms]
  try:
    pattern = re.compile(variants)
  except re.error as error:
    raise UserError(f'--variants={variants}: {error}') from None
  runs = [
    run
    for name in chosen
    for run in plan(name, form, seeds, overrides(extra))
    if pattern.search(run.variant)
  ]
  if not runs:
    raise UserError(f'--variants={variants}: no variant has it')
  return sorted(runs, key=lambda run: run.seed)


def overrides(texts: Sequence[str]) -> Overrides:
  """Of FIELD=VALUE, as on a command line.

  Raises:
    UserError: no such text.
  """
  return dict(map(_parse, texts))


def _parse(text: str) -> tuple[str, Any]:
  field, equals, value = text.partition('=')
  if not equals:
    raise UserError(f'--set={text}: write FIELD=VALUE')
  try:
    return field, ast.literal_eval(value)
  except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
    return field, value  # '30 epochs'


def default_root() -> Path:
  """Where the workdirs of runs are."""
  return Path(os.environ.get('ALEXNET_EXPERIMENTS_DIR') or 'runs/experiments')


def workdir(root: Path, run: Run) -> Path:
  return root / f'{run.config}-{run.key}'
