"""Versions that do not work are named at the start, and the ones that do are stated once."""

import importlib
import re
import sys
from pathlib import Path

import pytest

from lm_eval_ext import autoload, versions

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
STATED = {name: ".".join(map(str, oldest)) for name, oldest in versions.OLDEST.items()}


@pytest.fixture
def installed(monkeypatch):
    """A function (name, version or None): what `importlib.metadata` finds from then on."""

    def pretend(name, found):
        real = versions.version

        def look(asked):
            if asked != name:
                return real(asked)
            if found is None:
                raise versions.PackageNotFoundError(asked)
            return found

        monkeypatch.setattr(versions, "version", look)

    return pretend


def test_what_is_installed_works():
    versions.check_versions()


@pytest.mark.parametrize(
    ("name", "found"),
    [("transformers", "4.55.4"), ("transformers", "4.9"), ("lm-eval", "0.4.9.2"), ("lm-eval", "0.4.9")],
)
def test_an_older_version_is_named_with_the_remedy(installed, name, found):
    installed(name, found)
    with pytest.raises(ImportError) as refused:
        versions.check_versions()
    needed = STATED[name]
    assert str(refused.value) == (
        f"{name} {found} is too old, eval-ext needs {needed} or later: pip install '{name}>={needed}'"
    )


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("transformers", "4.56.0"),
        ("transformers", "4.56"),
        ("transformers", "4.56.0.dev0"),
        ("transformers", "5.0.0rc1"),
        ("transformers", "10.0"),
        ("lm-eval", "0.4.10"),
        ("lm-eval", "0.4.10.1"),
        ("lm-eval", "0.5"),
    ],
)
def test_the_oldest_and_later_ones_pass(installed, name, found):
    installed(name, found)
    versions.check_versions()


def test_a_missing_package_is_named(installed):
    installed("transformers", None)
    with pytest.raises(
        ImportError, match=r"^transformers is not installed, and eval-ext needs 4\.56 or later: pip install"
    ):
        versions.check_versions()


def test_only_the_named_ones_are_looked_at(installed):
    installed("transformers", "4.0")
    versions.check_versions("lm-eval")


def test_the_model_refuses_before_it_imports_transformers(installed, monkeypatch):
    installed("transformers", "4.55.4")
    for name in ("lm_eval_ext.model", "transformers"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(ImportError, match=r"transformers 4\.55\.4 is too old"):
        importlib.import_module("lm_eval_ext.model")
    assert "transformers" not in sys.modules


def test_the_registration_refuses_an_old_lm_eval_only(installed):
    installed("transformers", "4.0")
    autoload.register()
    installed("lm-eval", "0.4.9.2")
    with pytest.raises(ImportError, match=r"lm-eval 0\.4\.9\.2 is too old"):
        autoload.register()


def test_every_place_states_the_same_bounds():
    dependencies = PROJECT["dependencies"]
    pins = (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8").lower().replace("_", "-").splitlines()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, oldest in STATED.items():
        assert f"{name}>={oldest}" in dependencies
        (pinned,) = [pin.split("==")[1] for pin in pins if pin.startswith(f"{name}==")]
        assert versions._release(pinned)[: len(versions.OLDEST[name])] == versions.OLDEST[name]
        assert re.search(rf"{name} {re.escape(oldest)}", readme)
