"""`calibration` and `threshold` as a user meets them, on a small store with lm-eval's files beside it."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
import torch
from commands import ok, refused

from metrics import open_store
from metrics.record import Key, Record, Span
from metrics.writer import Writer

N, STAMP = 240, "2026-01-02T03-04-05.678901"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store of one task whose answers are the likelier wrong the larger their mean_nll, with labels of two kinds."""
    folder = tmp_path_factory.mktemp("made")
    rng = np.random.default_rng(0)
    manifest = {"run_id": "r1", "model": "toy", "architecture": "Toy", "dtype": "float32", "device": "cpu"}
    writer = Writer(folder / "store", {**manifest, "signals": {"logprob": {}}})
    lines = []
    for i in range(N):
        u = float(rng.random())
        signals = {"logprob": torch.full((3,), -u), "entropy": torch.full((3,), u)}
        spans = {"answer": Span(0, 3), "generation": Span(0, 3)}
        key = Key("gen", i, 0, 0)
        writer.add(Record(key, "generate_until", 9 + i % 3, 3, spans, "4", f"p{i}", f"d{i}", f"r{i}", signals=signals))
        verdict = {
            "metrics": ["exact_match", "f1"],
            "exact_match": float(rng.random() > u**3),
            "f1": float(rng.random()),
        }
        lines.append({"doc_id": i, "doc": {}, "filter": "none", "doc_hash": f"d{i}", **verdict})
    writer.close()
    results = folder / "out" / f"results_{STAMP}.json"
    results.parent.mkdir()
    results.write_text(json.dumps({"config": {"hf_store": {"store": str(folder / "store"), "run_id": "r1"}}}))
    log = results.parent / f"samples_gen_{STAMP}.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    open_store(folder / "store").link(results, "r1")
    return folder


def test_calibration_prints_a_table_and_leaves_graded_labels_out(made):
    done = ok("calibration", made / "out", "--metrics", "mean_nll", "--label", "exact_match")
    assert "### gen, exact_match@none" in done.stdout and "| mean_nll" in done.stdout and "| constant" in done.stdout
    done = ok("calibration", made / "store", "--metrics", "mean_nll", "--method", "platt", "--split", "0.5")
    assert "gen, f1@none: graded" in done.stderr and "judged on the other 120" in done.stdout
    assert done.stdout.count("###") == 1


def test_calibration_writes_whole_numbers_and_figures(made, tmp_path):
    file, figures = tmp_path / "new" / "c.csv", tmp_path / "figures"
    options = ("--metrics", "mean_nll", "--label", "exact_match", "--format", "csv", "--out", file, "--plot", figures)
    ok("calibration", made / "store", *options)
    rows = {row["metric"]: row for row in csv.DictReader(file.open())}
    assert 0 <= float(rows["mean_nll"]["ece_lower"]) <= float(rows["mean_nll"]["ece"])
    assert float(rows["mean_nll"]["brier"]) < float(rows["constant"]["brier"])
    (figure,) = figures.iterdir()
    assert figure.name == "gen_exact_match_none_reliability.png" and figure.read_bytes().startswith(b"\x89PNG")


def test_graded_labels_take_a_threshold(made):
    assert (
        "f1@none >= 0.5"
        in ok("calibration", made / "store", "--metrics", "mean_nll", "--label", "f1", "--threshold", "0.5").stdout
    )
    for command in ("calibration", "threshold"):
        refused(command, made / "store", "--label", "f1", says="gen, f1@none: graded, so no answer is wrong; pass")


def test_threshold_says_when_to_answer(made):
    done = ok("threshold", made / "out", "--label", "exact_match", "--risk", "0.2")
    assert "| mean_nll < " in done.stdout and "Guaranteed with confidence 0.9" in done.stdout
    done = ok("threshold", made / "out", "--label", "exact_match", "--risk", "0.001")
    assert "no threshold reaches risk 0.001 at confidence 0.9 with n = 120" in done.stdout
    rows = json.loads(
        ok("threshold", made / "out", "--guarantee", "expected", "--label", "exact_match", "--format", "json").stdout
    )
    assert rows[0]["guarantee"] == "expected" and rows[0]["higher"] == "uncertain" and rows[0]["test_n"] == 120


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_answers_are_written_and_applied_to_another_store(made, tmp_path, ending):
    other = tmp_path / "other"
    shutil.copytree(made / "store", other)
    file = tmp_path / f"answers.{ending}"
    arguments = ("threshold", made / "store", "--label", "exact_match", "--risk", "0.2", "--answers", file)
    done = ok(*arguments)
    assert f"wrote {file}" in done.stderr

    def read():
        text = file.read_text()
        return (
            list(csv.DictReader(io.StringIO(text))) if ending == "csv" else [json.loads(x) for x in text.splitlines()]
        )

    own = read()
    ok(*arguments, "--apply", other)
    applied = read()
    assert len(own) == len(applied) == N and {row["part"] for row in applied} == {"applied"}
    assert [row["answered"] for row in own] == [row["answered"] for row in applied]
    assert len({str(row["answered"]) for row in own}) == 2


def test_what_is_wrong_is_said_in_one_line(made, tmp_path):
    store = made / "store"
    refused("threshold", store, "--risk", "1.5", says="--risk")
    refused("threshold", store, "--metric", "nope", says="nope")
    refused("threshold", store, "--answers", "a.txt", says="--answers a.txt: the ending must be .csv or .jsonl")
    refused("threshold", store, "--apply", store, says="give --answers FILE")
    refused("threshold", store, "--answers", "a.csv", "--apply", tmp_path, says="not a store")
    refused("calibration", store, "--task", "nope", says="leave nothing")
    refused("calibration", store, "--folds", "1", says="--folds")
    refused("calibration", store, "--folds", "3", "--split", "0.5", says="--folds 3 and --split 0.5")
    refused("calibration", store, "--samples", "a", "--labels", "b", says="one source of right and wrong")


def test_a_store_without_the_task_is_refused(made, tmp_path):
    other = tmp_path / "other"
    writer = Writer(
        other, {"run_id": "r", "model": "m", "architecture": "A", "dtype": "f", "device": "c", "signals": {}}
    )
    spans = {"answer": Span(0, 1), "generation": Span(0, 1)}
    writer.add(
        Record(
            Key("else", 0, 0, 0), "generate_until", 1, 1, spans, "4", "p", "d", "r", signals={"logprob": -torch.ones(1)}
        )
    )
    writer.close()
    arguments = (
        "threshold",
        made / "store",
        "--label",
        "exact_match",
        "--answers",
        tmp_path / "a.csv",
        "--apply",
        other,
    )
    refused(*arguments, says="no record of the task gen, which the threshold is for; it holds else")
