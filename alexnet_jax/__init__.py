"""AlexNet (Krizhevsky, Sutskever and Hinton, 2012) in JAX and Flax.

`load`, `create_model`, `preprocess` and `Model` are documented in docs/api.md
and loaded on first use: importing this package alone is light.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from alexnet_jax.library import Model, create_model, load, preprocess

__version__ = '0.2.0'
__all__ = ['Model', 'create_model', 'load', 'preprocess']


def __getattr__(name: str) -> Any:
  if name not in __all__:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  from alexnet_jax import library

  return getattr(library, name)
