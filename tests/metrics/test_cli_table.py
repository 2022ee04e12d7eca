"""`eval-ext table` as a user meets it: one store of several tasks, and two models."""

import json

import numpy as np
import pytest
import stores
from commands import ok, refused

from metrics import open_store

TASKS, N = ("t", "u", "v", "w"), 30


def right(task, seed):
    return np.random.default_rng([TASKS.index(task), seed]).random(N) < 0.2 + 0.2 * TASKS.index(task)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Stores `a` and `b` of two models with four tasks each, and lm-eval's files in `out-a` and `out-b`."""
    tmp_path = tmp_path_factory.mktemp("two")
    for name, seed in (("a", 1), ("b", 2)):
        for task in TASKS:
            file = stores.results(tmp_path / f"out-{name}", task, right(task, seed))
        rows = [stores.record(i, task, seed=seed, tokens=3 + i % 3) for task in TASKS for i in range(N)]
        stores.write(tmp_path / name, rows, stores.facts(model=f"org/{name}"), results=[file])
    return tmp_path


def rows(*arguments):
    found = {}
    for row in json.loads(ok("table", *arguments, "--format", "json").stdout):
        found.setdefault(row["table"], []).append(row)
    return found


def test_one_store(two):
    text = ok("table", two / "a").stdout
    assert "### Data sets" in text and "### Does a metric's mean track the score?" in text
    lines = [
        line for line in text.splitlines() if line.startswith(("| t ", "| u ", "| v ", "| w ", "| macro average "))
    ]
    assert len(lines) == 5 and "| model" not in text
    for name in ("sequence_nll", "mean_nll", "mean_entropy", "answer_length", "prompt_length", "random"):
        assert f" AUROC of {name} " in text and f"| {name} " in text


def test_numbers_are_those_of_the_frame(two):
    found = rows(two / "a", "--metrics", "mean_entropy")["Data sets"]
    frame = open_store(two / "a").scores("mean_entropy")
    for task in TASKS:
        part = frame[frame["task"] == task]
        (row,) = [r for r in found if r["task"] == task and r["metric"] == "mean_entropy"]
        assert row["score"] == pytest.approx(right(task, 1).mean()) == pytest.approx(part["label:acc@none"].mean())
        assert row["mean"] == pytest.approx(part["mean_entropy"].mean())
        assert row["n"] == N and row["model"] == "a"


def test_two_models(two):
    found = rows(two / "a", two / "b", "--metrics", "mean_nll")
    assert {row["model"] for row in found["Data sets"]} == {"a", "b"}
    tracked = found["Does a metric's mean track the score?"]
    assert {row["model"] for row in tracked} == {"a", "b", "all, centred by model"}
    assert {row["datasets"] for row in tracked} == {4}
    csv = ok("table", two / "a", two / "b", "--format", "csv").stdout
    assert csv.startswith("table,model,task,verdict,n,score,score_se,metric,")


def test_stores_of_one_model_are_told_apart_by_their_place(two):
    rows_ = [stores.record(i, task) for task in TASKS for i in range(N)]
    stores.write(two / "c", rows_, stores.facts(model="org/a"))
    found = rows(two / "a", two / "c", "--samples", two / "out-a", "--samples", two / "out-b")
    assert {row["model"] for row in found["Data sets"]} == {str(two / "a"), str(two / "c")}
    refused("table", two / "a", two / "a", says="is given twice")


def test_choices(two):
    found = rows(two / "a", "--task", "t", "--task", "u", "--label", "acc", "--filter", "none")
    assert {row["task"] for row in found["Data sets"]} == {"t", "u", "macro average"}
    (note,) = [n for n in found["Does a metric's mean track the score?"][0]["notes"] if "at least 4" in n]
    assert note == "All metrics: 2 data sets; a correlation over data sets needs at least 4."
    out = two / "deep" / "table.tex"
    done = ok("table", two / "a", "--format", "latex", "--out", out)
    assert done.stdout == "" and f"wrote {out}" in done.stderr and "\\toprule" in out.read_text()


def test_labels_of_ones_own(two):
    text = "doc_id,task,correct\n" + "".join(f"{i},{task},{i / 100}\n" for task in TASKS for i in range(N))
    (two / "own.csv").write_text(text)
    found = rows(two / "a", "--samples", two / "own.csv")["Data sets"]
    assert {row["statistic"] for row in found if row["task"] == "t"} == {"spearman"}
    found = rows(two / "a", "--samples", two / "own.csv", "--threshold", 0.1)["Data sets"]
    (row,) = [r for r in found if r["task"] == "t" and r["metric"] == "mean_nll"]
    assert row["statistic"] == "auroc" and row["wrong"] == 10


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["a", "b", "--samples", "out-a"], "--samples: 1 for 2 paths; give one for each"),
        (["a", "--task", "x"], "--task, --label and --filter leave nothing"),
        (["a", "--metrics", "mean_nil"], "unknown metric 'mean_nil'. Did you mean 'mean_nll'"),
        (["gone"], "gone does not exist; give lm-eval's --output_path or a store"),
    ],
)
def test_refused(two, monkeypatch, arguments, says):
    monkeypatch.chdir(two)
    refused("table", *arguments, says=says)


def test_predicted_scores(two):
    found = rows(two / "a", two / "b", "--metrics", "mean_nll+mean_entropy", "--predict")
    assert {row["predictor"] for row in found["Do metrics' means predict the score?"]} >= {"ridge over all 2"}
    assert len(found["Predicted and actual scores"]) == 8
    text = ok("table", two / "a", "--predict", "--task", "t").stdout
    assert "Nothing is predicted: 1 to leave out" in text
