"""What `metrics` needs of another package, found by name in the entry-point group ``eval_ext.providers``.

`metrics` imports neither a host nor transformers, so what embeds texts, say, comes from elsewhere: a package names a
function of its own under that group, and it is imported when a command asks for it.

| name | what `load` returns |
|---|---|
| ``encoder`` | ``(name, *, batch_size=32, device=None) -> Encoder``; eval-ext's own is of any transformer's layers |
| ``answers`` | the answers that a task's own filters find in texts |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

GROUP = "eval_ext.providers"

EXTRAS = {"encoder": "eval-ext[mteb]"}
"""What to install for a provider that cannot be imported; eval-ext itself for any other."""


class MissingProvider(ValueError):
    """No installed package offers what is asked for, or what it needs is not installed."""


class Encoder(Protocol):
    """A sentence encoder, ready for use."""

    @property
    def name(self) -> str:
        """What tells it from every other encoder, its options among it."""
        ...

    @property
    def revision(self) -> str | None:
        """The version of its weights, None where nothing tells."""
        ...

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings (n, d) in float32 of n texts, in their order."""
        ...


def load(name: str) -> Callable[..., Any]:
    """The function that a package offers under `name`.

    Raises:
        MissingProvider: none does, two do, or it cannot be imported.
    """
    found = {point.value: point for point in entry_points(group=GROUP, name=name)}
    remedy = f"pip install '{EXTRAS.get(name, 'eval-ext')}'"
    if not found:
        raise MissingProvider(f"no installed package offers '{name}' (entry-point group {GROUP}); {remedy}")
    if len(found) > 1:
        raise MissingProvider(f"'{name}' is offered by {' and by '.join(sorted(found))}; uninstall all but one")
    ((value, point),) = found.items()
    try:
        return point.load()
    except ImportError as problem:
        raise MissingProvider(f"'{name}' ({value}) cannot be loaded: {problem}; {remedy}") from None
