"""Make MTEB's model registry answer to `layer-wrapper...` names, resolved one by one when asked for.

Many MTEB modules bind the registry object by `from ... import MODEL_REGISTRY`, so it is replaced right after
`mteb.models.model_implementations` has run and before anyone binds it; `lm_eval_ext.autoload` sees to that.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

PREFIX = "layer-wrapper"
RESOLVER = "mteb_ext.spec"


class UnknownLayerWrapper(KeyError):
    """A `layer-wrapper` name that cannot be resolved. Reads as its message, without a KeyError's quotes."""

    def __str__(self) -> str:
        return str(self.args[0])


class LayerWrapperRegistry(dict[str, Any]):
    """MTEB's `MODEL_REGISTRY` plus every name that starts with `layer-wrapper`.

    `in`, `[]` and `get` know such a name; the last two build its `ModelMeta` by `mteb_ext.spec.model_meta(name)`.
    Nothing is stored: length, iteration, keys, values and items are MTEB's own, so listings and benchmarks stay
    as they are. An entry of MTEB's own always wins.
    """

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or _is_ours(name)

    def __missing__(self, name: object) -> Any:
        if not _is_ours(name):
            raise KeyError(name)
        return _model_meta(str(name))

    def get(self, name: object, default: Any = None) -> Any:
        """Return the entry or, for a name that is not there or cannot be resolved, `default`."""
        try:
            return self[name]  # pyright: ignore[reportArgumentType]
        except KeyError:
            return default


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


def _is_ours(name: object) -> bool:
    return isinstance(name, str) and name.startswith(PREFIX)


def _model_meta(name: str) -> Any:
    try:
        resolver = import_module(RESOLVER)
    except ModuleNotFoundError as error:
        if error.name != RESOLVER:
            raise
        message = f"model {name!r}: layer-wrapper is not part of this version of eval-ext: install a later one"
        raise UnknownLayerWrapper(message) from None
    return resolver.model_meta(name)
