"""The command `layers` as a user types it."""

import csv
import inspect
import io
import json
import sys
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from mteb_ext.cli_layers import layers
from mteb_ext.layer_report import number, ranges

PUBLISHED = Path(__file__).parents[3] / "shared/data/layer_by_layer/pythia_layer_scores.csv"
real = pytest.mark.skipif(not PUBLISHED.is_file(), reason="the published scores lie beside the project, not in it")
SCORES = np.round(np.random.default_rng(0).normal(0.5, 0.1, size=(5, 8)), 3)


def write(path, models=("m",), scores=SCORES, blocks=4):
    rows = [
        {"model": m, "revision": "r", "layer": k, "blocks": blocks, "task": f"T{t}", "type": "AB"[t % 2],
         "main_score": round(float(v) + i / 100, 6)}
        for i, m in enumerate(models) for k, row in enumerate(scores) for t, v in enumerate(row)
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


@pytest.fixture
def table(tmp_path):
    return write(tmp_path / "scores.csv")


def call(*arguments, code=0):
    done = CliRunner().invoke(layers, [str(a) for a in arguments] + ["--draws", "500"])
    assert done.exit_code == code, done.output
    return done


@real
def test_the_published_410m_in_words():
    done = call(PUBLISHED, "--model", "410m@main")
    first, *_ = done.stdout.splitlines()
    assert first == ("Layer 19 of 24 is best: 0.5308 on average over 16 tasks; last 0.4757; middle (layer 12) 0.5051.")
    assert "Gap to last +.0551 [+.0" in done.stdout and "in-sample; +.05" in done.stdout
    assert "layers that cannot be told from it at 95%: 17, 18." in done.stdout
    for part in ("## overall", "## by type", "## by task"):
        assert part in done.stdout
    assert "the number of blocks of 410m is not recorded" in done.stderr
    assert "500 resamples of tasks, seed 0; gaps are in-sample" in done.stderr


@real
def test_all_published_models_in_one_report():
    done = call(PUBLISHED)
    assert done.stdout.startswith("Best of all 377: 410m@step64000, layer 19: 0.5374 on average over 16 tasks, P(best)")
    assert [line[3:] for line in done.stdout.splitlines() if line.startswith("## ")] == [
        "Models", "Layers of all models", "By depth", "Best layer by type",
    ]  # fmt: skip
    assert "| 19: 0.6112 |" in done.stdout


@pytest.mark.parametrize(
    "by, rows, column",
    [("overall", 5, "borda"), ("type", 2, "type"), ("task", 8, "rho_others"), ("depth", 1, "depth_50"),
     ("model", 1, "gap_last_out_of_sample"), ("arm", 5, "behind_upper")],
)  # fmt: skip
def test_csv_and_json_are_exactly_the_table(table, by, rows, column):
    text = call(table, "--by", by, "--format", "csv").stdout
    made = list(csv.DictReader(io.StringIO(text)))
    again = json.loads(call(table, "--by", by, "--format", "json").stdout)
    assert len(made) == len(again) == rows
    assert list(made[0]) == list(again[0])
    assert float(made[-1][column]) == again[-1][column] if column != "type" else made[-1][column] == "B"
    assert call(table, "--by", by, "--format", "latex").stdout.startswith(r"\begin{tabular}")
    assert call(table, "--by", by).stdout.startswith("| ")


def test_csv_alone_is_the_overall_table(table):
    assert call(table, "--format", "csv").stdout == call(table, "--format", "csv", "--by", "overall").stdout


def test_top_and_seed(table):
    assert len(call(table, "--by", "overall", "--top", 2).stdout.splitlines()) == 4
    one, two = (call(table, "--seed", s, "--by", "overall", "--format", "csv").stdout for s in (1, 2))
    assert one == call(table, "--seed", 1, "--by", "overall", "--format", "csv").stdout != two


def test_confidence_widens_the_interval(table):
    def width(level):
        row = json.loads(call(table, "--by", "model", "--format", "json", "--confidence", level).stdout)[0]
        return row["gap_last_upper"] - row["gap_last_lower"]

    assert width(0.99) > width(0.8) > 0


def test_stratified_resamples_are_said(table):
    assert "resamples of tasks within types" in call(table, "--stratify").stderr


def test_one_task_says_why_there_is_no_interval(table):
    done = call(table, "--task", "T3")
    assert "One task says nothing about others: no P(best)" in done.stdout


def test_few_tasks_tell_no_layers_apart(table):
    done = call(table, "--type", "A")
    assert "4 tasks are too few to say which layers can be told apart" in done.stdout
    assert "intervals over fewer than 6 tasks are too narrow" in done.stderr
    assert {row["told_apart"] for row in json.loads(call(table, "--type", "A", "--format", "json").stdout)} == {None}


def test_one_layer_is_called_the_only_one(tmp_path):
    done = call(write(tmp_path / "s.csv", scores=SCORES[:1]))
    assert "It is the only layer that was evaluated." in done.stdout
    assert "the last layer was not evaluated" in done.stdout


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_the_export_is_read_again_alike(table, tmp_path, suffix):
    file = tmp_path / f"new/long.{suffix}"
    done = call(table, "--export", file, "--type", "A")
    assert f"wrote {file}: 20 scores" in done.stderr
    assert call(file, "--by", "overall").stdout == call(table, "--by", "overall", "--type", "A").stdout


def test_a_figure(table, tmp_path):
    done = call(table, "--plot", tmp_path / "a.svg", "--per-type", "--by", "model")
    assert "wrote" in done.stderr
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")


def test_two_models_are_compared_and_reported_in_full(tmp_path):
    done = call(write(tmp_path / "s.csv", ("a", "b")))
    assert done.stdout.startswith("Best of all 10: b, layer ")
    assert "## a: overall" in done.stdout and "## b: by task" in done.stdout


def test_models_without_a_common_task_are_reported_apart(tmp_path):
    other = pd.read_csv(write(tmp_path / "b.csv", ("b",))).assign(task=lambda f: "U" + f["task"])
    both = pd.concat([pd.read_csv(write(tmp_path / "a.csv", ("a",))), other])
    both.to_csv(tmp_path / "both.csv", index=False)
    done = call(tmp_path / "both.csv")
    assert "## Models" in done.stdout and "## Layers of all models" not in done.stdout
    assert "no task in common" in done.stderr
    assert "no task is common" in call(tmp_path / "both.csv", "--by", "arm", code=1).stderr


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--model", "gpt"], "--model gpt matches nothing; there are m@r"),
        (["--type", "STS"], "--type STS matches nothing; there are A, B"),
        (["--task", "T1", "--type", "A"], "no score matches --model, --task and --type together"),
        (["--plot", "a.bmp"], "--plot a.bmp: the ending must be .png or .svg or .pdf"),
        (["--export", "a.xls"], "--export a.xls: the ending must be .csv or .parquet"),
    ],
)
def test_what_cannot_be_is_one_line(table, arguments, message):
    done = call(table, *arguments, code=1)
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not done.stdout


def test_bad_paths_are_one_line(tmp_path):
    assert "nowhere does not exist" in call(tmp_path / "nowhere", code=1).stderr
    assert "holds no MTEB result" in call(tmp_path, code=1).stderr
    (tmp_path / "s.csv").write_text("model,layer,task,main_score,type\nm,,T,.5,A\n")
    assert "none of the 1 scores is of a layer" in call(tmp_path / "s.csv", code=1).stderr


def test_items_are_resampled_where_predictions_exist(tmp_path, monkeypatch):
    for k, row in enumerate(SCORES):
        folder = tmp_path / f"out/results/layer-wrapper__m/r/experiments/layer_{k}"
        folder.mkdir(parents=True)
        meta = {"name": "layer-wrapper/m", "revision": "r", "experiment_kwargs": {"layer": k}}
        (folder / "model_meta.json").write_text(json.dumps(meta | {"loader_kwargs": {"blocks": 4}}))
        for task, score in zip(("STS12", "STS13", "STS14"), row):
            scores = {"test": [{"hf_subset": "default", "languages": ["eng-Latn"], "main_score": score}]}
            (folder / f"{task}.json").write_text(json.dumps({"task_name": task, "scores": scores}))
    (tmp_path / "out/predictions").mkdir()
    arms = [("layer-wrapper__m", "r", f"layer_{k}") for k in (4, 3, 2, 1, 0)]
    asked = []

    def resampled(folder, draws, seed):
        asked.append((folder, draws, seed))
        return {"STS12": (arms, np.tile([0.1, 0.2, 0.9, 0.1, 0.1], (7, 1)))}

    from mteb_ext import items

    assert list(inspect.signature(items.resampled).parameters) == ["folder", "draws", "seed"]
    monkeypatch.setitem(sys.modules, "mteb_ext.items", types.SimpleNamespace(resampled=resampled))
    for path in (tmp_path / "out", tmp_path / "out/results"):
        done = call(path, "--format", "json", "--seed", 3)
        rows = json.loads(done.stdout)
        assert {row["layer"]: row["p_best_items"] for row in rows} == {0: 0, 1: 0, 2: 1, 3: 0, 4: 0}
        assert "1 task has predictions of all layers" in done.stderr
    assert asked == [(tmp_path / "out", 500, 3)] * 2
    by_task = json.loads(call(tmp_path / "out", "--format", "json", "--by", "task").stdout)
    assert [row["p_best_items"] is None for row in by_task] == [False, True, True]
    assert [row["gap_last_items_lower"] is None for row in by_task] == [False, True, True]
    report = call(tmp_path / "out").stdout
    assert "Items of 1 task drawn again [95% interval over items], in-sample: gap to " in report
    for heading in ("behind best, items", "over last, items", "over middle, items", "P(best), items"):
        assert heading in report
    (model,) = json.loads(call(tmp_path / "out", "--format", "json", "--by", "model").stdout)
    assert model["gap_middle_items_lower"] <= model["gap_middle_items_upper"]


@pytest.mark.parametrize(
    "by, groups",
    [("type", ["A"] * 5 + ["B"] * 5), ("task", [f"T{t}" for t in (0, 2, 4, 6, 1, 3, 5, 7) for _ in "abcde"])],
)
def test_all_layers_are_ranked_within_each_type_or_task(table, by, groups):
    rows = json.loads(call(table, "--by", by, "--all-layers", "--format", "json").stdout)
    assert [row[by] for row in rows] == groups
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5] * (len(rows) // 5)
    of = [0, 2, 4, 6] if by == "type" else [0]
    means = SCORES[:, of].mean(axis=1)
    assert [row["layer"] for row in rows[:5]] == np.argsort(-means).tolist()
    assert [row["mean"] for row in rows[:5]] == pytest.approx(np.sort(means)[::-1])
    ranks = (SCORES[:, of][:, None] > SCORES[:, of][None]).sum(axis=1) / 4
    assert [row["borda"] for row in rows[:5]] == pytest.approx(ranks.mean(axis=1)[np.argsort(-means)])
    assert np.mean([row["z_mean"] for row in rows[:5]]) == pytest.approx(0)
    assert (rows[0]["p_best"] is None) == (by == "task")
    assert (
        len(json.loads(call(table, "--by", by, "--all-layers", "--top", 2, "--format", "json").stdout))
        == len(rows) * 2 / 5
    )
    assert call(table, "--by", by, "--all-layers").stdout.startswith(f"| {by} ")


def test_all_layers_needs_a_type_or_task(table):
    assert "--all-layers goes with --by type or --by task" in call(table, "--all-layers", code=1).stderr


def test_the_best_layers_by_type_say_over_how_many_tasks(tmp_path):
    done = call(write(tmp_path / "s.csv", ("a", "b", "c", "d")))
    assert "| model | A (4) " in done.stdout and " B (4) " in done.stdout


def test_numbers_and_ranges():
    assert (number(0.5), number(-0.05, sign=True), number(float("nan"))) == ("0.5000", "-.0500", "–")
    assert ranges([8, 1, 2, 3, 7]) == "1-3, 7, 8"
    assert ranges([]) == ""


def test_help_has_an_example():
    assert "Example: eval-ext layers sweep-out" in call("--help").stdout
