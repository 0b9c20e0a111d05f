r"""Runs an experiment: every variant and seed that has no row yet.

  python -m experiments.run --experiment=lrn --dry_run
  python -m experiments.run --experiment=lrn --form=full --executor=slurm \
    --seeds=3 --slurm=gpus_per_node=2 --slurm=cpus_per_task=16 \
    --slurm=timeout_min=2880

Each run is a process of its own (through submitit), and ends as one row of
experiments/results/<experiment>.csv. Run the same command again after
anything: finished runs are skipped, others go on from their workdirs. At the
end it prints what the rows say. Data sets are looked for in $ALEXNET_DATA_DIR,
else data/. Ctrl-C or SIGTERM saves what runs and leaves (exit status 75); jobs
of Slurm go on, and the same command takes them over.

experiments/results has rows that come with the program. To keep yours apart,
give another folder, here and to experiments.table. Runs that are finished in
the same --root are not trained again, their rows are copied: to train anew give
another root, too:

  python -m experiments.run --experiment=lrn --results=mine --root=runs/anew
"""

import contextlib
import math
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags, logging
from etils import epath

from alexnet_jax.runtime import errors
from alexnet_jax.runtime.files import locked, write_atomically
from alexnet_jax.runtime.writers import Progress
from experiments import cost, plan, rows, table
from experiments.job import Job

_EXPERIMENT = flags.DEFINE_string(
  'experiment',
  None,
  'One of experiments/*.py, several with commas, or all: '
  + ', '.join(plan.names()),
  required=True,
)
_FORM = flags.DEFINE_string(
  'form', 'small', "Its scale: 'full', 'small', 'gpu', or another it names."
)
_SEEDS = flags.DEFINE_integer('seeds', 1, 'Seeds of each.', lower_bound=1)
_VARIANTS = flags.DEFINE_string(
  'variants', '', 'A regular expression: only variants in which it is found.'
)
_SET = flags.DEFINE_multi_string(
  'set', [], 'FIELD=VALUE of the configuration, for all runs: other runs.'
)
_DRY_RUN = flags.DEFINE_bool(
  'dry_run',
  False,
  'Print what would run, and the hours that measured steps of it predict.',
)
_EXECUTOR = flags.DEFINE_enum(
  'executor', 'local', ['local', 'slurm'], 'Where the processes run.'
)
_JOBS = flags.DEFINE_integer(
  'jobs', 1, 'Runs at a time; on one GPU they share its memory.', lower_bound=1
)
_SLURM = flags.DEFINE_multi_string(
  'slurm',
  [],
  'A parameter of submitit, such as gpus_per_node=1, partition, account.',
)
_ROOT = flags.DEFINE_string(
  'root',
  str(plan.default_root()),
  'Where the workdirs of runs are. Default: $ALEXNET_EXPERIMENTS_DIR, else '
  'runs/experiments.',
)
_DATA_DIR = flags.DEFINE_string(
  'data_dir',
  os.environ.get('ALEXNET_DATA_DIR') or 'data',
  'Where data sets live. Default: $ALEXNET_DATA_DIR, else data/.',
)
STOPPED = 75


def main(argv: Sequence[str]) -> int:
  del argv
  logging.set_verbosity(logging.WARNING)
  results = Path(rows.CHOSEN.value)
  # Else the first on a GPU takes most of its memory.
  given = os.environ.keys() & _FRACTIONS
  if _JOBS.value > 1 and _EXECUTOR.value == 'local' and not given:
    os.environ[_FRACTIONS[0]] = f'{0.9 / _JOBS.value:.3f}'
  # Steps on CPUs take less time with memory in pages of 2 MB (docs/running.md).
  os.environ.setdefault('GLIBC_TUNABLES', 'glibc.malloc.hugetlb=1')
  wanted = plan.select(
    _EXPERIMENT.value,
    _FORM.value,
    _SEEDS.value,
    _VARIANTS.value,
    _SET.value,
  )
  todo = [run for run in wanted if not rows.has(run, results)]
  there = len(wanted) - len(todo)
  print(f'{len(wanted)} runs, {there} have rows in {results}', flush=True)
  if there and results == rows.RESULTS:
    print('(those come with the program: --results=FOLDER keeps yours apart)')
  if _DRY_RUN.value:
    cost.dry_run(todo, _DATA_DIR.value, Path(_ROOT.value))
    return 0
  status = Sweep(todo, Path(_ROOT.value), results).run() if todo else 0
  for name in dict.fromkeys(run.experiment for run in wanted):
    if any(row['form'] == _FORM.value for row in rows.read(name, results)):
      extra = plan.overrides(_SET.value)
      print(table.plain(table.read(name, _FORM.value, results, extra)))
  return status


class Sweep:
  """Runs to do, at most `--jobs` at a time, one row for each."""

  def __init__(self, runs: list[plan.Run], root: Path, results: Path):
    self._runs, self._root, self._results = runs, root, results
    self._waiting = list(runs)
    self._jobs: dict[plan.Run, Any] = {}  # submitit's, under way
    self._failed: list[str] = []
    self._stopped: list[str] = []  # by others than this sweep
    self._claims: dict[str, contextlib.ExitStack] = {}  # by a run's key
    self._waited_for: set[Path] = set()  # workdirs, of which it was said
    self._left: set[plan.Run] = set()  # whose jobs an earlier sweep submitted
    self._stop = False

  def run(self) -> int:
    """Returns the exit status."""
    for number in (signal.SIGTERM, signal.SIGINT):
      signal.signal(number, self._ask_to_stop)
    asked = -math.inf
    with Progress(len(self._runs), 'runs', _EXPERIMENT.value) as progress:
      while self._waiting or self._jobs:
        while len(self._jobs) < _JOBS.value and (run := self._next()):
          self._start(run)
          progress.update(self._collect())
        time.sleep(0.5)
        progress.update(self._collect(), self._state())
        # One that only starts is still deaf: it is asked again.
        if self._stop and time.monotonic() > asked + 5:
          self._end_jobs()
          asked = time.monotonic()
        if self._stop and not self._jobs:
          break
    for text in self._failed:
      print(f'error: {text}', flush=True)
    for text in self._stopped:
      print(f'{text} was stopped: the same command goes on with it', flush=True)
    if self._stop:
      print('stopped: the same command goes on', flush=True)
    if self._stop or self._stopped:
      return STOPPED
    return 1 if self._failed else 0

  def _next(self) -> plan.Run | None:
    """The next run to start: whose members, if any, have ended, and whose
    network is not being trained, for another experiment or by another sweep.
    It is claimed until `_collect`."""
    if self._stop:
      return None
    trained = {run.key for run in self._jobs}
    open_keys = trained | {run.key for run in self._waiting}
    for number, run in enumerate(self._waiting):
      members = {member.key for member in run.members}
      free = run.key not in trained and not open_keys & members
      if free and self._claim(run):
        return self._waiting.pop(number)
    return None

  def _claim(self, run: plan.Run) -> bool:
    """Whether no other sweep has the run, nor does it go on without its sweep,
    which was killed. `_next` asks again: a wait for a lock is deaf to signals.
    """
    workdir = plan.workdir(self._root, run)
    workdir.mkdir(parents=True, exist_ok=True)

    def refuse() -> None:
      raise BlockingIOError

    with contextlib.ExitStack() as claim:
      try:
        if run.key not in self._claims:
          claim.enter_context(locked(workdir / '.claim', refuse))
        with locked(workdir / '.lock', refuse):  # of whoever trains
          pass
      except BlockingIOError:
        if workdir not in self._waited_for:
          print(f'waiting for {workdir}', flush=True)
          self._waited_for.add(workdir)
        return False
      self._claims.setdefault(run.key, claim.pop_all())
    return True

  def _start(self, run: plan.Run) -> None:
    """Submits a run, unless all it wants is there from another experiment, or
    Slurm still has its job of a sweep that was left."""
    workdir = plan.workdir(self._root, run)
    if self._keep_row(run):
      self._jobs[run] = None
      return
    if left := self._queued(workdir):
      self._jobs[run] = left
      self._left.add(run)
      print(f'{run.experiment}: {run}: job {left.job_id} goes on', flush=True)
      return
    wanted = {r.reading for r in self._runs if r.key == run.key}
    job = Job(
      *(run, workdir.absolute(), _DATA_DIR.value, tuple(sorted(wanted))),
      os.environ.get('CUDA_VISIBLE_DEVICES'),
    )
    executor = self._executor()
    if self._stop:  # asked since `_next`
      return
    # Ctrl-C is for this process, which asks them to save; submitit would kill.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
      self._jobs[run] = executor.submit(job)
    finally:
      signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    if _EXECUTOR.value == 'slurm':
      file = epath.Path(workdir / '.job')
      write_atomically(file, self._jobs[run].job_id)
    log = self._jobs[run].paths.stderr
    print(f'{run.experiment}: {run}: log {log}', flush=True)

  def _queued(self, workdir: Path) -> Any:
    """Slurm's job of a run, if one waits or works; else None."""
    file = workdir / '.job'
    if _EXECUTOR.value != 'slurm' or not file.exists():
      return None
    import submitit

    number = file.read_text()
    command = 'squeue', '--noheader', f'--jobs={number}'
    listed = subprocess.run(
      command, capture_output=True, text=True, check=False
    )
    if listed.returncode and 'Invalid job id' not in listed.stderr:  # forgotten
      raise errors.UserError(f'squeue: {listed.stderr.strip()}')
    if not listed.stdout.strip():
      return None
    return submitit.SlurmJob(self._root / 'logs', number)

  def _executor(self) -> Any:
    import submitit

    executor = submitit.AutoExecutor(
      self._root / 'logs', cluster=_EXECUTOR.value
    )
    options: dict[str, Any] = {'timeout_min': 60 * 24 * 7}
    # Slurm 22.05 and later do not give `srun` what `sbatch` was asked for.
    asked = '[ -z "$SLURM_CPUS_PER_TASK" ]'
    cores = 'export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK'
    options['slurm_setup'] = [f'{asked} || {cores}']
    for text in _SLURM.value:
      name, _, value = text.partition('=')
      number = value.isdecimal()
      prefix = '' if name in _SHARED else 'slurm_'
      options[prefix + name] = int(value) if number else value
    executor.update_parameters(name=_EXPERIMENT.value[:40], **options)
    return executor

  def _collect(self) -> int:
    """Takes in what has ended; returns how many runs are done, or failed."""
    ended = [run for run, job in self._jobs.items() if not job or job.done()]
    count = len(ended)
    for run in ended:
      job = self._jobs.pop(run)
      if claim := self._claims.pop(run.key, None):
        claim.close()
      if job is None or self._keep_row(run):
        continue
      if self._stop:
        count -= 1
        continue
      if run in self._left:  # it was for less, such as other views: once more
        self._left.remove(run)
        self._waiting.append(run)
        count -= 1
        continue
      if _left(job):
        count -= 1
        self._stopped.append(f'{run.experiment}, {run}')
        continue
      tail = (job.stderr() or '').strip().splitlines()[-1:]
      text = (
        f'{run.experiment}, {run}: {" ".join(tail) or "no word"} '
        f'({job.paths.stderr})'
      )
      self._failed.append(text)
      # All of them may: whoever watches should know of the first.
      print(f'failed: {text}', flush=True)
    return count

  def _keep_row(self, run: plan.Run) -> bool:
    found = rows.of(run, plan.workdir(self._root, run))
    if found:
      rows.add(*found, self._results)
    return found is not None

  def _state(self) -> str:
    """What is under way, from the logs of the runs."""
    texts = []
    for run in self._jobs:
      step = rows.last(plan.workdir(self._root, run))
      where = f' epoch {step["epoch"]:.1f}' if step else ''
      texts.append(f'{run}:{where}')
    return '; '.join(texts)

  def _ask_to_stop(self, *_) -> None:
    self._stop = True

  def _end_jobs(self) -> None:
    """Those of Slurm go on; their rows come next time."""
    if _EXECUTOR.value == 'slurm':
      self._jobs = {}
    for job in self._jobs.values():
      if job:
        os.kill(int(job.job_id), signal.SIGTERM)


def _left(job: Any) -> bool:
  """Whether a job that has ended saved and left, as a signal asked it to."""
  there = job.paths.result_pickle.exists()  # else submitit waits for it
  return there and not job.exception() and job.results()[0] == 'stopped'


# One name or the other, not both.
_FRACTIONS = ('XLA_PYTHON_CLIENT_MEM_FRACTION', 'XLA_CLIENT_MEM_FRACTION')
_SHARED = {
  *('timeout_min', 'mem_gb', 'nodes', 'cpus_per_task', 'gpus_per_node'),
  'tasks_per_node',
}


if __name__ == '__main__':
  errors.run(main)
