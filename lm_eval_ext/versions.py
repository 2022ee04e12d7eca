"""The oldest versions of the hosts that work, and one line for whoever has older ones."""

import re
from importlib.metadata import PackageNotFoundError, version

OLDEST = {"lm-eval": (0, 4, 10), "transformers": (4, 56)}
"""As `pyproject.toml` states them. lm-eval 0.4.10 brought the registry that takes a model by name, transformers 4.56 a
decoder's `get_decoder` and, with 4.55 and 4.54, gpt-oss and the switch of a loaded model's attention."""


def check_versions(*names: str) -> None:
    """Check that the installed version of each distribution is one that works; imports none of them.

    pip sees to that when eval-ext is installed, but only warns when another package changes a version later.

    Args:
        names: keys of `OLDEST`; all of them when none is given.

    Raises:
        ImportError: one is missing or too old; names it, the version found, the version needed and the remedy.
    """
    for name in names or OLDEST:
        needed = ".".join(map(str, OLDEST[name]))
        remedy = f"pip install '{name}>={needed}'"
        try:
            found = version(name)
        except PackageNotFoundError:
            raise ImportError(f"{name} is not installed, and eval-ext needs {needed} or later: {remedy}") from None
        if _release(found) < OLDEST[name]:
            raise ImportError(f"{name} {found} is too old, eval-ext needs {needed} or later: {remedy}")


def _release(found: str) -> tuple[int, ...]:
    """The leading numbers of a version: `5.0.0rc1` is (5, 0, 0), `4.56.0.dev0` is (4, 56, 0)."""
    release = re.match(r"\d+(\.\d+)*", found)
    return tuple(int(part) for part in release[0].split(".")) if release else ()
