"""Parts of an annex: what is written is what is read, damage stays local, and other texts are told from these."""

import json
import random

import pytest
import torch
from annexes import answered

from metrics.annex import CLUSTERS, DamagedPart, Made, Part, digest, parts_of, read_clusters, write_clusters, write_part

FACTS = {"model": "m", "revision": "1"}


def one(doc_id, *values):
    return Made("t", doc_id, tuple((i, f"d{doc_id}{i}") for i in range(2)), values)


def test_what_is_written_is_read(tmp_path):
    matrices = [torch.rand(k, k, 3) for k in (2, 5, 1)]
    path = write_part(tmp_path, "nli", [one(i, m) for i, m in enumerate(matrices)], FACTS, {"torch": "2"})
    part = Part(path)
    assert part.kind == "nli" and part.facts == FACTS
    assert part.documents[1] == ("t", 1, ((0, "d10"), (1, "d11")))
    for i in (2, 0, 1):
        (found,) = part.values(i)
        assert torch.equal(found, matrices[i])
    assert path.name == "nli-00000.safetensors"
    assert write_part(tmp_path, "nli", [one(0, matrices[0])], FACTS).name == "nli-00001.safetensors"
    assert [p.name for p in parts_of(tmp_path, "nli")] == ["nli-00000.safetensors", "nli-00001.safetensors"]


def test_values_by_record_are_ragged(tmp_path):
    rows = [torch.rand(n) for n in (3, 0, 1, 4)]
    part = Part(write_part(tmp_path, "relevance", [one(0, *rows[:2]), one(1, *rows[2:])], FACTS))
    assert [len(v) for v in part.values(0)] == [3, 0]
    assert torch.equal(part.values(1)[1], rows[3])


def test_a_closed_part_opens_again(tmp_path):
    part = Part(write_part(tmp_path, "bertscore", [one(0, torch.ones(2, 2))], FACTS))
    part.check()
    assert part.values(0)[0].sum() == 4


@pytest.mark.parametrize("seed", range(40))
def test_a_flipped_bit_is_noticed(tmp_path, seed):
    made = random.Random(seed)
    path = write_part(tmp_path, "nli", [one(0, torch.rand(2, 2, 3))], FACTS)
    content = bytearray(path.read_bytes())
    content[made.randrange(len(content))] ^= 1 << made.randrange(8)
    whole = Part(path).values(0)[0]
    path.write_bytes(content)
    try:
        part = Part(path)
        same = torch.equal(part.values(0)[0], whole) and part.facts == FACTS
    except DamagedPart as problem:
        assert str(path) in str(problem) and "run eval-ext samples again" in str(problem)
    else:
        assert same  # a space of the header's padding


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff" * 64])
def test_nonsense_is_no_part(tmp_path, content):
    path = tmp_path / "nli-00000.safetensors"
    path.write_bytes(content)
    with pytest.raises(DamagedPart, match="cannot be read"):
        Part(path)


def test_a_newer_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("metrics.annex.SCHEMA", 2)
    path = write_part(tmp_path, "nli", [one(0, torch.rand(2, 2, 3))], FACTS)
    monkeypatch.setattr("metrics.annex.SCHEMA", 1)
    with pytest.raises(DamagedPart, match="newer version"):
        Part(path)


def test_the_digest_tells_answers_documents_and_prompts():
    (plain,) = answered(["a b"])
    entry = plain.entry()
    assert digest({**entry, "answer": " a b\n"}) == digest(entry)
    others = [{"answer": "a  b"}, {"doc_hash": "x"}, {"prompt_hash": "x"}]
    assert len({digest({**entry, **other}) for other in ({}, *others)}) == 4


def test_clusters_are_kept_and_checked(tmp_path):
    assert read_clusters(tmp_path) == CLUSTERS
    wanted = {"embedding": {"threshold": 0.7, "rule": "first"}, "nli": {"equivalence": "lenient", "rule": "components"}}
    write_clusters(tmp_path, wanted)
    assert read_clusters(tmp_path) == wanted
    file = tmp_path / "annex" / "clusters.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "embedding": {"threshold": 0.1}}))
    with pytest.raises(ValueError, match=r"clusters.json is damaged .*delete it"):
        read_clusters(tmp_path)
