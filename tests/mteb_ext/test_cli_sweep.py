"""The command `sweep` before any work: the plan, the YAML file, and options that are wrong."""

import json
from pathlib import Path

import pytest
from sweeping import FILE, run

SHIPPED = Path(__file__).parents[2] / "configs" / "pythia_layersweep.yaml"


@pytest.fixture(autouse=True)
def no_weights(monkeypatch):
    """Nothing here may load a model."""
    from mteb_ext import source

    def loaded(*_):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(source, "load", loaded)


@pytest.fixture(scope="module")
def model(tiny):
    return tiny("gpt2")


def test_a_plan_writes_nothing(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tasks = "WordCategoryClustering,ListCountClassification"
    status, table, said = run("--model", model, "--tasks", tasks, "--layers", "0+3", "--dry-run")
    assert (status, said) == (0, "")
    lines = table.splitlines()
    assert [line.split("|")[3].strip() for line in lines[2:4]] == tasks.split(",")
    assert "4 of 4 units are pending: 1 checkpoint, 2 tasks." in table
    assert "texts go through a model once" in table
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("default")
def test_a_plan_leaves_a_damaged_result_alone(model, tmp_path):
    args = ("--model", model, "--tasks", f"{FILE}:Sts", "--layers", "3", "--out", tmp_path / "out", "--dry-run")
    from mteb_ext.sweep_config import from_mapping
    from mteb_ext.sweep_plan import subjects
    from mteb_ext.sweep_results import Results
    from mteb_ext.tasks import resolve

    [subject], _ = subjects(from_mapping({"models": [str(model)], "layers": "3"}))
    path = Results(tmp_path / "out").path(subject.arms[0].meta, resolve([f"{FILE}:Sts"])[0])
    path.parent.mkdir(parents=True)
    path.write_text('{"task_name": "Sts", "sco')
    status, table, said = run(*args)
    assert status == 0
    assert said.startswith(f"Warning: {path} cannot be read (")
    assert said.endswith("it is evaluated again\n")
    assert "1 of 1 unit is pending" in table
    assert [p.name for p in path.parent.iterdir()] == ["Sts.json"]


def test_a_small_bank_is_foreseen(model, tmp_path):
    args = ("--model", model, "--tasks", "WordCategoryClustering", "--out", tmp_path / "out", "--dry-run")
    assert "raise --bank-limit" not in run(*args)[1]
    assert "encoded several times: raise --bank-limit" in run(*args, "--bank-limit", "50kB")[1]


def test_the_plan_of_models_that_cannot_be_read_shows_the_tasks_and_why(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    status, table, said = run("--config", SHIPPED, "--dry-run", "--out", tmp_path / "out")
    assert status == 1
    assert len([line for line in table.splitlines() if line.startswith("| ")]) == 33
    assert "Only the tasks are known, for no model can be evaluated." in table
    lines = said.strip().splitlines()
    assert len(lines) == 3
    assert all(f"EleutherAI/pythia-{size}" in line for size, line in zip(("14m", "70m", "410m"), lines))
    assert not list(tmp_path.iterdir())


def test_a_sweep_without_any_model_that_can_be_read_does_not_begin(tmp_path):
    args = ("--config", SHIPPED, "--out", tmp_path / "out")
    status, table, said = run(*args)
    assert (status, table) == (1, "")
    assert said.startswith("Error: EleutherAI/pythia-14m@main cannot be evaluated: ")
    assert said.endswith("nor can 2 further checkpoints, see --dry-run\n")
    assert not (tmp_path / "out").exists()


def test_the_command_line_wins_over_the_file(model, tmp_path):
    (tmp_path / "options.yaml").write_text(f"models: [ORG/ELSE]\nlayers: '0'\ntasks: [STS12]\nout: {tmp_path}/out\n")
    args = ("--model", model, "--layers", "last:3", "--tasks", "WordCategoryClustering", "--dry-run")
    status, table, _ = run("--config", tmp_path / "options.yaml", *args)
    assert status == 0
    assert "3 of 3 units are pending: 1 checkpoint, 1 task." in table
    assert "STS12" not in table


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--pooling", "mean,median"), "pooling 'median' is not known; choose auto, mean, cls, last, max, weighted"),
        (("--norm", "layer"), "norm 'layer' is not known; choose auto, raw, final"),
        (("--dtype", "int8"), "dtype 'int8' is not known; choose auto, float32, float16, bfloat16"),
        (("--layers", "first"), "layer 'first' is not a number; give indices such as 0+4+-1"),
        (("--layers", "none"), "layers 'none' leaves nothing to evaluate; add an aggregate such as mean:last:4"),
        (("--aggregate", "mean:x"), "layer 'x' is not a number"),
        (("--aggregate", "sum:all"), "'sum:all'"),
        (("--layers", "9"), "cannot be evaluated: layer 9 is outside 0..3"),
        (("--layers", "last:9"), "after 'last:' comes a number from 1 to 4"),
        (("--max-length", "999"), "max_length=999 is beyond the 32 tokens"),
        (("--aggregate", "weighted:nowhere.json"), "nowhere.json cannot be read"),
        (("--tasks", "STSBenchmrk"), "has no task 'STSBenchmrk'; did you mean 'STSBenchmark'?"),
        (("--tasks", f"{FILE}:Stss"), "has no task class 'Stss'; did you mean 'Sts'?"),
        (("--preset", "mine"), "there is no preset 'mine'"),
        (("--prompt", "@nowhere.txt"), "nowhere.txt: the file cannot be read: No such file or directory"),
        (("--bank-limit", "much"), "bank_limit: 'much' is not a size"),
        (("--workers", "-1"), "-1 is not in the range x>=0"),
        (("--plot", "layers.gif"), "--plot layers.gif: the ending must be .png or .svg or .pdf"),
        (("--config", "nowhere.yaml"), "nowhere.yaml cannot be read"),
    ],
)
def test_a_bad_option_is_one_line_before_any_work(model, tmp_path, options, message):
    args = ("--model", model, "--tasks", f"{FILE}:Sts", "--out", tmp_path / "out")
    status, table, said = run(*args, *options)
    assert (status, table) == (1, "")
    assert said.startswith("Error: ")
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_no_model_and_no_task(model, tmp_path):
    assert run("--tasks", f"{FILE}:Sts")[::2] == (
        1,
        "Error: no model is given; add --model ORG/MODEL or --model FOLDER\n",
    )
    status, _, said = run("--model", model)
    assert status == 1
    assert "no tasks are named" in said


def test_both_spellings_of_a_dtype_are_one_variant(model, tmp_path):
    from mteb_ext.sweep_config import from_mapping
    from mteb_ext.sweep_plan import subjects

    names = []
    for dtype in ("bf16", "bfloat16"):
        [subject], _ = subjects(from_mapping({"models": [str(model)], "layers": "3", "dtype": dtype}))
        names.append(subject.arms[0].name)
    assert names[0] == names[1]
    assert "bfloat16" in names[0]


def test_models_of_another_depth_are_refused_one_by_one(tiny, save, tmp_path):
    deep = save("gpt2", tmp_path / "deep", n_layer=5)
    args = ("--model", tiny("gpt2"), "--model", deep, "--tasks", "WordCategoryClustering", "--layers", "5")
    status, table, said = run(*args, "--out", tmp_path / "out", "--dry-run")
    assert status == 1
    assert "1 of 1 unit is pending: 1 checkpoint, 1 task." in table
    assert said.count("\n") == 1
    assert "layer 5 is outside 0..3" in said


def test_the_record_keeps_every_run(tmp_path):
    from mteb_ext.sweep_results import Results

    results = Results(tmp_path)
    results.record({"a": 1})
    results.record({"a": 2})
    assert [run["a"] for run in json.loads((tmp_path / "sweep.json").read_text())["runs"]] == [1, 2]


@pytest.mark.parametrize(
    ("written", "parts"),
    [
        (("STS12,STS13",), ("STS12", "STS13")),
        (("benchmark:MTEB(eng, v2), STS12", "STS17[en-en]"), ("benchmark:MTEB(eng, v2)", "STS12", "STS17[en-en]")),
        ((" a ,, b(",), ("a", "b(")),
    ],
)
def test_commas_part_names_but_not_inside_brackets(written, parts):
    from mteb_ext.cli import _split

    assert _split(written) == parts
