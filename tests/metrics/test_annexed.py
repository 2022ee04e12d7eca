"""The annex in scoring: what metrics of samples see of it, and why documents are left out."""

import math
import warnings
from dataclasses import replace

import pytest
import torch
from annexes import alike, answered, fill, sampled
from stores import write

from metrics.annex import Made, parts_of, samples_of, write_clusters, write_part
from metrics.annexed import DAMAGED, PARTLY, STALE, Annexed, annex_of
from metrics.record import Key
from metrics.samples import NoAnnex
from metrics.store import open_store

NLI = "discrete_semantic_entropy(clusters=nli)"
EMBEDDING = "discrete_semantic_entropy(clusters=embedding)"


@pytest.fixture
def path(tmp_path):
    return sampled(tmp_path, [["a", "b", "c", "d"], ["a", "a", "b", "b"]])


def test_clusters_of_nli_by_hand(path):
    fill(path, "nli", lambda i, k: [alike((0, 1), (2,), (3,)) if i == 0 else alike((0,), (1,), (2,), (3,))])
    frame = open_store(path).scores([NLI])
    first = -(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25))
    by_document = frame.groupby("doc_id")[NLI].first().tolist()
    assert by_document == pytest.approx([first, math.log(2)])  # equal texts are one whatever the model says
    assert frame[NLI].notna().all()


def test_clusters_of_embeddings_follow_the_threshold(path):
    angles = [0.0, 0.3, 0.6, 1.5]
    fill(path, "embedding", lambda i, k: [torch.tensor([math.cos(a), math.sin(a)]) for a in angles])

    def score():
        return open_store(path).scores([EMBEDDING]).query("doc_id == 0")[EMBEDDING].iloc[0]

    chained = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert score() == pytest.approx(chained)  # cos 0.3 > 0.9; 0 and 0.6 are joined through it
    write_clusters(path, {"embedding": {"threshold": 0.96, "rule": "components"}})
    assert score() == pytest.approx(math.log(4))
    write_clusters(path, {"embedding": {"threshold": 0.9, "rule": "first"}})
    assert score() == pytest.approx(-(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25)))


def test_token_relevance_is_cut_to_the_tokens(path):
    fill(path, "relevance", lambda i, k: [torch.arange(4.0) + j for j in range(k)])
    annex = annex_of(path, open_store(path).entries())
    assert annex.record(Key("t", 1, 0, 2, "generate_until"))["token_relevance"].tolist() == [2.0, 3.0, 4.0, 5.0]
    assert not annex.record(Key("t", 7, 0, 0, "generate_until"))


def test_relevance_of_other_tokens_is_none(path):
    fill(path, "relevance", lambda i, k: [torch.arange(3.0)] * k)
    assert not annex_of(path, open_store(path).entries()).record(Key("t", 0, 0, 0, "generate_until"))


def test_without_a_folder_there_is_no_annex(path):
    assert isinstance(annex_of(path, {}), NoAnnex)
    assert "eval-ext samples --nli" in next(iter(open_store(path).scores([NLI]).attrs["unscored"][NLI]))


def test_a_document_that_changed_is_stale(tmp_path):
    path = sampled(tmp_path, [["a", "b"], ["c", "d"]])
    fill(path, "nli", lambda i, k: [alike((0, 1))])
    changed = [replace(r, answer="other") for r in answered(["a", "b"], doc_id=0)[1:]]
    write(path, changed, {**open_store(path).manifest, "run_id": "two"}, mode="resume")
    frame = open_store(path).scores([NLI])
    assert frame.attrs["unscored"][NLI] == {STALE: 2}
    assert frame.query("doc_id == 1")[NLI].tolist() == [0.0, 0.0]


def test_a_store_that_grew_is_partly_annexed(tmp_path):
    path = sampled(tmp_path, [["a", "b"], ["c", "d"]])
    fill(path, "nli", lambda i, k: [alike((0, 1))], documents=[0])
    assert open_store(path).scores([NLI]).attrs["unscored"][NLI] == {PARTLY: 2}


def test_damage_stays_local(path):
    fill(path, "nli", lambda i, k: [alike((0, 1), (2, 3))], part=1)
    first, second = parts_of(path, "nli")
    content = bytearray(first.read_bytes())
    content[-20] ^= 1
    first.write_bytes(content)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        frame = open_store(path).scores([NLI])
    assert [str(w.message) for w in said if str(first) in str(w.message)]
    assert frame.attrs["unscored"][NLI] == {DAMAGED: 4}
    assert frame.query("doc_id == 1")[NLI].notna().all()
    first.write_bytes(b"cut")
    with pytest.warns(UserWarning, match="cannot be read"):
        frame = open_store(path).scores([NLI])
    assert frame.attrs["unscored"][NLI] == {DAMAGED: 4}
    second.unlink()


def test_parts_of_two_models_are_refused(path):
    fill(path, "nli", lambda i, k: [alike((0, 1, 2, 3))], documents=[0])
    entries = open_store(path).entries()
    keys = sorted(key for key in entries if key.doc_id == 1)
    write_part(path, "nli", [Made("t", 1, samples_of(keys, entries), (alike((0, 1, 2, 3)),))], {"model": "other"})
    with pytest.raises(ValueError, match=r"was made by other and nli-00000.safetensors by m.*--redo"):
        open_store(path).scores([NLI])


def test_more_parts_than_are_kept_open(tmp_path, monkeypatch):
    monkeypatch.setattr("metrics.annexed.OPEN", 2)
    path = sampled(tmp_path, [["a", "b"]] * 5)
    fill(path, "nli", lambda i, k: [torch.full((2, 2, 3), float(i))], part=1)
    entries = open_store(path).entries()
    annex = Annexed(path, entries)
    for doc_id in (0, 1, 2, 3, 4, 0, 4, 1):
        keys = sorted(key for key in entries if key.doc_id == doc_id)
        assert annex.document(keys)["nli"].unique().tolist() == [doc_id]
    assert len(annex._open) == 2


def test_a_later_part_counts(path):
    fill(path, "nli", lambda i, k: [alike((0, 1, 2, 3))])
    fill(path, "nli", lambda i, k: [alike((0,), (1,), (2,), (3,))], documents=[0])
    frame = open_store(path).scores([NLI])
    assert frame.groupby("doc_id")[NLI].first().tolist() == pytest.approx([math.log(4), 0.0])
