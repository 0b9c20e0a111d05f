"""The command `alexnet`, with a verb: `alexnet predict` does what
`python -m alexnet_jax.predict` does."""

import contextlib
import difflib
import os
import runpy
import sys

from alexnet_jax import __version__
from alexnet_jax.runtime import errors

# What each does, in the order in which one needs them.
VERBS = {
  'prepare': 'write photographs as a data set that training reads',
  'train': 'train a network, or go on with its training',
  'eval': 'measure the errors of a trained network',
  'predict': 'say what is on photographs',
  'neighbours': 'find the training photographs that look most alike to it',
  'features': 'write what a layer makes of photographs',
  'figures': 'draw the network and what it has learned',
  'report': 'write what a run has learned as one page, or compare runs',
  'weights': "carry a network in from other programs' files, and out to them",
  'export': 'write a network as a program for other systems',
  'benchmark': 'measure how fast the program is, and what it compiles to',
}
# What else one may look for.
_ALSO = {'import': 'weights', 'test': 'eval'}


@errors.hanging_up()
def main() -> int:
  """Runs the verb of the command line; returns the exit code."""
  verb, *words = sys.argv[1:] or ['']
  if verb in ('', '-h', '--help', 'help'):
    print(_usage())
    return 0 if verb else 2
  if verb == '--version':
    print(f'alexnet_jax {__version__}')
    return 0
  if verb not in VERBS:
    return errors.refuse(_explain(verb))
  sys.argv[1:] = ['--mode=eval', *words] if verb == 'eval' else words
  module = 'main' if verb in ('train', 'eval') else verb
  # As `python -m` does, whose files of configs/ find each other here.
  with contextlib.suppress(OSError):  # there may be no such folder any more
    sys.path.append(os.getcwd())
  # Likewise: processes that it starts import the verb, not this.
  runpy.run_module(f'alexnet_jax.{module}', run_name='__main__', alter_sys=True)
  return 0


def _usage() -> str:
  lines = (f'  {verb:<12}{what}' for verb, what in VERBS.items())
  return '\n'.join(
    (
      'AlexNet (Krizhevsky, Sutskever and Hinton, 2012) in JAX and Flax.',
      '\n  alexnet COMMAND [--flag=value...]\n',
      *lines,
      '\n`alexnet COMMAND --help` says how each is used.',
    )
  )


def _explain(verb: str) -> str:
  if verb.startswith('-'):
    return 'the command comes first: alexnet train --config=... (see --help)'
  near = difflib.get_close_matches(verb, VERBS, n=1) or list(VERBS)
  near = [_ALSO[verb]] if verb in _ALSO else near
  text = f'there is no command {errors.printable(verb)}'
  return f'{text}: try {" or ".join(near)}'


if __name__ == '__main__':
  sys.exit(main())
