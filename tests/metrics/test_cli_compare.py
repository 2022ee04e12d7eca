"""`eval-ext compare` as a user meets it: two stores, with lm-eval's files or labels of one's own."""

import json

import numpy as np
import pandas as pd
import pytest
import stores
from commands import ok, refused

N = 60


def right(seed):
    return np.random.default_rng(seed).random(N) < 0.6


@pytest.fixture
def two(tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        for task in ("t", "u"):
            file = stores.results(tmp_path / f"out-{name}", task, right(seed))
        rows = [stores.record(i, task, seed=seed, tokens=3 + i % 3) for task in ("t", "u") for i in range(N)]
        stores.write(
            tmp_path / name, rows, stores.facts(dtype="float32" if name == "a" else "bfloat16"), results=[file]
        )
    return tmp_path


def tables(text):
    found = {}
    for row in json.loads(text):
        found.setdefault(row["table"], []).append(row)
    return found


def test_two_stores(two):
    text = ok("compare", two / "a", two / "b", "--metrics", "mean_entropy").output
    assert "They differ in dtype (float32 | bfloat16)." in text
    assert f"t, acc@none: {N} documents in both." in text
    for title in (
        "Accuracy",
        "AUROC: t, acc@none",
        "AUROC: macro average over 2 tasks",
        "Where they part: u, acc@none",
    ):
        assert f"### {title}" in text
    found = tables(ok("compare", two / "a", two / "b", "--format", "json", "--task", "t").output)
    (row,) = found["Accuracy"]
    assert row["only_a"] == int((right(1) & ~right(2)).sum()) and row["only_b"] == int((~right(1) & right(2)).sum())
    assert not any("macro" in title for title in found)
    assert {"metric", "a", "b", "difference", "p_bh", "n"} <= found["AUROC: t, acc@none"][0].keys()
    assert ok("compare", two / "a", two / "b", "--format", "csv").output.startswith("table,task,")
    assert "\\toprule" in ok("compare", two / "a", two / "b", "--format", "latex").output


def test_labels_of_ones_own(two):
    for name, seed in (("a", 3), ("b", 4)):
        lines = [f"{i},t,{int(v)}\n" for i, v in enumerate(right(seed))]
        (two / f"{name}.csv").write_text("doc_id,task,correct\n" + "".join(lines))
    args = ("compare", two / "a", two / "b", "--labels-a", two / "a.csv", "--labels-b", two / "b.csv")
    (row,) = tables(ok(*args, "--format", "json").output)["Accuracy"]
    assert row["verdict"] == "correct@a.csv | correct@b.csv" and row["a"] == right(3).mean()


def test_every_document_is_exported(two):
    ok("compare", two / "a", two / "b", "--metrics", "mean_entropy", "--export", two / "all.csv", "--top", "0")
    frame = pd.read_csv(two / "all.csv")
    assert len(frame) == 2 * N and (frame["label_a"][:N] == right(1)).all()
    assert {"mean_entropy:a", "mean_entropy:b", "answer_b", "doc_hash"} <= set(frame.columns)


def test_multiple_choice_takes_the_option_of_the_verdict(tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        file = stores.results(tmp_path / f"out-{name}", "mc", right(seed), metric="acc_norm")
        more = {"kind": "loglikelihood", "siblings": 2}
        rows = []
        for i in range(N):
            # option 0 is likelier, option 1 likelier a character
            rows.append(stores.record(i, "mc", request=0, answer=[-2.0, True], chars=2, seed=seed, **more))
            rows.append(stores.record(i, "mc", request=1, answer=[-4.0, False], chars=11, seed=seed, **more))
        stores.write(tmp_path / name, rows, results=[file], shard_records=100)
    ok("compare", tmp_path / "a", tmp_path / "b", "--metrics", "mean_entropy", "--export", tmp_path / "x.jsonl")
    frame = pd.read_json(tmp_path / "x.jsonl", lines=True)
    assert set(frame["answer_a"]) == {"option 1"} and len(frame) == N


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--by", "standard"), "--by standard: that is"),
        (("--metrics", "entropi"), "unknown metric 'entropi'"),
        (("--export", "x.txt"), "--export x.txt: the ending must be"),
        (("--task", "v"), "--task, --label and --filter leave nothing of A, which has t, acc@none; u, acc@none"),
        (("--scores", "mine.csv"), "--scores mine.csv: one file cannot be of both A and B"),
        (("--labels-b", "nowhere"), "nowhere does not exist"),
    ],
)
def test_bad_input_is_one_line(two, more, says):
    refused("compare", two / "a", two / "b", *more, says=says)


def test_nothing_in_common(two):
    file = stores.results(two / "out-c", "v", right(1))
    stores.write(two / "c", [stores.record(i, "v") for i in range(N)], results=[file], shard_records=200)
    refused("compare", two / "a", two / "c", says="have no task in common with labels in both: t: not recorded in B")
    stores.write(two / "d", [stores.record(0)])
    refused("compare", two / "a", two / "d", says="pass --labels-b OUT")


def test_no_common_document(two):
    file = stores.results(two / "out-e", "t", right(1), of="x{i}")
    rows = [stores.record(i, "t", doc_hash=f"x{i}") for i in range(N)]
    stores.write(two / "e", rows, results=[file], shard_records=200)
    text = ok("compare", two / "a", two / "e").output
    assert f"t, acc@none: 0 documents in both; {N} only in A (another document has its number in B)" in text
    assert "No document was judged in both stores." in text and "Traceback" not in text
