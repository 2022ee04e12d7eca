"""The grammar of composites, and that the plain ones are the metrics everybody knows."""

import pickle

import pytest
import torch

from metrics.choosing import choose
from metrics.core import signals
from metrics.plan import make_plan
from metrics.tokenwise.values import DIRECTIONS, token_metrics
from metrics.tokenwise.weights import weightings

KNOWN = [
    ("entropy:mean", "mean_entropy"),
    ("entropy:max", "max_entropy"),
    ("entropy:first", "first_token_entropy"),
    ("entropy:top_share(share=0.05)", "top_share_entropy"),
    ("varentropy:mean", "mean_varentropy"),
    ("nll:mean", "mean_nll"),
    ("nll:sum", "sequence_nll"),
    ("probability:min", "min_probability"),
    ("logprob:bottom_share(share=0.2)", "min_k"),
    ("z_logprob:bottom_share(share=0.2)", "min_k_plus_plus"),
    ("margin:mean", "margin"),
    ("certainty:mean", "self_certainty"),
    ("renyi:mean", "renyi"),
    ("boosted_probability:mean", "boosted_prob"),
    ("confidence:mean", "deepconf_mean"),
    ("confidence:tail(tokens=16)", "deepconf_tail(tokens=16)"),
    ("confidence:lowest_window(window=16)", "deepconf_lowest_window(window=16)"),
    ("confidence:bottom_windows(window=16)", "deepconf_bottom(window=16)"),
    ("confidence:bottom_windows(window=2048)", "deepconf_bottom"),
]


def signals_of(tokens, seed=0):
    made = torch.Generator().manual_seed(seed)
    logits = torch.randn(tokens, 50, generator=made) * 2
    everything = {"logits": logits, "tokens": torch.randint(0, 50, (tokens,), generator=made)}
    from metrics.plan import derive

    everything |= derive(make_plan("standard").stage("logits"), everything)
    return everything | {"token_count": torch.tensor(tokens)}


@pytest.mark.parametrize(("word", "name"), KNOWN)
@pytest.mark.parametrize("tokens", [1, 2, 15, 37])
def test_composites_equal_the_metrics_of_that_definition(word, name, tokens):
    (composite,), (plain,) = choose(word), choose(name)
    available = signals_of(tokens, seed=tokens)
    torch.testing.assert_close(composite(available), plain(available), rtol=1e-5, atol=1e-6)
    assert composite.metric.higher == plain.metric.higher
    assert composite.metric.unit == plain.metric.unit or name == "margin"


def test_ids_leave_defaults_out_and_round_trip():
    words = (
        "entropy:mean@uniform nll:quantile(q=0.9) nll:quantile(q=0.5)@entropy hidden_norm(layer=3):max@improbability"
    )
    ids = [c.id for c in choose(words)]
    assert ids == [
        "entropy:mean", "nll:quantile", "nll:quantile(q=0.5)@entropy", "hidden_norm(layer=3):max@improbability"
    ]  # fmt: skip
    assert [c.id for c in choose("+".join(ids))] == ids
    assert [c.id for c in choose("hidden_norm(layer=-1):max")] == ["hidden_norm:max"]


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("entropy:", "write TOKEN_METRIC:POOLING@WEIGHTING"),
        (":mean", "write TOKEN_METRIC"),
        ("entropy:mean@", "write TOKEN_METRIC"),
        ("a:b:c", "write TOKEN_METRIC"),
        ("entropi:mean", "unknown token metric 'entropi'. Did you mean 'entropy'?"),
        ("entropy:meen", "unknown pooling 'meen'. Did you mean 'mean'?"),
        ("entropy:mean@uniformly", "unknown weighting 'uniformly'. Did you mean 'uniform'?"),
        ("entropy:mean(q=1)", "pooling 'mean': unknown option 'q'"),
        ("entropy:tail(tokens=x)", "pooling 'tail': option 'tokens' takes a value of type int, not 'x'"),
        ("entropy(layer=1):mean", "token metric 'entropy': unknown option 'layer'"),
        ("entropy:quantile(q=2)", "q=2.0 is outside"),
        ("tokens:mean", "unknown token metric 'tokens'"),
    ],
)
def test_crooked_composites_are_answered_in_one_line(word, says):
    with pytest.raises(ValueError) as error:
        choose(word)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_plan_keeps_what_a_composite_needs():
    plan = make_plan("entropy:mean@improbability+hidden_norm(layer=1):max")
    assert plan.keep == ("entropy", "logprob", "hidden_norm")
    assert plan.metrics == ("entropy:mean@improbability", "hidden_norm(layer=1):max")


def test_directions_and_units():
    metrics = {
        c.id: c.metric for c in choose("probability:mean probability:std probability:sum hidden_norm:std nll:std")
    }
    assert {name: made.higher for name, made in metrics.items()} == {
        "probability:mean": "confident", "probability:std": "uncertain", "probability:sum": "confident",
        "hidden_norm:std": "neutral", "nll:std": "uncertain",
    }  # fmt: skip
    units = [made.unit for made in metrics.values()]
    assert units == ["probability", "1", "1", "1", "nat"]


def test_signals_of_one_number_a_token_are_token_metrics():
    known, found = signals(), token_metrics()
    assert {"entropy", "rank", "hidden_norm", "log_vocabulary"} <= set(found)
    assert not {"tokens", "top_tokens", "hidden_mean", "attention_diagonal", "shifted_logits"} & set(found)
    assert all(found[name].higher == way for name, way in DIRECTIONS.items() if name in found)
    assert {n for n in DIRECTIONS if not n.startswith("lens_")} <= set(known)
    assert {"uniform", "entropy", "improbability"} <= set(weightings())


def test_layers_are_rows_and_steps_those_that_produced_the_tokens():
    norms = torch.arange(8.0).reshape(2, 4)
    available = {"hidden_norm": norms, "token_count": torch.tensor(3)}
    first, last = choose("hidden_norm(layer=0):sum+hidden_norm:sum")
    assert (float(first(available)), float(last(available))) == (0 + 1 + 2, 4 + 5 + 6)


def test_an_undefined_rank_is_no_number():
    available = {"rank": torch.tensor([0, -1, 2], dtype=torch.int32), "token_count": torch.tensor(3)}
    mean, first = choose("rank:mean+rank:first")
    assert mean(available).isnan() and float(first(available)) == 0


def test_composites_can_be_sent_to_other_processes():
    for choice in choose("entropy:mean@improbability+hidden_norm:max+z_logprob:top_windows"):
        again = pickle.loads(pickle.dumps(choice))
        assert again.id == choice.id
        assert again.metric.compute.parts() == choice.metric.compute.parts()
