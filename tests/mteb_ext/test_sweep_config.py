"""The YAML form of a sweep: round trip, paths, precedence, and errors that say what to write."""

from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics.layers import select
from mteb_ext.sweep_config import Model, SweepConfig, from_mapping, load, merged, parse_size, to_yaml
from mteb_ext.sweep_values import READERS, format_size
from tasks.presets import PRESETS

ROOT = Path(__file__).parents[2]

FULL = """
models: [org/a, {id: org/b, revisions: [main, step1000]}, ./here]
revisions: [main, null]
layers: [0, 0.5, -1]
aggregates: [mean:last:4, concat:3+6, weighted:w/own.json]
pooling: [mean, last]
norm: final
max_length: 256
dtype: bfloat16
prompt: "@instruction.txt"
normalize: true
trust_remote_code: true
tasks: [STSBenchmark, 'STS17[en-en]', own/task.py:Mine, pkg.mod:Other, 'benchmark:MTEB(eng, v2)']
preset: layer-by-layer-32
out: results
workers: 3
batch_size: 8
device: cuda:0
bank: bank
bank_limit: 1.5GB
save_predictions: true
"""


@pytest.fixture
def write(tmp_path):
    def written(text):
        path = tmp_path / "conf" / "sweep.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return written


def test_every_key_is_read_and_files_lie_beside_the_yaml(write):
    path = write(FULL)
    here = path.parent.resolve()
    assert load(path) == SweepConfig(
        models=(Model("org/a"), Model("org/b", ("main", "step1000")), Model(str(here / "here"))),
        revisions=("main", None),
        layers="0,0.5,-1",
        aggregates=("mean:last:4", "concat:3+6", f"weighted:{here}/w/own.json"),
        pooling=("mean", "last"),
        norm=("final",),
        max_length=256,
        dtype="bfloat16",
        prompt=f"@{here}/instruction.txt",
        normalize=True,
        trust_remote_code=True,
        tasks=("STSBenchmark", "STS17[en-en]", f"{here}/own/task.py:Mine", "pkg.mod:Other", "benchmark:MTEB(eng, v2)"),
        preset="layer-by-layer-32",
        out=Path("results"),
        workers=3,
        batch_size=8,
        device="cuda:0",
        bank=Path("bank"),
        bank_limit=1_500_000_000,
        save_predictions=True,
    )


def test_the_readers_are_the_options_and_the_full_example_sets_them_all(write):
    names = [field.name for field in fields(SweepConfig)]
    assert list(READERS) == names
    default, full = SweepConfig(), load(write(FULL))
    assert [name for name in names if getattr(full, name) == getattr(default, name)] == []


@pytest.mark.parametrize("text", [FULL, "models: a/b", "layers: 4\nmodels: [a/b]\nprompt: 'a: \"b\"\\n'"])
def test_yaml_round_trip(write, text):
    config = load(write(text))
    assert load(write(to_yaml(config))) == config


def test_single_values_need_no_list_and_layers_no_quotes():
    config = from_mapping({"models": "a/b", "revisions": None, "layers": 4, "pooling": "cls", "tasks": "STS12"})
    assert (config.models, config.revisions, config.layers) == ((Model("a/b"),), (None,), "4")
    assert (config.pooling, config.tasks) == (("cls",), ("STS12",))
    assert from_mapping({"layers": 0.5}).layers == "0.5"
    assert select(from_mapping({"layers": [0, 0.5, -1]}).layers, 6) == (0, 3, 6)


def test_checkpoints_are_models_by_revisions_each_once():
    models = ["a/b", {"id": "a/c", "revisions": ["step1", "main"]}, "a/b"]
    assert from_mapping({"models": models, "revisions": ["main", "step8"]}).checkpoints() == (
        ("a/b", "main"),
        ("a/b", "step8"),
        ("a/c", "step1"),
        ("a/c", "main"),
    )
    assert SweepConfig(models=(Model("x"),)).checkpoints() == (("x", None),)


def test_the_command_line_wins_key_by_key(write):
    config = load(write(FULL))
    changed = merged(
        config, {"batch_size": 64, "models": ("org/z",), "prompt": None, "aggregates": (), "save_predictions": False}
    )
    assert (changed.batch_size, changed.models, changed.save_predictions) == (64, (Model("org/z"),), False)
    assert (changed.prompt, changed.aggregates, changed.tasks) == (config.prompt, config.aggregates, config.tasks)
    assert merged(config, {}) == config


def test_tasks_and_preset_go_together_and_revisions_reach_every_model(write):
    config = load(write(FULL))
    assert (lambda c: (c.tasks, c.preset))(merged(config, {"tasks": ("STS12",)})) == (("STS12",), None)
    assert (lambda c: (c.tasks, c.preset))(merged(config, {"preset": "p"})) == ((), "p")
    again = merged(config, {"revisions": ("step8",)})
    assert {revision for _, revision in again.checkpoints()} == {"step8"}
    assert len(again.checkpoints()) == 3


def test_files_named_on_the_command_line_lie_in_the_working_folder(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changed = merged(load(write(FULL)), {"tasks": ("t.py:C",), "aggregates": ["weighted:w.json"]})
    assert changed.tasks == (f"{tmp_path.resolve()}/t.py:C",)
    assert changed.aggregates == (f"weighted:{tmp_path.resolve()}/w.json",)
    assert load(write(to_yaml(changed))) == changed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model: a/b", "unknown key 'model'; did you mean 'models'?"),
        ("max-length: 5", "did you mean 'max_length'?"),
        ("zzz: 5", "unknown key 'zzz' Known: models, "),
        ("1: 5", "unknown key '1'"),
        ("max_length: long", "max_length: 'long' is not a whole number of at least 1"),
        ("workers: -1", "workers: -1 is not a whole number"),
        ("batch_size: true", "batch_size: True is not a whole number"),
        ("batch_size: 2.0", "batch_size: 2.0 is not a whole number"),
        ("normalize: 'yes please'", "normalize: 'yes please' is not true or false"),
        ("revisions: [1000]", "digits in quotes"),
        ("models: []", "write [ORG/MODEL"),
        ("models: [{name: a/b}]", "{id: ORG/MODEL, revisions: [main]}"),
        ("models:", "models: None is not a list of models"),
        ("layers: true", "layers: True is not a choice of layers"),
        ("layers: []", "write all, last:4"),
        ("aggregates: [median:all]", "write [mean:last:4"),
        ("aggregates: [concat]", "write [mean:last:4"),
        ("bank_limit: lots", "bank_limit: 'lots' is not a size; write 20GB"),
        ("bank_limit: true", "bank_limit: True is not a size"),
        ("tasks: [{a: b}]", "with quotes around brackets"),
        ("pooling: []", "write [mean]"),
        ("models: a/b\nmodels: a/c", "key 'models' is given twice"),
        ("models: [a", "is not YAML"),
        ("- models", "does not hold 'key: value' lines"),
        ("", "does not hold 'key: value' lines"),
    ],
)
def test_a_mistake_is_one_line_with_file_key_value_and_remedy(write, text, said):
    path = write(text)
    with pytest.raises(ValueError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert said in message
    assert "\n" not in message


def test_a_file_that_is_not_there_and_a_wrong_option_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.yaml cannot be read"):
        load(tmp_path / "none.yaml")
    with pytest.raises(ValueError, match="command line: workers: -1 is not"):
        merged(SweepConfig(), {"workers": -1})


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), (17, 17), ("17B", 17), ("2kb", 2000), ("20GB", 2 * 10**10), (" 1.5 GiB ", 3 * 2**29), ("1TB", 10**12)],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1XB", "1 2GB", "nan", True, "1e9"])
def test_what_is_not_a_size(text):
    with pytest.raises(ValueError, match="write 20GB"):
        parse_size(text)


@given(st.integers(0, 2**62))
def test_sizes_survive_being_written(size):
    assert parse_size(format_size(size)) == size


def test_sizes_are_written_short():
    assert [format_size(n) for n in (0, 2 * 10**10, 2**31, 1234567)] == [0, "20GB", "2GiB", 1234567]


def test_the_shipped_pythia_sweep():
    path = ROOT / "configs" / "pythia_layersweep.yaml"
    config = load(path)
    assert [id_.removeprefix("EleutherAI/pythia-") for id_, _ in config.checkpoints()] == ["14m", "70m", "410m"]
    assert {revision for _, revision in config.checkpoints()} == {"main"}
    assert (config.pooling, config.norm, config.max_length) == (("mean",), ("final",), 2048)
    assert (config.layers, config.normalize, config.preset in PRESETS) == ("all", False, True)
    entries = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith(" " * 6)]
    written = {entry.removeprefix("# ").removeprefix("- ") for entry in entries if "- " in entry and entry != "#"}
    assert {entry for entry in written if entry == "main" or entry.startswith("step")} == {"main"} | {
        f"step{step}" for step in (1, 64, 128, 256, 512, *(1000 * 2**k for k in range(8)))
    }


def test_the_shipped_checkpoints_are_the_published_ones(tmp_path):
    table = ROOT.parent / "shared/data/layer_by_layer/pythia_layer_scores.csv"
    if not table.is_file():
        pytest.skip(f"{table} is not there; it lies beside the repository on development machines only")
    rows = [line.split(",") for line in table.read_text(encoding="utf-8").splitlines()]
    text = (ROOT / "configs" / "pythia_layersweep.yaml").read_text(encoding="utf-8").replace("# - ", "- ")
    (tmp_path / "all.yaml").write_text(text, encoding="utf-8")
    wanted = load(tmp_path / "all.yaml").checkpoints()
    assert {(id_.removeprefix("EleutherAI/pythia-"), revision) for id_, revision in wanted} == {
        (row[0], row[1]) for row in rows[1:]
    }
