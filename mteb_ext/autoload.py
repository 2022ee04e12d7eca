"""Make MTEB's model registry answer to `layer-wrapper...` names, resolved one by one when asked for.

Many MTEB modules bind the registry object by `from ... import MODEL_REGISTRY`, so it is replaced right after
`mteb.models.model_implementations` has run and before anyone binds it; `lm_eval_ext.autoload` sees to that.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

PREFIX = "layer-wrapper"
RESOLVER = "mteb_ext.meta"
SERVER = "mteb.api.routes"
"""MTEB's web service, which answers strangers: what they ask for is neither read nor fetched."""


class LayerWrapperRegistry(dict[str, Any]):
    """MTEB's `MODEL_REGISTRY` plus every name that starts with `layer-wrapper`.

    `in` and `[]`, by which MTEB finds the model of a run, know such a name; `[]` builds its `ModelMeta` by
    `mteb_ext.meta.model_meta(name)`. `get`, by which MTEB looks up the models of result folders, does not: those
    are named after a folder that may be elsewhere, and their metadata lie beside the results. Nothing is stored:
    length, iteration, keys, values and items are MTEB's own, so listings and benchmarks stay as they are. An entry
    of MTEB's own always wins.
    """

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or _is_ours(name)

    def __missing__(self, name: object) -> Any:
        if not _is_ours(name):
            raise KeyError(name)
        with in_one_line(ValueError, OSError):
            return import_module(RESOLVER).model_meta(name)


def register(implementations: ModuleType) -> None:
    """Replace `implementations.MODEL_REGISTRY`, also where MTEB has bound it already. Idempotent.

    Args:
        implementations: the module `mteb.models.model_implementations`, which has run.

    Raises:
        AttributeError: MTEB keeps its registry elsewhere.
    """
    registry = implementations.MODEL_REGISTRY
    if isinstance(registry, LayerWrapperRegistry):
        return
    replacement = LayerWrapperRegistry(registry)
    vars(implementations)["MODEL_REGISTRY"] = replacement
    for name, module in list(sys.modules.items()):
        if name.startswith("mteb.") and vars(module).get("MODEL_REGISTRY") is registry:
            vars(module)["MODEL_REGISTRY"] = replacement


@contextmanager
def in_one_line(*kinds: type[Exception]) -> Iterator[None]:
    """In MTEB's own command, end with one line and exit status 1 upon these errors; elsewhere let them pass."""
    try:
        yield
    except kinds as problem:
        program = Path(sys.argv[0])
        if program.stem != "mteb" and program.parts[-2:] != ("mteb", "__main__.py"):
            raise
        raise SystemExit(f"Error: {problem}") from None


def _is_ours(name: object) -> bool:
    return isinstance(name, str) and name.startswith(PREFIX) and SERVER not in sys.modules
