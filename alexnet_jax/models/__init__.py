"""Networks by name: AlexNet (§3) and the nets of the CIFAR-10 experiments."""

from collections.abc import Callable
from typing import Any

from flax import nnx
import ml_collections

from alexnet_jax.runtime.errors import UserError


