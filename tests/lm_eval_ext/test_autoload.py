"""The start-up hook: the finder on made-up hosts, registration in the real ones, and the shadowing error."""

import copy
import importlib
import importlib.machinery
import importlib.metadata
import importlib.resources
import importlib.util
import os
import site
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest

from lm_eval_ext import autoload
from lm_eval_ext.autoload import PostImportFinder, check_import_names

ROOT = Path(__file__).resolve().parents[2]
PTH = ROOT / "eval_ext_autoload.pth"


def python(*args, cwd, **env):
    """Run a fresh interpreter that sees this checkout, but not the folder it runs in, and no hub."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("EVAL_EXT", "PYTHON"))}
    clean |= {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **env}
    return subprocess.run([sys.executable, *args], cwd=cwd, env=clean, capture_output=True, text=True)


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A package `fakehost` whose module `registry` is bound by `fakehost.user`; forgotten afterwards."""
    package = tmp_path / "fakehost"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "registry.py").write_text("NAMES = ['stock']\nLOADER = __spec__.loader\n")
    (package / "user.py").write_text("from fakehost.registry import NAMES\n")
    (package / "data.txt").write_text("a resource")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    yield package
    for name in [name for name in sys.modules if name.split(".")[0] == "fakehost"]:
        del sys.modules[name]


def test_hook_runs_before_other_modules_bind_the_registry(host):
    finder = PostImportFinder({"fakehost.registry": lambda module: setattr(module, "NAMES", ["replaced"])})
    finder.install()
    assert "fakehost" not in sys.modules
    assert importlib.import_module("fakehost.user").NAMES == ["replaced"]
    assert finder not in sys.meta_path


def test_hooks_given_as_text_are_resolved_when_they_fire(host, monkeypatch):
    seen = []
    monkeypatch.setitem(sys.modules, "fakehook", types.SimpleNamespace(run=seen.append))
    PostImportFinder({"fakehost.registry": "fakehook:run"}).install()
    module = importlib.import_module("fakehost.registry")
    assert seen == [module]


def test_the_module_sees_its_real_loader(host):
    PostImportFinder({"fakehost.registry": lambda module: None, "fakehost": lambda module: None}).install()
    module = importlib.import_module("fakehost.registry")
    for loader in (module.LOADER, module.__spec__.loader, module.__loader__):
        assert type(loader) is importlib.machinery.SourceFileLoader
    assert b"NAMES" in module.__spec__.loader.get_data(module.__file__)
    assert (importlib.resources.files("fakehost") / "data.txt").read_text() == "a resource"
    assert importlib.reload(module) is module


def test_a_spec_that_is_only_looked_at_behaves_like_the_real_one(host):
    PostImportFinder({"fakehost.registry": lambda module: None}).install()
    loader = importlib.util.find_spec("fakehost.registry").loader
    assert loader.get_filename("fakehost.registry") == str(host / "registry.py")
    assert "NAMES" in loader.get_source("fakehost.registry")
    assert loader.is_package("fakehost.registry") is False
    assert not hasattr(loader, "no_such_attribute")
    assert copy.copy(loader).get_filename("fakehost.registry") == str(host / "registry.py")


def test_an_import_that_fails_leaves_the_hook_pending(host):
    seen = []
    finder = PostImportFinder({"fakehost.registry": seen.append})
    finder.install()
    good = (host / "registry.py").read_text()
    (host / "registry.py").write_text("raise RuntimeError('broken host')  # longer than the good file" + " " * 99)
    with pytest.raises(RuntimeError, match="broken host"):
        importlib.import_module("fakehost.registry")
    assert not seen
    assert finder in sys.meta_path
    (host / "registry.py").write_text(good)
    importlib.invalidate_caches()
    module = importlib.import_module("fakehost.registry")
    assert seen == [module]


def test_an_absent_host_stays_absent(host):
    PostImportFinder({"fakehost.nowhere": lambda module: None}).install()
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("fakehost.nowhere")
    assert importlib.util.find_spec("fakehost.nowhere") is None


def test_a_module_imported_already_is_hooked_at_once_and_once(host):
    seen = []
    module = importlib.import_module("fakehost.registry")
    finder = PostImportFinder({"fakehost.registry": seen.append})
    finder.install()
    finder.install()
    assert seen == [module]
    assert finder not in sys.meta_path


def test_installing_twice_adds_one_finder(host):
    finder = PostImportFinder({"fakehost.registry": lambda module: None})
    finder.install()
    finder.install()
    assert sys.meta_path.count(finder) == 1


class AskEveryone:
    """Another tool's import hook, which finds specs by asking all finders, ours included."""

    busy = False

    def find_spec(self, name, path=None, target=None):
        if self.busy or not name.startswith("fakehost."):
            return None
        self.busy = True
        try:
            return importlib.util.find_spec(name)
        finally:
            self.busy = False


@pytest.mark.parametrize("before", [True, False])
def test_lives_with_another_finder_that_asks_all_finders(host, before):
    seen = []
    finder = PostImportFinder({"fakehost.registry": seen.append})
    finder.install()
    sys.meta_path.insert(0 if before else 1, AskEveryone())
    assert importlib.import_module("fakehost.user").NAMES == ["stock"]
    assert len(seen) == 1


def test_threads_that_import_the_host_together_fire_one_hook(host):
    seen = []
    (host / "registry.py").write_text("import time\ntime.sleep(0.05)\nNAMES = ['stock']\n")
    PostImportFinder({"fakehost.registry": seen.append}).install()
    threads = [threading.Thread(target=importlib.import_module, args=("fakehost.user",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 1


def test_a_host_that_changed_under_us_warns_in_one_line_and_still_imports(host):
    PostImportFinder({"fakehost.registry": lambda module: module.MOVED_AWAY}).install()
    with pytest.warns(RuntimeWarning, match="could not add its models to fakehost.registry.*MOVED_AWAY") as warned:
        assert importlib.import_module("fakehost.registry").NAMES == ["stock"]
    assert "\n" not in str(warned[0].message)
    assert "EVAL_EXT_AUTOLOAD=0" in str(warned[0].message)


# The .pth line


def test_the_line_starts_the_hook_and_imports_nothing_else(tmp_path):
    show = "import sys; print(*sorted(sys.modules))"
    code = f"import site; site.addpackage({str(ROOT)!r}, {PTH.name!r}, set()); {show}"
    off = python("-c", code, cwd=tmp_path, EVAL_EXT_AUTOLOAD="0")
    on = python("-c", code, cwd=tmp_path)
    assert on.stderr == off.stderr == ""
    assert set(on.stdout.split()) - set(off.stdout.split()) == {"lm_eval_ext", "lm_eval_ext.autoload"}


@pytest.mark.parametrize("fault", ["gone", "module gone", "broken"])
def test_the_line_is_silent_when_the_package_is_half_removed(tmp_path, monkeypatch, capsys, fault):
    package = tmp_path / "lm_eval_ext"
    if fault != "gone":
        package.mkdir()
    if fault == "broken":
        (package / "autoload.py").write_text("<<<<<<< HEAD\n")
    for name in ("lm_eval_ext", "lm_eval_ext.autoload"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delenv("EVAL_EXT_AUTOLOAD", raising=False)
    site.addpackage(str(ROOT), PTH.name, set())
    assert capsys.readouterr() == ("", "")
    for name in ("lm_eval_ext", "lm_eval_ext.autoload"):
        sys.modules.pop(name, None)


# lm-eval


@pytest.fixture
def registry(monkeypatch):
    """lm-eval's model registry, restored afterwards, without hf-store."""
    importlib.import_module("lm_eval.models")
    from lm_eval.api.registry import model_registry

    objects = {k: v for k, v in model_registry._objs.items() if k != autoload.MODEL_NAME}
    monkeypatch.setattr(model_registry, "_objs", objects)
    return model_registry


def test_registration_is_lazy_and_idempotent(registry):
    autoload.register()
    autoload.register()
    assert registry._objs["hf-store"] == "lm_eval_ext.model:HFStoreLM"
    assert "hf" in registry


def test_a_name_that_is_there_is_left_alone(registry):
    entry = importlib.metadata.EntryPoint("hf-store", autoload.MODEL_TARGET, "lm_eval.models")
    registry.register("hf-store", target=entry)
    autoload.register()
    assert registry._objs["hf-store"] is entry


def test_the_entry_point_is_the_target_of_the_hook():
    text = (ROOT / "pyproject.toml").read_text()
    assert f'[project.entry-points."lm_eval.models"]\n{autoload.MODEL_NAME} = "{autoload.MODEL_TARGET}"\n' in text


def test_lm_eval_finds_the_model_however_it_is_imported_first(tmp_path):
    fake = "import sys, types; sys.modules['lm_eval_ext.model'] = types.SimpleNamespace(HFStoreLM='ours')\n"
    for first in ("import lm_eval.api.registry", "import lm_eval.models.dummy", "import lm_eval.models"):
        code = f"{fake}from lm_eval_ext import autoload; autoload.install()\n{first}\n"
        code += "from lm_eval.api.registry import get_model; print(get_model('hf-store'), get_model('dummy'))"
        done = python("-c", code, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("ours <class 'lm_eval.models.dummy.DummyLM'>")


def test_the_launcher_registers_then_runs_lm_evals_own_command_line(registry, monkeypatch):
    import lm_eval.__main__

    import lm_eval_ext.__main__ as launcher

    seen = []
    monkeypatch.setattr(lm_eval.__main__, "cli_evaluate", lambda: seen.append("hf-store" in registry))
    monkeypatch.setattr(launcher, "check_import_names", lambda: None)
    launcher.main()
    assert seen == [True]


# Shadowed import names


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A folder with our three packages in it, from which `lm_eval_ext` claims to come; nothing imported yet."""
    root = tmp_path / "site"
    for name in ("lm_eval_ext", "metrics", "tasks"):
        (root / name).mkdir(parents=True)
        (root / name / "__init__.py").write_text("")
    monkeypatch.setattr(autoload, "__file__", str(root / "lm_eval_ext" / "autoload.py"))
    monkeypatch.setattr(sys, "path", [str(root)])
    for name in ("metrics", "tasks"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return root


def test_our_own_names_pass(installed):
    check_import_names()
    assert "metrics" not in sys.modules


@pytest.mark.parametrize("name", ["metrics", "tasks"])
@pytest.mark.parametrize("file", ["{}.py", "{}/__init__.py"])
@pytest.mark.parametrize("imported", [False, True])
def test_a_shadow_is_named_with_our_file_and_the_remedy(installed, tmp_path, monkeypatch, name, file, imported):
    theirs = tmp_path / "cwd" / file.format(name)
    theirs.parent.mkdir(parents=True)
    theirs.write_text("")
    sys.path.insert(0, str(tmp_path / "cwd"))
    if imported:
        monkeypatch.setitem(sys.modules, name, importlib.import_module(name))
    with pytest.raises(ImportError) as error:
        check_import_names()
    message = str(error.value)
    assert str(theirs) in message
    assert str(installed / name / "__init__.py") in message
    assert all(word in message for word in ("rename", "another folder", "PYTHONSAFEPATH"))
    assert "\n" not in message


def test_a_plain_folder_shadows_nothing(installed, tmp_path):
    (tmp_path / "cwd" / "tasks").mkdir(parents=True)
    sys.path.insert(0, str(tmp_path / "cwd"))
    check_import_names()


def test_a_symlinked_install_is_ours(installed, tmp_path):
    (tmp_path / "link").symlink_to(installed)
    sys.path[:] = [str(tmp_path / "link")]
    check_import_names()


def test_a_module_made_at_run_time_is_named(installed, monkeypatch):
    monkeypatch.setitem(sys.modules, "metrics", types.ModuleType("metrics"))
    with pytest.raises(ImportError, match="a module without a file> shadows"):
        check_import_names()


def test_a_package_that_is_missing_asks_for_a_new_install(installed):
    (installed / "tasks" / "__init__.py").unlink()
    (installed / "tasks").rmdir()
    with pytest.raises(ImportError, match=r"'tasks' is missing from .*: reinstall eval-ext"):
        check_import_names()


@pytest.mark.parametrize("entry", ["lm_eval_ext.entry", "lm_eval_ext.__main__"])
def test_the_commands_say_it_in_one_line(installed, tmp_path, entry):
    theirs = tmp_path / "cwd" / "metrics.py"
    theirs.parent.mkdir()
    theirs.write_text("")
    sys.path.insert(0, str(theirs.parent))
    with pytest.raises(SystemExit, match=r"^Error: .*metrics\.py shadows eval-ext's package 'metrics'"):
        importlib.import_module(entry).main()
