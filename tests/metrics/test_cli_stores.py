"""The commands on whole stores as a user meets them."""

import json

import numpy as np
import pytest
import stores
from commands import ok, refused

from metrics.store import open_store


@pytest.fixture
def two(tmp_path):
    """Stores `a` (task t) and `b` (task u), both with result files of lm-eval."""
    right = [i % 3 > 0 for i in range(12)]
    found = []
    for name, task in (("a", "t"), ("b", "u")):
        file = stores.results(tmp_path / f"out-{name}", task, right)
        rows = [stores.record(i, task, seed=len(name)) for i in range(12)]
        found.append(stores.write(tmp_path / name, rows, results=[file]))
    return tmp_path, *found


@pytest.mark.parametrize("command", ["verify", "merge", "prune", "export"])
def test_each_command_shows_an_example(command):
    assert f"Example: eval-ext store {command}" in ok("store", command, "--help").output


def test_verify(two):
    _, a, b = two
    table = json.loads(ok("store", "verify", a, b, "--format", "json").output)
    assert [(row["store"], row["records"], row["problems"]) for row in table] == [(str(a), 12, 0), (str(b), 12, 0)]
    next((b / "shards").glob("*.safetensors")).unlink()
    result = refused("store", "verify", a, b, a / "none", says="problems: 2, in 2 of 3 stores", silent=False)
    assert len([line for line in result.stderr.splitlines() if line.startswith("Problem: ")]) == 2
    assert str(a) in result.stdout and str(b) in result.stdout
    assert "Traceback" not in result.stderr and "Warning" not in result.stderr


def test_merge_then_auroc(two):
    folder, a, b = two
    assert "24 records" in ok("store", "merge", a, b, "--out", folder / "new").output
    tables = ok("auroc", folder / "new", "--metrics", "mean_entropy", "--format", "json").output
    assert {row["table"] for row in json.loads(tables)} >= {"t, acc@none", "u, acc@none"}
    alone = json.loads(ok("auroc", a, "--metrics", "mean_entropy", "--format", "json").output)
    assert [row for row in json.loads(tables) if row["table"] == "t, acc@none"] == alone
    refused("store", "merge", a, b, "--out", folder / "new", says="exists and is not an empty folder; give another")
    refused("store", "merge", a, "--out", folder / "x", says="two stores or more")


def test_merge_says_what_it_replaced_and_left_out(tmp_path):
    some = ("logprob",)
    stores.write(tmp_path / "a", [stores.record(0), stores.record(1)])
    stores.write(tmp_path / "b", [stores.record(0, seed=3, names=some)], stores.facts(names=some))
    args = ("store", "merge", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "new")
    refused(*args, says="differ in signals")
    said = ok(*args, "--common").stderr
    assert "left out: entropy, lens_entropy, scalar, top_tokens" in said
    assert "1 records differ between stores under one key; the later argument's are kept" in said


def test_prune(two):
    folder, a, _ = two
    refused("store", "prune", a, says="nothing is to be left out")
    refused("store", "prune", a, "--no-text", says="give the new store as --out NEW, or --dry-run")
    refused("store", "prune", a, "--signals", "entrpy", "--out", folder / "x", says="Did you mean 'entropy'")
    said = ok("store", "prune", a, "--no-text", "--drop-signals", "lens_entropy", "--out", folder / "x").output
    assert "12 of 12 records" in said and "stays as it is" in said
    new = open_store(folder / "x")
    assert new.manifest["store_text"] is False and "lens_entropy" not in new.manifest["signals"]
    assert {entry["answer"] for entry in new.entries().values()} == {None}
    assert "ä0" not in "".join(p.read_text() for p in (folder / "x" / "shards").glob("*.jsonl"))


def test_a_dry_run_writes_nothing_and_foretells(two):
    folder, a, _ = two
    result = ok("store", "prune", a, "--drop-signals", "top_tokens", "--dry-run", "--format", "json")
    rows = {row["signal"]: row for row in json.loads(result.stdout)}
    assert rows["top_tokens"] == {"signal": "top_tokens", "MB": 12 * 4 * 3 * 4 / 1e6, "MB kept": 0.0}
    assert rows["entropy"]["MB"] == rows["entropy"]["MB kept"] and rows["(record index)"]["MB"] > 0
    assert "about 0.0 MB would be saved" in result.stderr
    assert sorted(p.name for p in folder.iterdir()) == ["a", "b", "out-a", "out-b"]


def test_keep_latest(tmp_path):
    stores.write(tmp_path / "a", [stores.record(0), stores.record(1)])
    stores.write(tmp_path / "a", [stores.record(0, seed=2)], stores.facts("two"), mode="resume")
    ok("store", "prune", tmp_path / "a", "--keep-latest", "--out", tmp_path / "b")
    (row,) = json.loads(ok("store", "verify", tmp_path / "b", "--format", "json").output)
    assert (row["records"], row["superseded"]) == (2, 0)


def test_export(two):
    folder, a, _ = two
    said = ok("store", "export", a, "--out", folder / "x", "--signals", "entropy").output
    assert "12 records, 1 signals, labels: acc@none" in said
    labels = np.load(folder / "x" / "columns" / "label_acc@none.npy")
    assert labels.tolist() == [float(i % 3 > 0) for i in np.load(folder / "x" / "columns" / "doc_id.npy")]
    (folder / "other.csv").write_text("doc_id,correct\n99,1\n")
    refused("store", "export", a, "--out", folder / "y", "--labels", folder / "other.csv", says="no label belongs to")
    refused("store", "export", a, "--out", folder / "y", "--tasks", "tt", says="unknown task 'tt'")
    assert not (folder / "y").exists()
