"""A sweep from the command line: the same scores as MTEB's own command gives, each text encoded once, once for all."""

import json
from collections import Counter

import mteb
import pytest
from mteb.cache import ResultCache
from sweeping import FILE, mains, named, run, scores

from mteb_ext.digest import short
from mteb_ext.tasks import resolve

TASKS = ("Sts", "Classes", "Clusters", "OldClusters", "Pairs", "Search", "Both", "Draws")
LAYERS = range(4)


def record(out):
    return json.loads((out / "sweep.json").read_text())["runs"][-1]


@pytest.fixture(scope="module")
def model(tiny):
    return tiny("bert")


@pytest.fixture(scope="module")
def swept(model, tmp_path_factory):
    """A function (workers) -> the folder of a sweep of all layers on all tasks, and what the command said."""
    made = {}

    def folder(workers):
        if workers not in made:
            out = tmp_path_factory.mktemp("sweep") / "out"
            said = run("--model", model, "--tasks", named(*TASKS), "--out", out, "--workers", workers)
            made[workers] = out, said
        return made[workers]

    return folder


@pytest.fixture(scope="module")
def separate(model, tmp_path_factory):
    """The cache folder of separate evaluations by MTEB, one layer at a time."""
    cache = ResultCache(tmp_path_factory.mktemp("separate"))
    for layer in LAYERS:
        for task in resolve([f"{FILE}:{name}" for name in TASKS]):
            encoder = mteb.get_model(f"layer-wrapper/{model}:layer={layer}")
            mteb.evaluate(encoder, task, cache=cache, co2_tracker=False, show_progress_bar=False)
    return cache.cache_path


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_sweep_gives_the_scores_of_separate_evaluations_where_mteb_puts_them(swept, separate, workers):
    out, (status, table, _) = swept(workers)
    assert status == 0
    assert "of 3 is best" in table
    expected = {key: found for key, found in scores(separate).items() if key[1] in TASKS}
    assert len(expected) == len(TASKS) * len(LAYERS)
    assert scores(out) == expected


def test_tasks_of_the_test_tell_layers_apart(separate):
    found = mains(separate)
    apart = [t for t in TASKS if len({found[key] for key in found if key[1] == t}) > 1]
    assert set(apart) >= {"Sts", "Clusters", "OldClusters", "Pairs", "Search", "Both"}


def test_one_pass_for_each_distinct_text_of_all_tasks(swept):
    for workers in (0, 2):
        run = record(swept(workers)[0])
        assert run["forward_passes"] == 50  # of TEXTS, which are all different, the tasks take the first 50
        assert run["forward_passes_again"] == 0
        assert run["model_loads"] == 1
        assert run["units_done"] == len(TASKS) * len(LAYERS)


def test_one_pass_for_each_text_of_seven_layers_and_four_tasks(save, tmp_path):
    model = save("gpt2", tmp_path / "deep", n_layer=6)
    status, _, _ = run(
        "--model", model, "--tasks", named("Sts", "Classes", "Clusters", "Pairs"), "--out", tmp_path / "o"
    )
    done = record(tmp_path / "o")
    assert status == 0
    assert (done["units_done"], done["forward_passes"], done["forward_passes_again"]) == (28, 50, 0)


def test_the_second_run_does_nothing_and_loads_nothing(swept, model, monkeypatch, tmp_path):
    out, _ = swept(0)
    before = scores(out)
    monkeypatch.setenv("SWEEP_TASKS", str(tmp_path))
    status, table, said = run("--model", model, "--tasks", named(*TASKS), "--out", out, "--workers", 0)
    assert status == 0
    assert "of 3 is best" in table
    assert "0 of 32 units are pending: 1 checkpoint, 8 tasks." in said
    assert "0 units evaluated in 0 s, 32 were there before." in said
    assert record(out)["model_loads"] == record(out)["texts_asked"] == 0
    assert not (tmp_path / "trace").exists()  # where a task notes that it loads its data
    assert scores(out) == before


def test_mteb_reads_the_results_of_its_tasks_and_of_one_s_own(swept, separate):
    out, _ = swept(1)
    name = "layer-wrapper/tiny-bert"
    for cache in (out, separate):
        found = ResultCache(cache).load_results(models=[name], load_experiments="match_name", include_remote=False)
        assert Counter(r.task_name for m in found.model_results for r in m.task_results) == dict.fromkeys(TASKS, 4)
        assert {m.model_name for m in found.model_results} == {name}
        assert len({m.experiment_name for m in found.model_results}) == 4
        assert len(found.to_dataframe()) == len(TASKS)


def test_files_are_those_mteb_writes(swept, separate):
    out, _ = swept(2)
    for theirs in (separate / "results").rglob("experiments/*/*.json*"):
        ours = out / theirs.relative_to(separate)
        assert ours.is_file()
        if theirs.name == "model_meta.json":
            one, other = json.loads(ours.read_text()), json.loads(theirs.read_text())
            loading = one.pop("loader_kwargs"), other.pop("loader_kwargs")
            assert one == other
            assert loading[0].items() <= loading[1].items()  # MTEB adds the variant's when it loads a model
    assert not list(out.glob(".saving*"))


def test_the_journal_has_a_line_a_unit(swept):
    out, _ = swept(2)
    lines = [json.loads(line) for line in (out / "sweep.jsonl").read_text().splitlines()]
    assert {line["status"] for line in lines} == {"done"}
    found = {(line["variant"], line["task"]): round(line["score"], 6) for line in lines}
    assert found == pytest.approx(mains(out))


def test_poolings_norms_and_aggregates_each_once(tiny, tmp_path):
    model = tiny("gpt2")
    status, _, said = run(
        *("--model", model, "--tasks", named("Sts"), "--out", tmp_path / "o", "--workers", 0),
        *("--pooling", "mean,last", "--norm", "raw,final", "--layers", "1+3,-1"),
        *("--aggregate", "mean:last:2", "--aggregate", "concat:1+3", "--aggregate", "mean:3"),
    )
    assert status == 0
    assert "16 of 16 units are pending" in said  # layers 1 and 3, which is also the mean of itself, and two aggregates
    assert record(tmp_path / "o")["forward_passes"] == 45
    for text in ("layer 1, mean/raw  Sts", "concat of 1+3, last/final  Sts", "mean of 2+3, mean/final  Sts"):
        assert text in said
    found = mains(tmp_path / "o")
    assert len(found) == 16
    assert len(set(found.values())) == 16
    encoder = mteb.get_model(f"layer-wrapper/{model}:layers=1+3,aggregate=concat,pooling=last,norm=raw")
    [task] = resolve([f"{FILE}:Sts"])
    expected = mteb.evaluate(encoder, task, cache=None, co2_tracker=False).task_results[0].get_score()
    assert found[encoder.mteb_model_meta.experiment_name, "Sts"] == pytest.approx(expected, abs=1e-6)


def test_aggregates_only(model, tmp_path):
    args = ("--model", model, "--tasks", named("Sts"), "--out", tmp_path / "o", "--workers", 0)
    status, _, said = run(*args, "--layers", "none", "--aggregate", "mean:all")
    assert status == 0
    assert "1 of 1 unit is pending" in said
    assert "mean of 0+1+2+3  Sts" in said
    assert "1 unit evaluated" in said


def test_two_models_and_a_revision_of_a_folder(tiny, save, tmp_path):
    from mteb_ext.digest import folder_digest

    one, two = tiny("bert"), tiny("gpt2")
    own = f"{two}@{folder_digest(two)[:6]}"
    args = ("--model", one, "--model", own, "--tasks", named("Sts", "Pairs"), "--layers", "last:2")
    status, table, _ = run(*args, "--out", tmp_path / "o", "--workers", 1)
    assert status == 0
    assert "Best of all 4" in table
    assert len(mains(tmp_path / "o")) == 8
    assert record(tmp_path / "o")["model_loads"] == 2


def test_one_model_that_cannot_be_read_does_not_stop_the_others(model, tmp_path):
    bad = tmp_path / "bad"
    bad.mkdir()
    args = ("--model", bad, "--model", model, "--tasks", named("Sts"), "--layers", "0+3", "--out", tmp_path / "o")
    status, _, said = run(*args, "--workers", 0)
    assert status == 1
    assert len(mains(tmp_path / "o")) == 2
    assert f"FAILED: {bad}: model {bad} cannot be read" in said
    assert "1 failure; the same command tries again:" in said
    assert json.loads((tmp_path / "o" / "sweep.jsonl").read_text().splitlines()[0])["checkpoint"] == str(bad)


def test_a_bank_smaller_than_a_task_costs_passes_and_changes_no_score(model, separate, tmp_path, save):
    args = ("--model", model, "--tasks", named("Sts", "Clusters"), "--out", tmp_path / "o", "--workers", 1)
    status, _, said = run(*args, "--bank-limit", "4kB", "--bank", tmp_path / "bank", "--batch-size", 4)
    assert status == 0
    assert "raise --bank-limit" in said or "No statistics" in said
    found = {key: value for key, value in mains(separate).items() if key[1] in ("Sts", "Clusters")}
    assert mains(tmp_path / "o") == pytest.approx(found, abs=1e-6)
    done = record(tmp_path / "o")
    assert done["forward_passes"] == 45
    assert done["forward_passes_again"] > 0
    assert "of them again after eviction" in said
    assert not (tmp_path / "o" / "bank").exists()


def test_a_prompt_from_a_file_is_hashed_and_put_before_every_text(model, tmp_path):
    (tmp_path / "prompt.txt").write_text("query : ")
    args = ("--model", model, "--tasks", named("Sts"), "--layers", "2", "--workers", 0)
    assert run(*args, "--out", tmp_path / "file", "--prompt", f"@{tmp_path / 'prompt.txt'}")[0] == 0
    assert run(*args, "--out", tmp_path / "text", "--prompt", "query : ")[0] == 0
    assert run(*args, "--out", tmp_path / "none")[0] == 0
    assert mains(tmp_path / "file") == mains(tmp_path / "text")
    [(name, _)] = mains(tmp_path / "file")
    assert short("query : ") in name
    assert list(mains(tmp_path / "none").values()) != list(mains(tmp_path / "file").values())


def test_warnings_are_said_once_and_noted_and_chatter_stays_off_stdout(model, tmp_path):
    args = ("--model", model, "--tasks", named("Warns", "Sts"), "--out", tmp_path / "o", "--workers", 1)
    status, table, said = run(*args)
    assert status == 0
    assert "chatter" not in table
    assert said.count("RuntimeWarning: it did not converge") == 1
    lines = [json.loads(line) for line in (tmp_path / "o" / "sweep.jsonl").read_text().splitlines()]
    assert all(line["warnings"] == ["RuntimeWarning: it did not converge"] for line in lines if line["task"] == "Warns")
    assert not any("warnings" in line for line in lines if line["task"] == "Sts")


def test_predictions_come_with_the_gold_and_their_lack_is_said(model, tmp_path):
    args = ("--model", model, "--layers", "1+3", "--out", tmp_path / "o", "--workers", 1)
    assert run(*args, "--tasks", named("Sts"))[0] == 0
    status, _, said = run(*args, "--tasks", named("Sts", "Pairs"), "--save-predictions")
    assert status == 0
    assert "Note: 2 of the units that are done already have no predictions" in said
    kept = sorted(p.name for p in (tmp_path / "o" / "predictions").rglob("*.json"))
    assert kept == ["Pairs.json", "Pairs_predictions.json", "Pairs_predictions.json"]
    assert "no predictions" not in run(*args, "--tasks", named("Pairs"), "--save-predictions")[2]
