"""What users install: builds the wheel, installs it, and the checkout in editable mode, into fresh environments.

The environments borrow every dependency from the one that runs the tests, by links to each package but ours: nothing
is downloaded, and an eval-ext installed here cannot stand in for the one under test.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PTH = "eval_ext_autoload.pth"
PACKAGES = ("lm_eval_ext", "mteb_ext", "metrics", "tasks")
SCRIPTS = Path(sysconfig.get_path("scripts"))

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links to the dependencies need POSIX")


def is_ours(name):
    return name in PACKAGES or name.replace("-", "_").lstrip("_").startswith("eval_ext")


@dataclass(frozen=True)
class Env:
    """A fresh virtual environment, and where its copy of our packages lies."""

    python: Path
    site: Path
    source: Path

    def run(self, *args, cwd, ok=True, **env):
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("EVAL_EXT", "PYTHON", "VIRTUAL_ENV"))}
        clean |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        command = [str(arg) for arg in (self.python, *args)]
        done = subprocess.run(command, cwd=cwd, env=clean | env, capture_output=True, text=True)
        assert not ok or done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done

    def pip(self, *args, cwd):
        flags = ("--disable-pip-version-check", "--no-input")
        return self.run("-m", "pip", args[0], *flags, *args[1:], cwd=cwd)

    def files(self):
        folders = (self.site, self.python.parent)
        return {path for folder in folders for path in folder.rglob("*")}


@pytest.fixture(scope="session")
def dependencies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dependencies") / "site-packages"  # dill tells libraries by this name
    folder.mkdir()
    for outer in [Path(p) for p in sys.path if Path(p).name in {"site-packages", "dist-packages"}]:
        for item in outer.iterdir():
            if not (is_ours(item.name) or item.suffix == ".pth" or (folder / item.name).exists()):
                (folder / item.name).symlink_to(item)
    return folder


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The wheel, built the way a release is: from the source distribution."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def make_env(tmp_path_factory, dependencies, wheel):
    def make(kind):
        folder = tmp_path_factory.mktemp(f"{kind}-env")
        venv.create(folder, symlinks=True)
        python = folder / "bin" / "python"
        (site,) = folder.glob("lib/python*/site-packages")
        (site / "dependencies.pth").write_text(f"{dependencies}\n")
        env = Env(python, site, site if kind == "wheel" else ROOT)
        what = [wheel] if kind == "wheel" else ["--no-build-isolation", "--editable", ROOT]
        before = env.files()
        env.pip("install", "--no-deps", "--no-index", *what, cwd=folder)
        assert (site / PTH).exists()
        return env, before

    return make


@pytest.fixture(scope="session", params=["wheel", "editable"])
def env(request, make_env):
    return make_env(request.param)[0]


@pytest.fixture(scope="session")
def wheel_env(make_env):
    return make_env("wheel")[0]


def counting(env, store):
    """Arguments of a small real run whose task and model come from the installed packages."""
    model_args = f"pretrained={env.source / 'tasks' / 'counting' / 'model'},store={store}"
    task = ("--tasks", "counting_mc", "--include_path", env.source / "tasks" / "lm_eval")
    return ("--model", "hf-store", "--model_args", model_args, *task, "--limit", "4", "--device", "cpu")


# What is in the wheel


def test_wheel_contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        info = next(name.split("/")[0] for name in names if name.endswith(".dist-info/METADATA"))
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
        hook = archive.read(PTH).decode()
    assert {name.split("/")[0] for name in names} == {*PACKAGES, PTH, info}
    assert {f"{package}/{file}" for package in PACKAGES for file in ("__init__.py", "py.typed")} <= set(names)
    assert f"{info}/licenses/LICENSE" in names
    shipped = {str(p.relative_to(ROOT)) for p in (ROOT / "tasks").rglob("*") if p.is_file()}
    shipped = {name for name in shipped if "__pycache__" not in name}
    assert shipped <= set(names)
    assert {".yaml", ".jsonl", ".safetensors"} <= {Path(name).suffix for name in names}
    assert not [name for name in names if Path(name).name.startswith(("test_", "conftest")) or name.endswith(".pyc")]
    assert "[lm_eval.models]\nhf-store = lm_eval_ext.model:HFStoreLM\n" in entry_points
    assert "eval-ext = lm_eval_ext.entry:main\n" in entry_points
    assert len(hook.splitlines()) == 1
    assert hook.startswith("import ")


# What an interpreter start does


def test_start_imports_the_hook_and_nothing_else(env, tmp_path):
    code = "import sys; print(*sys.modules); print(sys.modules['lm_eval_ext'].__file__)"
    on = env.run("-c", code, cwd=tmp_path)
    off = env.run("-c", "import sys; print(*sys.modules)", cwd=tmp_path, EVAL_EXT_AUTOLOAD="0")
    modules, file = on.stdout.splitlines()
    assert on.stderr == off.stderr == ""
    assert set(modules.split()) - set(off.stdout.split()) == {"lm_eval_ext", "lm_eval_ext.autoload"}
    assert Path(file).resolve() == (env.source / "lm_eval_ext" / "__init__.py").resolve()


def test_the_name_is_registered_once_and_the_entry_point_agrees(env, tmp_path):
    code = """
    from importlib.metadata import entry_points
    from lm_eval.api.registry import get_model, model_registry
    get_model("dummy")
    print(model_registry._objs["hf-store"])
    print(*{e.value for e in entry_points(group="lm_eval.models") if e.name == "hf-store"})
    print([name for name in model_registry.keys()].count("hf-store"))
    """.replace("\n    ", "\n")
    lines = env.run("-c", code, cwd=tmp_path).stdout.splitlines()
    assert lines == ["lm_eval_ext.model:HFStoreLM", "lm_eval_ext.model:HFStoreLM", "1"]


def test_get_model_gives_our_class(env, tmp_path):
    code = "from lm_eval.api.registry import get_model; print(get_model('hf-store'))"
    assert "lm_eval_ext.model.HFStoreLM" in env.run("-c", code, cwd=tmp_path).stdout


def test_off_means_off(wheel_env, tmp_path):
    code = "from lm_eval.api.registry import get_model; get_model('hf-store')"
    done = wheel_env.run("-c", code, cwd=tmp_path, ok=False, EVAL_EXT_AUTOLOAD="0")
    assert done.returncode != 0
    assert "no model for this name" in done.stderr


def test_a_half_removed_install_starts_clean(make_env, tmp_path):
    env, _ = make_env("wheel")
    shutil.rmtree(env.site / "lm_eval_ext")
    done = env.run("-c", "import lm_eval.models; print('fine')", cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("fine\n", "")


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_uninstalling_leaves_nothing(make_env, tmp_path, kind):
    env, before = make_env(kind)
    env.run("-c", "import lm_eval_ext.autoload, mteb_ext.autoload, tasks, metrics", cwd=tmp_path)
    env.pip("uninstall", "--yes", "eval-ext", cwd=tmp_path)
    assert env.files() == before
    done = env.run("-c", "import sys; print('lm_eval_ext' in sys.modules)", cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("False\n", "")


# Shadowed import names


def test_a_metrics_py_in_the_current_folder_is_named(wheel_env, tmp_path):
    (tmp_path / "metrics.py").write_text("")
    code = "from lm_eval.api.registry import get_model; get_model('hf-store')"
    asked = wheel_env.run("-c", code, cwd=tmp_path, ok=False).stderr.splitlines()[-1]
    launched = wheel_env.run("-m", "lm_eval_ext", "--help", cwd=tmp_path, ok=False).stderr
    script = wheel_env.python.parent / "eval-ext"
    command = wheel_env.run(script, "--help", cwd="/", ok=False, PYTHONPATH=str(tmp_path)).stderr
    message = f"{tmp_path / 'metrics.py'} shadows eval-ext's package 'metrics' in {wheel_env.site.resolve()}/metrics"
    assert all(message in text for text in (asked, launched, command))
    assert len(launched.splitlines()) == len(command.splitlines()) == 1
    if sys.version_info >= (3, 11):
        wheel_env.run("-c", code, cwd=tmp_path, PYTHONSAFEPATH="1")


def test_the_console_script_runs(env, tmp_path):
    script = env.python.parent / "eval-ext"
    assert "Usage: eval-ext" in env.run(script, "--help", cwd=tmp_path).stdout


# A stock lm_eval, for real


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_stock_lm_eval_script(kind, make_env, tmp_path):
    env, _ = make_env(kind)
    done = env.run(SCRIPTS / "lm_eval", *counting(env, tmp_path / "store"), cwd=tmp_path)
    assert "|counting_mc|" in done.stdout
    assert any((tmp_path / "store").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    "host",
    [
        ("-m", "lm_eval"),
        (SCRIPTS / "accelerate", "launch", "--cpu", "--num_processes", "1", "-m", "lm_eval"),
    ],
    ids=["python -m lm_eval", "accelerate launch -m lm_eval"],
)
def test_stock_lm_eval_module(wheel_env, tmp_path, host):
    done = wheel_env.run(*host, *counting(wheel_env, tmp_path / "store"), cwd=tmp_path)
    assert "|counting_mc|" in done.stdout
    assert any((tmp_path / "store").iterdir())


@pytest.mark.slow
def test_the_launcher_needs_no_hook(wheel_env, tmp_path):
    args = counting(wheel_env, tmp_path / "store")
    done = wheel_env.run("-m", "lm_eval_ext", *args, cwd=tmp_path, EVAL_EXT_AUTOLOAD="0")
    assert "|counting_mc|" in done.stdout
    assert any((tmp_path / "store").iterdir())
