"""Annexes as files: what `show` says, what `verify` finds, and what goes into another store."""

import pytest
import torch
from annexes import alike, fill, sampled
from commands import ok, refused

from metrics.annex import parts_of, write_clusters
from metrics.annex_keep import annex_lines, verify_annex
from metrics.store import open_store

NLI = "discrete_semantic_entropy(clusters=nli)"


@pytest.fixture
def path(tmp_path):
    made = sampled(tmp_path, [["a", "b"], ["c", "d"]])
    fill(made, "nli", lambda i, k: [alike((0, 1))], part=1)
    fill(made, "relevance", lambda i, k: [torch.ones(4)] * k)
    return made


def flip(path):
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)


def test_show_says_what_the_annex_holds(path):
    shown = ok("show", path).stdout
    assert "annex: nli of 2 documents, 0.0 MB (model m)" in shown
    assert "annex: clusters by nli: equivalence strict, rule components" in shown
    flip(parts_of(path, "nli")[0])
    assert annex_lines(path)[1] == "annex: nli of 1 documents, 0.0 MB (model m); damaged parts: 1"
    (path / "annex" / "clusters.json").write_text("{")
    assert "clusters.json is damaged" in ok("show", path).stdout


def test_verify_names_what_is_damaged_or_left_over(path):
    assert list(verify_annex(path)) == []
    ok("store", "verify", path)
    flip(parts_of(path, "nli")[0])
    (path / "annex" / ".nli-00002.safetensors.tmp").write_bytes(b"x")
    (path / "annex" / "clusters.json").write_text("{}")
    found = list(verify_annex(path))
    assert len(found) == 3 and "cannot be read" in found[0] and "left by an interrupted" in found[1]
    refused("store", "verify", path, says="problems: 3, in 1 of 1 stores", silent=False)


def test_a_pruned_store_keeps_its_annex(path, tmp_path):
    write_clusters(path, {"nli": {"equivalence": "lenient"}})
    flip(parts_of(path, "nli")[0])
    ok("store", "prune", path, "--keep-latest", "--out", tmp_path / "new")
    assert len(parts_of(tmp_path / "new", "nli")) == 1
    assert "equivalence lenient" in annex_lines(tmp_path / "new")[-1]
    assert open_store(tmp_path / "new").scores([NLI]).query("doc_id == 1")[NLI].tolist() == [0.0, 0.0]


def test_where_the_annex_does_not_go(path, tmp_path):
    pruned = ok("store", "prune", path, "--no-text", "--out", tmp_path / "pruned")
    assert "the annex is left out with the texts" in pruned.stderr
    (tmp_path / "second").mkdir()
    other = sampled(tmp_path / "second", [["a", "b"]])
    merged = ok("store", "merge", path, other, "--out", tmp_path / "merged")
    assert "an annex is not merged; run eval-ext samples" in merged.stderr
    exported = ok("store", "export", path, "--out", tmp_path / "arrays")
    assert "the annex is not exported" in exported.stderr
    assert not any((tmp_path / name / "annex").exists() for name in ("pruned", "merged", "arrays"))
