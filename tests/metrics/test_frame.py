"""Scores and labels side by side."""

import json

import pytest
import torch

from metrics.frame import find_labels
from metrics.record import Key, Record, Span
from metrics.store import open_store
from metrics.writer import Writer


@pytest.fixture
def store(tmp_path):
    """Three documents of free text, two samples each."""
    writer = Writer(tmp_path / "s", {"run_id": "one", "model": "m", "signals": {}})
    for doc in range(3):
        for sample in range(2):
            writer.add(
                Record(
                    key=Key("gen", doc, 0, sample),
                    kind="generate_until",
                    prompt_count=3 + doc,
                    token_count=2,
                    spans={"answer": Span(0, 2), "generation": Span(0, 2)},
                    answer="x",
                    prompt_hash="p",
                    doc_hash=f"h{doc}",
                    request_hash="r",
                    signals={"logprob": torch.tensor([-1.0, -1.0 - doc - 10 * sample])},
                )
            )
    writer.close()
    return open_store(tmp_path / "s")


@pytest.fixture
def results(tmp_path):
    """lm-eval's files for them; document 9 was never asked."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "results_1.json").write_text(json.dumps({"config": {}}))
    rows = [
        {
            "doc_id": d,
            "doc_hash": f"h{d}",
            "filter": "none",
            "metrics": ["acc"],
            "acc": d % 2,
            "doc": {"level": f"L{d}"},
        }
        for d in (0, 1, 2, 9)
    ]
    (folder / "samples_gen_1.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


def test_one_row_a_sample(store):
    frame = store.scores("sequence_nll")
    assert frame[["task", "doc_id", "sample", "option", "kind"]].values.tolist() == [
        ["gen", d, s, 0, "generate_until"] for d in range(3) for s in range(2)
    ]
    assert frame["sequence_nll"].tolist() == [2.0, 12.0, 3.0, 13.0, 4.0, 14.0]
    assert frame.attrs["unscored"] == {}
    assert not [c for c in frame if c.startswith("label:")]


@pytest.mark.parametrize("where", ["", "results_1.json", "samples_gen_1.jsonl"])
def test_labels_go_to_the_first_sample(where, store, results):
    frame = store.scores("sequence_nll", labels=results / where)
    first = frame["sample"] == 0
    assert frame.loc[first, "label:acc@none"].tolist() == [0.0, 1.0, 0.0]
    assert frame.loc[~first, "label:acc@none"].isna().all()
    assert frame["doc:level"].tolist() == ["L0", "L0", "L1", "L1", "L2", "L2"]
    assert sum(frame.attrs["unused_labels"].values()) == 1


def test_the_manifest_points_at_its_labels(store, results):
    assert find_labels(store, None) is None
    store.link(results / "results_1.json", "one")
    assert store.scores("sequence_nll")["label:acc@none"].notna().sum() == 3
    (results / "samples_gen_1.jsonl").unlink()
    with pytest.warns(UserWarning, match="--log_samples"):
        assert "label:acc@none" not in store.scores("sequence_nll")
    (results / "results_1.json").unlink()
    assert "label:acc@none" not in store.scores("sequence_nll")


def test_a_table_of_ones_own(store, tmp_path):
    (tmp_path / "mine.csv").write_text("doc_id,correct\n2,1\n0,0\n")
    frame = store.scores("sequence_nll", labels=tmp_path / "mine.csv")
    labels = frame.loc[frame["sample"] == 0, "label:correct@mine.csv"]
    assert labels.fillna(-1).tolist() == [0.0, -1.0, 1.0]


def test_a_source_that_is_not_there(store, tmp_path):
    with pytest.raises(FileNotFoundError, match="absent does not exist; give lm-eval's output folder"):
        store.scores("sequence_nll", labels=tmp_path / "absent")


def test_missing_signals_are_counted(store):
    frame = store.scores("sequence_nll+mean_entropy")
    assert frame["mean_entropy"].isna().all()
    assert frame.attrs["unscored"] == {"mean_entropy": {"signal 'entropy' was not recorded": 6}}
