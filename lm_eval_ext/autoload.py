"""The start-up hook: `lm_eval --model hf-store` works straight after `pip install`.

`eval_ext_autoload.pth` calls `install` at every interpreter start, so this module imports two built-in
modules only and does one thing: it puts a finder on `sys.meta_path`. The finder waits for the hosts' registry
modules; right after one of them has run, and before whoever imports it can bind a name from it, the function
named in `HOOKS` adds our models. Neither a host nor torch is imported before the user does so.
"""

import sys
from _thread import get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

MODEL_NAME = "hf-store"
MODEL_TARGET = "lm_eval_ext.model:HFStoreLM"

HOOKS = {
    "lm_eval.models": "lm_eval_ext.autoload:register",
    "mteb.models.model_implementations": "mteb_ext.autoload:register",
}
"""Host module to watch for -> `module:function`, called with that module once it has run. Text, so that our two
packages never import each other, and the function's module is imported only when its host is."""


class PostImportFinder:
    """A `sys.meta_path` finder that calls `hooks[name](module)` once, right after the module `name` has run.

    The spec comes from the other finders. Only its loader is wrapped, and the wrapper puts the real loader back
    before the module runs, so the module, its resources and `importlib.reload` see what they would see without
    us. An import that fails leaves its hook pending. With no hook pending the finder leaves `sys.meta_path`.
    """

    def __init__(self, hooks: "dict[str, str | Callable[[ModuleType], object]]") -> None:
        self.pending = dict(hooks)
        self._searching: set[tuple[str, int]] = set()

    def install(self) -> None:
        """Run the hooks of modules imported already, wait for the others. A second call does nothing."""
        for name in list(self.pending):
            module = sys.modules.get(name)
            if module is not None:
                self.run(name, module)
        if self.pending and self not in sys.meta_path:
            sys.meta_path.insert(0, self)  # pyright: ignore[reportArgumentType]

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        """Return the other finders' spec with its loader wrapped if `name` is pending, else None."""
        if name not in self.pending:
            return None
        search = (name, get_ident())
        if search in self._searching:  # another finder that asks all finders, us included
            return None
        self._searching.add(search)
        try:
            spec = _find_elsewhere(self, name, path, target)
        finally:
            self._searching.discard(search)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _Loader(spec.loader, name, self)  # pyright: ignore[reportAttributeAccessIssue]
        return spec

    def run(self, name: str, module: "ModuleType") -> None:
        """Call the hook of `name`, once. If the host has changed under us, warn in one line and let it work."""
        hook = self.pending.pop(name, None)
        if not self.pending and self in sys.meta_path:
            sys.meta_path.remove(self)  # pyright: ignore[reportArgumentType]
        if hook is None:
            return
        try:
            _resolve(hook)(module)
        except (AttributeError, ImportError, TypeError, ValueError) as error:
            import warnings

            message = f"eval-ext could not add its models to {name} ({type(error).__name__}: {error})"
            remedy = "install versions that fit, or set EVAL_EXT_AUTOLOAD=0 to go without"
            warnings.warn(f"{message}: {remedy}", RuntimeWarning, stacklevel=2)


class _Loader:
    """Stand in for `loader` until the module runs; everything but `exec_module` is the real loader's."""

    def __init__(self, loader: "Any", name: str, finder: PostImportFinder) -> None:
        self.loader = loader
        self.name = name
        self.finder = finder

    def __getattr__(self, attribute: str) -> "Any":
        if attribute in {"loader", "name", "finder"}:  # not set yet: a copy is being made
            raise AttributeError(attribute)
        return getattr(self.loader, attribute)

    def exec_module(self, module: "ModuleType") -> None:
        """Give the module its real loader back, run it, then run our hook."""
        if getattr(module.__spec__, "loader", None) is self:
            module.__spec__.loader = self.loader  # pyright: ignore[reportOptionalMemberAccess]
        if getattr(module, "__loader__", None) is self:
            module.__loader__ = self.loader
        self.loader.exec_module(module)
        self.finder.run(self.name, module)


def _find_elsewhere(
    finder: PostImportFinder, name: str, path: "Sequence[str] | None", target: "ModuleType | None"
) -> "ModuleSpec | None":
    for other in list(sys.meta_path):
        find_spec = None if other is finder else getattr(other, "find_spec", None)
        spec = find_spec(name, path, target) if find_spec is not None else None
        if spec is not None:
            return spec
    return None


def _resolve(hook: "str | Callable[[ModuleType], object]") -> "Callable[[ModuleType], object]":
    if not isinstance(hook, str):
        return hook
    module, _, function = hook.partition(":")
    return getattr(__import__(module, fromlist=[function]), function)


_finder = PostImportFinder(HOOKS)  # pyright: ignore[reportArgumentType]


def install() -> None:
    """Add eval-ext's models to every host in this process, imported already or later. Idempotent.

    The `.pth` file calls this at interpreter start. Call it yourself in a notebook whose kernel was already
    running when eval-ext was installed.
    """
    _finder.install()


def register(models: "ModuleType | None" = None) -> None:
    """Add `hf-store` to lm-eval's model registry; `lm_eval_ext.model` is imported when the model is asked for.

    Args:
        models: the module `lm_eval.models`, imported here when not given. It must run first: lm-eval imports it
            only while its registry is empty, so registering before it would hide every built-in model.

    A name that is there already is left alone. So lm-eval versions that read the entry-point group
    `lm_eval.models` register once, whichever of us comes first: they too skip a name that is there.

    Raises:
        ImportError: lm-eval is older than the registry; names the version found and the one needed.
    """
    from lm_eval_ext.versions import check_versions

    check_versions("lm-eval")
    if models is None:
        __import__("lm_eval.models")
    from lm_eval.api.registry import model_registry

    if MODEL_NAME not in model_registry:
        model_registry.register(MODEL_NAME, target=MODEL_TARGET)


def check_import_names() -> None:
    """Check that the generic import names `metrics` and `tasks` give the packages beside `lm_eval_ext`.

    Imports neither. A folder without `__init__.py` shadows nothing and passes.

    Raises:
        ImportError: another module of that name comes first, typically a `metrics.py` in the current folder
            under `python -m`; names both files and the remedy. Or the package is not there at all.
    """
    from pathlib import Path

    root = Path(__file__).resolve().parent.parent
    for name in ("metrics", "tasks"):
        ours = root / name / "__init__.py"
        theirs = _location(name)
        if theirs is None:
            message = f"eval-ext's package {name!r} is missing from {root}: reinstall eval-ext"
            raise ImportError(message, name=name)
        if Path(theirs).resolve() not in {ours, ours.parent}:
            message = f"{theirs} shadows eval-ext's package {name!r} in {ours}"
            remedy = "rename or move it, run from another folder, or set PYTHONSAFEPATH=1 (Python 3.11 or later)"
            raise ImportError(f"{message}: {remedy}", name=name, path=theirs)


def _location(name: str) -> "str | None":
    """Return the file (or, of a namespace package, the first folder) that `import name` gives, or None."""
    from importlib.util import find_spec

    module = sys.modules.get(name)
    if module is not None:
        file, folders = getattr(module, "__file__", None), getattr(module, "__path__", None)
    else:
        spec = find_spec(name)
        if spec is None:
            return None
        file, folders = spec.origin, spec.submodule_search_locations
    return file or next(iter(folders or ()), None) or f"<{name}, a module without a file>"
