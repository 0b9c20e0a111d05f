"""What huggingface.co has, fetched once into the cache of its library."""

import importlib.util

from alexnet_jax.runtime.errors import UserError


def fetch(source: str, name: str, revision: str, files: str, kind: str) -> str:
  """The folder in the hub's cache.

  Args:
    source: what the user wrote, for messages.
    name: OWNER/NAME.
    revision: a commit, a branch or a tag; '': the newest.
    files: pattern of those to fetch.
    kind: 'model' or 'dataset'.

  Raises:
    UserError: the library is missing, or the hub does not give it.
  """
  if importlib.util.find_spec('huggingface_hub') is None:
    raise UserError(
      f"{source}: what asks the hub is missing: pip install -e '.[hub]'"
    )
  import huggingface_hub

  try:
    return huggingface_hub.snapshot_download(
      name,
      repo_type=kind,
      revision=revision or None,
      allow_patterns=[files],
    )
  except Exception as error:  # of many kinds, the network's among them
    reason = ' '.join(str(error).split())[:300]
    raise UserError(f'{source} cannot be fetched: {reason}') from error
