"""Signals, metrics, stores and statistics of `eval-ext`: everything that needs neither the model nor a host.

from metrics import open_store
open_store("hf-store/demo").scores(["mean_entropy"])
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metrics.core import feature, metric, signal
    from metrics.plan import make_plan
    from metrics.store import Store, open_store

__all__ = ["Store", "feature", "make_plan", "metric", "open_store", "signal"]

_HOMES = {
    "feature": "metrics.core",
    "metric": "metrics.core",
    "signal": "metrics.core",
    "make_plan": "metrics.plan",
    "Store": "metrics.store",
    "open_store": "metrics.store",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import metrics` costs nothing."""
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'metrics' has no attribute '{name}'")
