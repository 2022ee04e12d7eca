"""Scores from files beside ours: read, joined, tested against, and what cannot be read is refused in one line."""

import json

import pytest
from commands import call, ok, refused
from sklearn.metrics import roc_auc_score
from stores import judged, sampled

from metrics.outside import read_scores

RIGHT = [float(i % 3 > 0) for i in range(30)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return judged(tmp_path_factory.mktemp("outside"), RIGHT)


def scores_file(folder, name="mine.csv", header="doc_id,mine", rows=None):
    path = folder / name
    lines = rows if rows is not None else [f"{i},{(i * 7) % 11}" for i in range(30)]
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def rows_of(result):
    return {row["metric"]: row for row in json.loads(result.stdout)}


def test_a_file_is_a_metric_beside_ours(made, tmp_path):
    store, samples = made
    file = scores_file(tmp_path)
    asked = ("--samples", samples, "--metrics", "mean_entropy", "--scores", file, "--format", "json")
    found = rows_of(ok("auroc", store, *asked, "--against", "mine"))
    oracle = roc_auc_score([1 - r for r in RIGHT], [(i * 7) % 11 for i in range(30)])
    assert found["mine"]["auroc"] == pytest.approx(oracle)
    assert found["mean_entropy"]["delta"] == pytest.approx(found["mean_entropy"]["auroc"] - oracle)


def test_a_column_named_as_one_of_ours_gets_the_files_name(tmp_path):
    (choice,) = read_scores(scores_file(tmp_path, header="doc_id,mean_nll"))
    assert choice.id == "mean_nll@mine"


@pytest.mark.parametrize("name", ["min_k(share=0.1)", "entropy:mean@uniform"])
def test_so_does_one_named_by_an_id(tmp_path, name):
    (choice,) = read_scores(scores_file(tmp_path, header=f"doc_id,{name}"))
    assert choice.id == f"{name}@mine"


def test_what_score_wrote_keeps_its_direction(tmp_path):
    """Natural signs are in the file: a metric that is high where the model is sure ranks as it does itself."""
    store, samples = sampled(tmp_path, RIGHT)
    names = ("--metrics", "mean_nll+self_consistency")
    file = tmp_path / "ours.csv"
    ok("score", store, *names, "--out", file)
    found = rows_of(ok("auroc", store, "--samples", samples, *names, "--scores", file, "--format", "json"))
    assert found["self_consistency"]["auroc"] > 0.7
    for name in ("mean_nll", "self_consistency"):
        assert found[f"{name}@ours"]["auroc"] == pytest.approx(found[name]["auroc"])


def test_reasons_that_score_writes_are_no_scores(tmp_path):
    file = scores_file(tmp_path, header="doc_id,mine,unmapped", rows=["0,1.5,", "1,2.5,the filter found nothing"])
    assert [choice.id for choice in read_scores(file)] == ["mine"]


def test_jsonl_with_several_columns_and_a_document_left_out(made, tmp_path):
    store, samples = made
    file = tmp_path / "probe.jsonl"
    lines = [{"task": "t", "doc_id": i, "sample": 0, "a": i, "b": -i, "label:acc": 1} for i in range(29)]
    file.write_text("\n".join(map(json.dumps, lines)) + "\n")
    found = rows_of(ok("auroc", store, "--samples", samples, "--scores", file, "--format", "json"))
    assert found["a"]["n"] == found["b"]["n"] == 29
    assert found["a"]["unscored"] == 1
    assert found["a"]["auroc"] == pytest.approx(1 - found["b"]["auroc"])
    assert any(f"(no score in {file})" in note for note in found["a"]["notes"])


@pytest.mark.parametrize("command", ["calibration", "threshold", "table", "grid", "plot"])
def test_every_command_with_a_view_takes_it(made, tmp_path, command):
    store, samples = made
    file = scores_file(tmp_path)
    asked = {
        "calibration": (store, "--samples", samples, "--metrics", "mean_entropy"),
        "threshold": (store, "--samples", samples, "--metric", "mine", "--risk", "0.5"),
        "table": (store, "--samples", samples, "--metrics", "mean_entropy"),
        "grid": (store, "--samples", samples, "--metrics", "entropy", "--weightings", "uniform", "--against", "mine"),
        "plot": (store, "roc", "--labels", samples, "--metrics", "mean_entropy", "--out", tmp_path, "--data"),
    }[command]
    result = call(command, *asked, "--scores", file)
    assert result.exit_code == 0, result.output
    written = "".join(f.read_text() for f in tmp_path.glob("*.csv") if f != file)
    assert "mine" in result.output + written


@pytest.mark.parametrize(
    ("header", "rows", "says"),
    [
        ("mine", ["1"], "no column doc_id"),
        ("doc_id,task", ["1,t"], "no column of scores"),
        ("doc_id,mine", ["1,high"], "column mine holds a value that is no number"),
        ("doc_id,mine", ["1,2", "1,3"], "document 1, sample 0 stands there 2 times"),
        ("doc_id,mine", ["first,2"], "doc_id and sample must be whole numbers"),
        ("doc_id,mine", ["0.7,2"], "doc_id and sample must be whole numbers"),
        ("doc_id,mine", ["inf,2"], "doc_id and sample must be whole numbers"),
        ("doc_id,task,mine", ["1,other,2"], "no score of these documents, of t; its tasks: other"),
        ("doc_id,mine", [], "no score of these documents"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(made, tmp_path, header, rows, says):
    store, samples = made
    refused("auroc", store, "--samples", samples, "--scores", scores_file(tmp_path, "x.csv", header, rows), says=says)


def test_a_file_that_is_not_there(made, tmp_path):
    refused("auroc", made[0], "--samples", made[1], "--scores", tmp_path / "gone.csv", says="does not exist")
    refused("auroc", made[0], "--samples", made[1], "--scores", tmp_path / "x.npz", says="must be .csv or .jsonl")


def test_a_column_in_two_files_is_refused(made, tmp_path):
    store, samples = made
    files = [scores_file(tmp_path, name) for name in ("a.csv", "b.csv")]
    asked = [word for file in files for word in ("--scores", file)]
    refused("auroc", store, "--samples", samples, *asked, says="column mine is in another file too")
