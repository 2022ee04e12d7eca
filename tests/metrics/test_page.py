import numpy as np
import pandas as pd
import pytest
import stores
import torch

from metrics.choosing import choose
from metrics.explain import shade
from metrics.page import make_page, more_uncertain, texts_of
from metrics.store import open_store

AXES = {
    "entropy": ["token"],
    "logprob": ["token"],
    "lens": ["layer", "token"],
    "norm": ["layer", "step"],
    "heads": ["layer", "head", "step"],
    "received": ["layer", "key"],
    "mean": ["layer", "dim"],
    "top_logprobs": ["token", "top=20"],
    "top_tokens": ["token", "top=20"],
}


def signals(n=4):
    """Of a prompt of three tokens, layers 0 and 3; attention has none of layer 0."""
    return {
        "tokens": torch.arange(n, dtype=torch.int32),
        "prompt_tokens": torch.arange(3, dtype=torch.int32),
        "entropy": torch.arange(float(n)),
        "logprob": -torch.arange(float(n)),
        "lens": torch.arange(2.0 * n).reshape(2, n),
        "norm": torch.arange(2.0 * (n + 1)).reshape(2, n + 1),
        "heads": torch.stack([torch.zeros(n + 1), torch.arange(n + 1.0)])[None],
        "received": torch.arange(3.0 + n)[None],
        "mean": torch.zeros(2, 5),
        "top_logprobs": torch.full((n, 20), -3.0),
        "top_tokens": torch.arange(20, dtype=torch.int32).repeat(n, 1),
    }


@pytest.fixture
def store(tmp_path):
    described = {name: {"axes": axes, "unit": "nat", "summary": f"{name}."} for name, axes in AXES.items()}
    facts = {**stores.facts(), "signals": described, "layers": [0, 3]}
    held = [stores.record(i, signals=signals()) for i in range(5)]
    return open_store(stores.write(tmp_path / "s", held, facts))


def first(store, *names):
    return next(store.records(names, [next(iter(store.entries()))]))


def test_each_axis_lands_on_its_tokens(store):
    record = first(store, *AXES)

    def of(name):
        made = shade(store, record, name)
        return made.rows, made.first, made.values.tolist()

    assert of("entropy") == (("",), 3, [[0, 1, 2, 3]])
    assert of("lens") == (("0", "3"), 3, [[0, 1, 2, 3], [4, 5, 6, 7]])
    assert of("norm") == (("0", "3"), 3, [[0, 1, 2, 3], [5, 6, 7, 8]])
    assert of("heads") == (("3",), 3, [[0, 0.5, 1, 1.5]])
    assert of("received") == (("3",), 0, [[0, 1, 2, 3, 4, 5, 6]])
    with pytest.raises(ValueError, match="not one value a token"):
        shade(store, record, "mean")
    with pytest.raises(ValueError, match="record with signals=hidden_norm"):
        shade(store, record, "hidden_norm")


def made(store, frame, *names, metrics="mean_entropy+mean_nll"):
    return make_page(store, next(iter(store.entries())), frame, choose(metrics), names)


def test_a_page_holds_what_was_recorded(store):
    frame = store.scores("mean_entropy+mean_nll")
    page, said = made(store, frame)
    assert {s.name for s in page.shades} == {"entropy", "logprob", "lens", "norm", "heads", "received"}
    assert (
        page.ids == [0, 1, 2, 0, 1, 2, 3] and page.texts[3] == "‹0›" and page.kinds == ["answer"] * 3 + ["generation"]
    )
    assert page.probabilities[0, 0] == pytest.approx(np.exp(-3)) and page.alternatives.shape == (4, 5)
    assert len(said) == 1 and "--tokenizer" in said[0] and said[0] in page.notes
    assert page.scores[0]["score"] == "1" and page.scores[0]["more uncertain than"] == "50% of 4 others"
    assert [s.name for s in made(store, frame, "lens")[0].shades] == ["lens"]
    with pytest.raises(ValueError, match="Did you mean"):
        made(store, frame, "entropi")


@pytest.mark.parametrize(
    ("own", "higher", "share"),
    [(2.0, "uncertain", 0.5), (2.0, "confident", 0.5), (9.0, "uncertain", 1.0), (9.0, "confident", 0.0)],
)
def test_percentiles_count_ties_half(own, higher, share):
    assert more_uncertain(own, np.array([1.0, 2.0, 2.0, 3.0]), higher) == share


def test_percentiles_are_undefined_without_a_direction_a_score_or_others():
    assert np.isnan(more_uncertain(1.0, np.ones(2), "neutral"))
    assert np.isnan(more_uncertain(np.nan, np.ones(2), "uncertain"))
    assert np.isnan(more_uncertain(1.0, np.zeros(0), "uncertain"))


def test_a_store_without_text_shows_squares(tmp_path):
    held = {k: v for k, v in signals().items() if "tokens" not in k}
    facts = {**stores.facts(), "signals": {"entropy": {"axes": ["token"], "unit": "nat"}}, "store_text": False}
    store = open_store(stores.write(tmp_path / "s", [stores.record(0, signals=held, answer=None)], facts))
    texts, why = texts_of(store, first(store, "entropy"))
    assert texts == ["□"] * 7 and "store_text=no" in why
    page, _ = make_page(store, next(iter(store.entries())), pd.DataFrame(store.scores("mean_entropy")), [])
    assert page.ids == [] and page.words == {}


def test_a_damaged_record_is_named(store):
    key, frame = next(iter(store.entries())), store.scores("answer_length")
    for data in (store.path / "shards").glob("*.safetensors"):
        data.write_bytes(bytes(data.stat().st_size))
    with pytest.warns(UserWarning), pytest.raises(OSError, match="damaged shard"):
        make_page(store, key, frame, [])
