"""MTEB's registry with our names in it: what it answers, and that nothing of MTEB's own sees a difference."""

import json
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import mteb
import pytest
from mteb.mocks import mock_tasks
from mteb.models import model_implementations
from mteb.models.get_model_meta import get_model_meta
from mteb.models.model_meta import ModelMeta

from mteb_ext.autoload import LayerWrapperRegistry, register
from mteb_ext.meta import model_meta

ROOT = Path(__file__).resolve().parents[2]


def python(*args, cwd, **env):
    """Run a fresh interpreter that sees this checkout, but not the folder it runs in, and no hub."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("EVAL_EXT", "PYTHON"))}
    clean |= {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **env}
    return subprocess.run([sys.executable, *args], cwd=cwd, env=clean, capture_output=True, text=True)


# What it answers


@pytest.fixture
def resolver(monkeypatch):
    """Stands in for `mteb_ext.meta`; names that hold ``bad`` cannot be read."""

    def model_meta(name):
        if "bad" in name:
            raise ValueError(f"model name '{name}': no")
        return f"meta of {name}"

    monkeypatch.setitem(sys.modules, "mteb_ext.meta", types.SimpleNamespace(model_meta=model_meta))


def test_the_registry_resolves_layer_wrappers_and_lists_only_stock_models(resolver):
    registry = LayerWrapperRegistry({"org/stock": "stock meta"})
    assert "layer-wrapper/a@r:3" in registry
    assert registry["layer-wrapper/a@r:3"] == "meta of layer-wrapper/a@r:3"
    assert registry["org/stock"] == registry.get("org/stock") == "stock meta"
    assert list(registry) == list(registry.keys()) == ["org/stock"]
    assert (len(registry), list(registry.values())) == (1, ["stock meta"])
    assert registry.get("layer-wrapper/a@r:3") is None
    assert registry.get("layer-wrapper/bad", 3) == 3
    assert "org/other" not in registry
    assert None not in registry
    with pytest.raises(KeyError, match="org/other"):
        registry["org/other"]


def test_a_name_that_strangers_send_to_a_server_is_not_looked_at(resolver, monkeypatch):
    registry = LayerWrapperRegistry({"org/stock": "stock meta"})
    monkeypatch.setitem(sys.modules, "mteb.api.routes", types.ModuleType("mteb.api.routes"))
    assert "layer-wrapper/a" not in registry
    assert "org/stock" in registry
    with pytest.raises(KeyError, match="layer-wrapper/a"):
        registry["layer-wrapper/a"]


@pytest.mark.parametrize("program", ["/venv/bin/mteb", "mteb.exe", "/site-packages/mteb/__main__.py"])
def test_a_bad_name_ends_mtebs_command_in_one_line(resolver, monkeypatch, program):
    monkeypatch.setattr(sys, "argv", [program, "run"])
    with pytest.raises(SystemExit, match=r"^Error: model name 'layer-wrapper/bad': no$"):
        LayerWrapperRegistry()["layer-wrapper/bad"]


@pytest.mark.parametrize(
    "program", ["", "-c", "/venv/bin/ipykernel_launcher.py", "/home/mteb/run.py", "/x/__main__.py"]
)
def test_a_bad_name_elsewhere_is_an_ordinary_error(resolver, monkeypatch, program):
    monkeypatch.setattr(sys, "argv", [program, "run"])
    with pytest.raises(ValueError, match=r"^model name 'layer-wrapper/bad': no$"):
        LayerWrapperRegistry()["layer-wrapper/bad"]


def test_the_registry_is_replaced_where_it_was_bound_already(monkeypatch):
    stock = {"org/stock": 1}
    late, other = types.ModuleType("mteb.fake_late"), types.ModuleType("mteb.fake_other")
    late.MODEL_REGISTRY, other.MODEL_REGISTRY = stock, {}
    monkeypatch.setitem(sys.modules, "mteb.fake_late", late)
    monkeypatch.setitem(sys.modules, "mteb.fake_other", other)
    home = types.ModuleType("mteb.fake_home")
    home.MODEL_REGISTRY = stock
    register(home)
    replaced = home.MODEL_REGISTRY
    assert isinstance(replaced, LayerWrapperRegistry)
    assert replaced == stock
    assert late.MODEL_REGISTRY is replaced
    assert type(other.MODEL_REGISTRY) is dict
    register(home)
    assert home.MODEL_REGISTRY is replaced


@pytest.mark.slow
def test_stock_mteb_knows_the_names_and_is_otherwise_unaffected(tmp_path):
    code = """
    import sys
    if sys.argv.pop() == "hook":
        from lm_eval_ext.autoload import install
        install()
    import mteb
    from mteb.models import get_model_meta, model_implementations
    bound = [m for n, m in sys.modules.items() if n.startswith("mteb.") and hasattr(m, "MODEL_REGISTRY")]
    print(len(bound), len({id(m.MODEL_REGISTRY) for m in bound}), len(mteb.get_model_metas()))
    print(mteb.get_model("mteb/baseline-random-encoder").mteb_model_meta.name)
    print(type(get_model_meta.MODEL_REGISTRY).__name__, file=sys.stderr)
    mteb.get_model("layer-wrapper/x")
    """.replace("\n    ", "\n")
    stock = python("-c", code, "stock", cwd=tmp_path, EVAL_EXT_AUTOLOAD="0")
    hooked = python("-c", code, "hook", cwd=tmp_path, EVAL_EXT_AUTOLOAD="0")
    assert hooked.stdout == stock.stdout
    assert stock.stdout.split()[1] == "1"
    assert "mteb/baseline-random-encoder" in stock.stdout
    assert stock.stderr.startswith("dict\n")
    assert hooked.stderr.startswith("LayerWrapperRegistry\n")
    assert "BadName: model name 'layer-wrapper/x': " in hooked.stderr.splitlines()[-1]


# Result folders


LAYERS = ["layer=0", "layer=1", "layer=2", "layer=3", "layers=all", "layer=3,prompt='query: '"]


@pytest.fixture(scope="module")
def cache(save, tmp_path_factory):
    """A results folder of six variants of a model whose own folder is gone, and of one model of MTEB's."""
    register(model_implementations)
    out = tmp_path_factory.mktemp("out")
    folder = save("bert", tmp_path_factory.mktemp("gone") / "tiny-gone")
    cache = mteb.ResultCache(out)
    for name in [f"layer-wrapper/{folder}:{spec}" for spec in LAYERS] + ["mteb/baseline-random-encoder"]:
        model = mteb.get_model(name, device="cpu")
        mteb.evaluate(model, mock_tasks.MockClassificationTask(), cache=cache, show_progress_bar=False)
    shutil.rmtree(folder)
    return cache


def test_results_are_read_where_the_model_is_gone(cache):
    assert len(cache.load_results(models=["layer-wrapper/tiny-gone"]).model_results) == 0  # MTEB's default
    found = cache.load_results(models=["layer-wrapper/tiny-gone"], load_experiments="match_name")
    assert len(found.model_results) == len(LAYERS)
    kwargs = [result.model_meta.experiment_kwargs for result in found]
    assert sorted(k["layer"] for k in kwargs if "layer" in k) == [0, 1, 2, 3, 3]
    everything = cache.load_results(load_experiments="match_name")
    assert len(everything.model_results) == len(LAYERS) + 1
    for results in (found, everything, everything.join_revisions()):
        models = {result.model_name for result in results}
        assert set(results.to_dataframe(format="long")["model_name"]) == models  # MTEB joins a model's experiments
        assert len(results.to_dataframe()) == 1
        results._to_results_df([mock_tasks.MockClassificationTask()])


def test_results_without_metadata_are_read_too(cache, tmp_path):
    folder = tmp_path / "results/layer-wrapper__tiny-gone/r1"
    folder.mkdir(parents=True)
    task = next(p for p in cache.cache_path.rglob("Mock*.json") if "experiments" in p.parts)
    shutil.copy(task, folder)
    found = mteb.ResultCache(tmp_path).load_results(require_model_meta=False)
    assert [(r.model_name, r.model_revision) for r in found] == [("layer-wrapper/tiny-gone", "r1")]


def test_metadata_are_read_back(cache):
    folders = list(cache.cache_path.rglob("experiments/*/model_meta.json"))
    assert len(folders) == len(LAYERS)
    for path in folders:
        meta = ModelMeta.model_validate_json_resolved(path.read_text())
        assert meta.loader is None
        assert meta.experiment_name == path.parent.name
        assert meta.model_name_as_path() == path.parents[3].name
        assert meta.revision == path.parents[2].name


def test_a_result_folder_s_name_is_no_model_to_load(cache):
    with pytest.raises(ValueError, match="model name 'layer-wrapper/tiny-gone': "):
        get_model_meta("layer-wrapper/tiny-gone")


def test_listings_are_mteb_s_own():
    register(model_implementations)
    names = {meta.name for meta in mteb.get_model_metas()}
    assert not any(name.startswith("layer-wrapper") for name in names)
    assert len(mteb.get_benchmark("MTEB(eng, v2)").tasks) == 41
    with pytest.raises(KeyError, match="Did you mean"):
        get_model_meta("mteb/baseline-random-encodr")


# The hub's cache


@pytest.fixture
def hub(tiny, tmp_path, monkeypatch):
    """A cache of the hub with one model at two commits, which two refs and a pull request name."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--org--name"
    for ref, commit in {"main": "a" * 40, "step1000": "b" * 40, "refs/pr/1": "b" * 40}.items():
        file = repository / "refs" / ref
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(commit)
        if not (repository / "snapshots" / commit).exists():
            snapshot = shutil.copytree(tiny("bert"), repository / "snapshots" / commit)
            (snapshot / ".gitattributes").touch()  # what a download of the whole repository has


def test_a_model_of_the_hub_is_resolved_from_its_cache(hub):
    found = {
        at: model_meta(f"layer-wrapper/org/name{at}")
        for at in ("", "@main", "@step1000:layer=-1", f"@{'a' * 40}", ":revision=refs/pr/1")
    }
    assert {meta.name for meta in found.values()} == {"layer-wrapper/org/name"}
    revisions = [meta.revision for meta in found.values()]
    assert revisions[:4] == ["a" * 40, "main", "step1000", "a" * 40]
    assert re.fullmatch("refs_pr_1-[0-9a-f]{12}", revisions[4])
    first, _, second, third, fourth = (meta.experiment_kwargs["config"] for meta in found.values())
    assert first == third
    assert second == fourth != first
    assert get_model_meta("layer-wrapper/org/name@step1000", "step1000").revision == "step1000"


def test_what_is_not_in_the_cache_is_one_line(hub):
    for name in ("org/name@step2000", "org/other"):
        with pytest.raises(ValueError, match=f"^model name 'layer-wrapper/{name}': model {name} cannot be read: ") as e:
            model_meta(f"layer-wrapper/{name}")
        assert "\n" not in str(e.value)


def test_a_hub_model_is_loaded_from_its_cache(hub):
    model = mteb.get_model("layer-wrapper/org/name@step1000:layer=2", device="cpu")
    task = mock_tasks.MockSTSTask()
    found = model.encode([{"text": ["w1 w2", ""]}], task_metadata=task.metadata, hf_split="test", hf_subset="default")
    assert found.shape == (2, 16)
    assert json.loads(json.dumps(model.mteb_model_meta.to_dict()))["revision"] == "step1000"
