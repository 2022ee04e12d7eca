"""The grid's scores against those made one by one, on ragged stores with everything that goes missing."""

import math

import numpy as np
import pytest
import torch

from metrics import core, open_store
from metrics.choosing import choose
from metrics.core import raw
from metrics.grid import grid_score
from metrics.record import Key, Record, Span
from metrics.score import score, units
from metrics.tokenwise import poolings_declared
from metrics.tokenwise.composite import combine
from metrics.writer import Writer

LAYERS = 3


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """40 records of 0 to 9 tokens in shards of 7: ties, a NaN, an infinity, a lacking signal, a lacking span."""
    folder = tmp_path_factory.mktemp("grid") / "store"
    rng = np.random.default_rng(0)
    manifest = {"run_id": "r", "model": "m", "architecture": "A", "dtype": "float32", "device": "cpu", "signals": {}}
    writer = Writer(folder, manifest, shard_records=7)
    for i in range(40):
        n = int(rng.integers(1, 11))
        entropy = torch.tensor(rng.integers(0, 4, n) / 4 if i % 3 else rng.random(n), dtype=torch.float32)
        signals = {
            "entropy": entropy,
            "logprob": -torch.tensor(rng.random(n), dtype=torch.float32),
            "hidden_norm": torch.tensor(rng.random((LAYERS, n + 1)), dtype=torch.float32),
            "rank": torch.tensor(rng.integers(-1 if i == 9 else 0, 5, n), dtype=torch.int32),
        }
        if i == 5:
            signals["entropy"] = torch.full((n,), math.nan)
        if i == 6:
            signals["logprob"][0] = -math.inf
        if i == 7:
            del signals["entropy"]
        if i == 8:
            signals["hidden_norm"][0] = math.nan
        stop = 0 if i == 3 else n - (i % 2 and n > 1)
        spans = {"generation": Span(0, n)} if i == 4 else {"answer": Span(0, int(stop)), "generation": Span(0, n)}
        key = Key("t", i, 0, 0)
        writer.add(Record(key, "generate_until", 9, n, spans, "a", f"p{i}", f"d{i}", f"r{i}", signals=signals))
    writer.close()
    return folder


LAYERED = [f"hidden_norm(layer={layer})" for layer in (0, 2, -1)]


def chosen():
    poolings = [*poolings_declared, "quantile(q=0.5)", "tail(tokens=2)", "lowest_window(window=3)"]
    composites = combine(["entropy", "nll", "rank", *LAYERED], poolings, ["uniform", "entropy", "improbability"])
    return [*composites, *choose("mean_entropy+answer_length+choice_entropy")]


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("span", ["answer", "generation", "thought"])
def test_scores_and_reasons_are_those_made_one_by_one(made, span, jobs, monkeypatch):
    monkeypatch.setattr("metrics.grid.BLOCK", 60)
    monkeypatch.setattr("metrics.grid.BATCH", 9)
    store, metrics = open_store(made), chosen()
    found = units(store.entries())
    slow = score(found, metrics, store.records, span=span)
    fast = grid_score(made, found, metrics, span=span, jobs=jobs)
    for choice in metrics:
        np.testing.assert_allclose(fast.values[choice.id], slow.values[choice.id], rtol=1e-6, atol=1e-7)
        assert fast.unscored[choice.id] == slow.unscored[choice.id], choice.id
    if span == "answer":
        reasons = {reason for counts in fast.unscored.values() for reason in counts}
        assert reasons == {
            "the record has no answer", "empty answer", "signal holds NaN", "signal 'entropy' was not recorded",
            "undefined here", "not multiple choice",
        }  # fmt: skip


def test_a_layer_that_was_not_recorded_is_refused(made):
    metrics = list(combine(["hidden_norm(layer=3)"], ["mean"], ["uniform"]))
    found = units(open_store(made).entries())
    says = r"token metric 'hidden_norm': layer=3, but 3 layers were recorded, 0 to 2"
    with pytest.raises(ValueError, match=says):
        grid_score(made, found, metrics, span="answer", jobs=1)
    with pytest.raises(ValueError, match=says):
        score(found, metrics, open_store(made).records)


def test_an_unknown_span_is_refused(made):
    with pytest.raises(ValueError, match="span='all' is not known"):
        grid_score(made, [], [], span="all", jobs=1)


def test_units_without_a_record_are_counted(made, tmp_path):
    found = units(open_store(made).entries())
    (made_up,) = choose("entropy:mean")
    lost = [*found, type(found[0])(Key("t", 99, 0, 0), "generate_until"), type(found[0])(
        Key("t", 98, 0, 0), "multiple_choice", lacking="an option is not recorded")]  # fmt: skip
    table = grid_score(made, lost, [made_up], span="answer", jobs=1)
    assert table.unscored["entropy:mean"]["record in a damaged shard"] == 1
    assert table.unscored["entropy:mean"]["an option is not recorded"] == 1
    assert np.isnan(table.values["entropy:mean"][-2:]).all()


def test_stored_influences_are_weightings_and_no_token_metrics(monkeypatch):
    core.load()
    monkeypatch.setattr(core, "_signals", dict(core._signals))
    raw("made_up_rollout", axes=("token",), unit="1", cost="influence", summary="Made up.")
    raw("made_up_logprob", axes=("token",), unit="nat", cost="passes", summary="A log-probability.")
    (choice,) = choose("nll:mean@made_up_rollout")
    values = {"logprob": -torch.tensor([1.0, 2.0, 3.0]), "made_up_rollout": torch.tensor([1.0, 0.0, 3.0])}
    assert float(choice(values)) == 2.5
    assert choice.metric.needs == ("logprob", "made_up_rollout")
    assert choose("made_up_logprob:max")[0].metric.higher == "neutral"
    for word, says in (
        ("made_up_rollout:mean", "unknown token metric"),
        ("nll:mean@made_up_logprob", "unknown weighting"),
    ):
        with pytest.raises(ValueError, match=says):
            choose(word)
