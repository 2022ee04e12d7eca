"""Samples of a document side by side: who is with whom, what is gathered, and why a document is unscored."""

import math
from dataclasses import replace

import pytest
import torch
from stores import record, write

from metrics.choosing import choose
from metrics.core import Choice, Metric, signals
from metrics.record import Span
from metrics.samples import Beside, Documents, clusters, why_lacking
from metrics.score import score, units
from metrics.store import open_store

ENTROPY = choose("discrete_semantic_entropy")[0]


def made(compute, *needs, **options):
    return Choice(Metric(compute.__name__, needs, options, "uncertain", "1", "here", compute, "x"), options)


def joint(sample_log_probability, sample_index):
    """The share of the sample's probability among all."""
    return sample_log_probability.softmax(0)[sample_index]


def samples(doc_id, answers, **more):
    return [of(doc_id, i, text, **more) for i, text in enumerate(answers)]


def of(doc_id, occurrence, text, **more):
    plain = record(doc_id, seed=10 * doc_id + occurrence, **more)
    return replace(plain, key=plain.key._replace(occurrence=occurrence), answer=text, kind="generate_until")


def scored(path, records, *metrics, beside=None, span="answer"):
    write(path, records)
    store = open_store(path)
    entries = store.entries()
    texts = {k: e["answer"] for k, e in entries.items()}
    return score(units(entries), metrics, store.records, span=span, beside=beside or Beside(answers=texts, texts=texts))


def test_discrete_semantic_entropy(tmp_path):
    records = [*samples(0, ["4", "4", "5", "4"]), *samples(1, ["4", "4", "4", "4"]), *samples(2, list("abcd"))]
    table = scored(tmp_path / "s", records[::-1], ENTROPY)
    by_document = {u.key.doc_id: v for u, v in zip(table.units, table.values[ENTROPY.id])}
    hand = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert by_document == {0: pytest.approx(hand), 1: 0.0, 2: pytest.approx(math.log(4))}
    assert len(table.units) == 12


def test_gathered_signals_stand_in_the_order_of_occurrence(tmp_path):
    records = samples(0, ["a", "b", "c"])
    choice = made(joint, "sample_log_probability", "sample_index")
    table = scored(tmp_path / "s", [records[2], records[0], records[1]], choice)
    sums = torch.stack([r.signals["logprob"][slice(*r.spans["answer"])].double().sum() for r in records])
    assert table.values["joint"] == pytest.approx(sums.softmax(0).tolist())


@pytest.mark.parametrize(
    ("records", "reason", "count"),
    [
        (samples(0, ["a"]), "one sample a document; record with repeats", 1),
        ([*samples(0, ["a", "b", "c"]), *samples(1, ["a", "b"])], "only 2 of 3 samples are recorded", 2),
    ],
)
def test_why_a_document_is_unscored(tmp_path, records, reason, count):
    table = scored(tmp_path / "s", records, ENTROPY)
    assert dict(table.unscored[ENTROPY.id]) == {reason: count}


def test_greedy_repeats_are_refused_with_the_reason(tmp_path):
    records = samples(0, ["a", "a"])
    texts = {r.key: r.answer for r in records}
    table = scored(tmp_path / "s", records, ENTROPY, beside=Beside(texts, texts, incomparable={"t": "greedy"}))
    assert dict(table.unscored[ENTROPY.id]) == {"greedy": 2}


def test_an_empty_sample_has_a_text_but_no_probability(tmp_path):
    records = samples(0, ["a", "b"])
    records[1] = replace(records[1], answer="", spans={**records[1].spans, "answer": Span(0, 0)})
    choice = made(joint, "sample_log_probability", "sample_index")
    table = scored(tmp_path / "s", records, ENTROPY, choice)
    assert table.values[ENTROPY.id] == pytest.approx([math.log(2)] * 2)
    assert dict(table.unscored["joint"]) == {"a sample is empty; --span generation counts its end": 2}


def test_without_texts_there_are_no_clusters(tmp_path):
    table = scored(tmp_path / "s", samples(0, ["a", "b"]), ENTROPY, beside=Beside(texts={"x": ""}))
    assert dict(table.unscored[ENTROPY.id]) == {"no text of the answers is stored": 2}


def test_what_a_model_has_to_make_is_named():
    nli = choose("discrete_semantic_entropy(clusters=nli)")[0]
    available = {"token_count": torch.tensor(3), "sample_clusters": torch.full((3, 2), math.nan)}
    assert "eval-ext samples --nli" in why_lacking(nli, available, signals())


def test_a_document_is_let_go_when_it_is_whole():
    records = samples(0, ["a", "b"])
    held = Documents(
        [(r.key, "generate_until") for r in records], [ENTROPY], Beside({r.key: "x" for r in records}), signals()
    )
    assert held.add(0, {"token_count": torch.tensor(1)}) == []
    assert len(held.add(1, {"token_count": torch.tensor(1)})) == 2
    assert not held._come


def test_clusters_are_numbered_in_order_of_appearance():
    assert clusters(["b", "a", "b", "c"]).tolist() == [0, 1, 0, 2]


def test_the_order_of_samples_changes_no_score(tmp_path):
    """Ties by definition are ties to the last digit: eigenvalues and sums of other orders end in other digits."""
    answers = list("aaaaabbbcc")
    metrics = [c for c in choose("sampling") if "answer" in c.options.values() or "jaccard" in c.options.values()]
    by_metric = {choice.id: set() for choice in metrics if "sample_index" not in choice.metric.needs}
    for seed in range(12):
        order = torch.randperm(10, generator=torch.Generator().manual_seed(seed)).tolist()
        records = [replace(of(0, i, answers[j]), signals=of(0, j, "").signals) for i, j in enumerate(order)]
        table = scored(tmp_path / f"s{seed}", records, *metrics)
        for name, found in by_metric.items():
            found.add(table.values[name][0])
    assert len(by_metric) > 8
    assert {name: found for name, found in by_metric.items() if len(found) > 1} == {}


def test_no_rounding_is_left_of_a_zero(tmp_path):
    chosen = choose("eccentricity(affinity=jaccard)+semantic_entropy+discrete_semantic_entropy")
    table = scored(tmp_path / "s", samples(0, ["a"] * 7), *chosen)
    for choice in chosen:
        assert [math.copysign(1, v) * v for v in table.values[choice.id]] == [0.0] * 7
