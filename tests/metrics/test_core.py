import types

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from metrics import core
from metrics.choosing import choose
from metrics.core import Choice, load, metric, metric_cost, metrics, raw, signal, signals
from metrics.naming import unknown, words


@pytest.fixture
def registry(monkeypatch):
    """A copy of the registry, thrown away after the test."""
    load()
    monkeypatch.setattr(core, "_signals", dict(core._signals))
    monkeypatch.setattr(core, "_metrics", dict(core._metrics))


def made_in(module, name, source):
    """A function compiled from source that claims to come from a module."""
    scope = {"__name__": module, "Tensor": Tensor}
    exec(source, scope)
    return scope[name]


# --- names


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("mean_entrop", "unknown metric 'mean_entrop'. Did you mean 'mean_entropy'?"),
        ("standart", "Did you mean 'standard'?"),
        ("min_k(sahre=0.1)", "metric 'min_k': unknown option 'sahre'. Did you mean 'share'?"),
        ("mean_nll(share=0.1)", "metric 'mean_nll': unknown option 'share'. Known: none"),
        ("qqqqqq", "unknown metric 'qqqqqq'. Known: standard, all, "),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(text, says):
    with pytest.raises(ValueError) as error:
        choose(text)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_without_a_near_name_lists_all():
    assert unknown("thing", "zzz", ["alpha", "beta"]) == "unknown thing 'zzz'. Known: alpha, beta"


@pytest.mark.parametrize(
    "text",
    ["min_k(share=0.1", "min_k(share=0.1)x", "min_k(share=0.1))", "min_k((share=0.1))", "min_k(share=0.1+mean_nll"],
)
def test_crooked_brackets_are_refused(text):
    with pytest.raises(ValueError, match="write options as min_k"):
        choose(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("min_k(share=abc)", "type float, not 'abc'"),
        ("min_k(share)", "type float, not ''"),
        ("min_k(share=)", "type float, not ''"),
        ("min_k(share=[1])", "type float"),
        ("random(seed=0.0)", "type int, not '0.0'"),
        ("random(seed=True)", "type int, not 'True'"),
        ("choice_entropy(norm=)", "type str, not ''"),
        ("min_k(share=__import__)", "type float"),
    ],
)
def test_option_values_have_the_type_of_the_default(text, says):
    with pytest.raises(ValueError) as error:
        choose(text)
    assert says in str(error.value)


def test_an_integer_will_do_for_a_float():
    (one,) = choose("min_k(share=1)")
    assert type(one.options["share"]) is float
    assert one.id == "min_k(share=1.0)"


# --- ids


def test_the_id_names_only_what_differs_from_the_default():
    assert [c.id for c in choose("min_k(share=0.2) deepconf_bottom( share = 0.5 , window=8 ) choice_entropy()")] == [
        "min_k",
        "deepconf_bottom(share=0.5,window=8)",
        "choice_entropy",
    ]


def test_every_id_of_the_catalogue_round_trips():
    for one in choose("all"):
        (again,) = choose(one.id)
        assert (again.id, again.options, again.metric.name) == (one.id, one.options, one.metric.name)


@given(
    st.floats(1e-12, 1, exclude_min=True),
    st.integers(1, 10**9),
    st.integers(-(10**9), 10**9),
    st.sampled_from(["none", "tokens", "bytes"]),
)
def test_ids_with_options_round_trip(share, window, seed, norm):
    known = metrics()
    made = [
        Choice(known["deepconf_bottom"], {"share": share, "window": window}),
        Choice(known["random"], {"seed": seed}),
        Choice(known["choice_margin"], {"norm": norm}),
    ]
    again = choose("+".join(c.id for c in made))
    assert [c.id for c in again] == [c.id for c in made]
    assert [dict(c.options) for c in again] == [dict(c.options) for c in made]


def test_repeats_are_dropped_and_order_is_kept():
    assert [c.id for c in choose(["perplexity", "mean_nll+perplexity", "min_k,min_k(share=0.20)"])] == [
        "perplexity",
        "mean_nll",
        "min_k",
    ]
    assert choose("") == choose([]) == []


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a", ["a"]),
        ("a+b,c d\te\nf", ["a", "b", "c", "d", "e", "f"]),
        ("a(k=1,l=2)+b", ["a(k=1,l=2)", "b"]),
        ("a(k=1 + 2, l=x y),b", ["a(k=1 + 2, l=x y)", "b"]),
        (" ,+a++,b ", ["a", "b"]),
        (["a+b", "c(k=1,l=2)"], ["a", "b", "c(k=1,l=2)"]),
        (("a", ["b", ["c"]][0]), ["a", "b"]),
        ("", []),
        ([], []),
    ],
)
def test_words(text, parts):
    assert words(text) == parts


def test_a_choice_calls_the_metric_with_its_options():
    values = {"logprob": torch.tensor([-4.0, -1.0, -2.0, -3.0]), "unused": None}
    (half,) = choose("min_k(share=0.5)")
    assert half(values).item() == -3.5


# --- presets and costs


def test_presets_are_queries_over_cost():
    known = metrics()
    standard, everything = choose("standard"), choose("all")
    dear = {name for name, made in known.items() if metric_cost(made) in ("influence", "passes", "samples")}
    assert {c.metric.name for c in everything} == set(known) - dear
    cheap = {name for name, made in known.items() if metric_cost(made) in ("free", "logits")}
    assert {c.metric.name for c in standard} == cheap
    assert {"mean_nll", "answer_length", "choice_margin"} <= cheap
    assert {c.id for c in standard} <= {c.id for c in everything}
    assert {"deepconf_tail", "deepconf_tail(tokens=16)", "choice_entropy(norm=bytes)"} <= {c.id for c in standard}


def test_the_cost_of_a_derived_signal_is_its_dearest_need(registry):
    known = signals()
    costs = {n: known[n].cost for n in ("tokens", "logits", "logprob", "rank", "hidden_norm", "attention_diagonal")}
    assert list(costs.values()) == ["free", "logits", "logits", "logits", "hidden", "attention"]

    @signal(axes=("token",), unit="1")
    def mixture(entropy: Tensor, hidden_mean: Tensor) -> Tensor:
        """Two costs."""

    @metric(higher="neutral", unit="1", source="folklore")
    def uses_mixture(mixture: Tensor, token_count: Tensor) -> Tensor:
        """One of hidden cost."""

    @metric(higher="neutral", unit="1", source="folklore")
    def needs_nothing(*, value: float = 1.0) -> Tensor:
        """No signal at all."""

    assert signals()["mixture"].cost == "hidden"
    assert metric_cost(metrics()["uses_mixture"]) == "hidden"
    assert metric_cost(metrics()["needs_nothing"]) == "free"
    assert "uses_mixture" not in {c.id for c in choose("standard")}
    assert "needs_nothing" in {c.id for c in choose("standard")}


def test_a_signal_without_needs_is_free(registry):
    @signal(axes=(), unit="1")
    def constant() -> Tensor:
        """One."""

    assert signals()["constant"].cost == "free"


def test_the_family_is_the_module():
    known = metrics()
    assert {known[n].family for n in ("mean_nll", "min_k")} == {"likelihood"}
    assert known["choice_entropy"].family == "choices"


# --- declarations


def test_a_need_that_is_no_signal_fails_at_load(registry):
    @metric(higher="uncertain", unit="nat", source="folklore")
    def lost(entropi: Tensor) -> Tensor:
        """Needs what nobody makes."""

    with pytest.raises(ValueError, match=r"metric 'lost': unknown signal 'entropi'\. Did you mean 'entropy'"):
        metrics()
    del core._metrics["lost"]

    @signal(axes=("token",), unit="nat")
    def lost_too(logit: Tensor) -> Tensor:
        """Needs what nobody records."""

    with pytest.raises(ValueError, match=r"signal 'lost_too': unknown signal 'logit'\. Did you mean 'logits'"):
        signals()


def test_a_metric_cannot_need_what_is_never_stored(registry):
    @metric(higher="uncertain", unit="1", source="folklore")
    def unstorable(probabilities: Tensor) -> Tensor:
        """Could be scored on the fly only."""

    with pytest.raises(ValueError, match="metric 'unstorable' needs 'probabilities', an intermediate"):
        metrics()


def test_two_metrics_of_one_name_are_refused_with_both_modules(registry):
    double = made_in("elsewhere.again", "mean_nll", 'def mean_nll(logprob: Tensor) -> Tensor:\n    "Again."')
    with pytest.raises(ValueError) as error:
        metric(higher="uncertain", unit="nat", source="folklore")(double)
    assert "metric 'mean_nll'" in str(error.value)
    assert "metrics.uncertainty.likelihood" in str(error.value)
    assert "elsewhere.again" in str(error.value)


def test_two_signals_of_one_name_are_refused_with_both_modules(registry):
    double = made_in("elsewhere.again", "entropy", 'def entropy(logits: Tensor) -> Tensor:\n    "Again."')
    with pytest.raises(ValueError, match=r"signal 'entropy'.*metrics\.signals\.logits.*elsewhere\.again"):
        signal(axes=("token",), unit="nat")(double)
    assert signals()["entropy"].compute.__module__ == "metrics.signals.logits"


def test_a_derived_signal_cannot_take_the_name_of_a_raw_one(registry):
    double = made_in("elsewhere.again", "tokens", 'def tokens(logits: Tensor) -> Tensor:\n    "Greedy."')
    with pytest.raises(ValueError, match=r"signal 'tokens' is raw and derived in elsewhere\.again"):
        signal(axes=("token",), unit="id")(double)
    with pytest.raises(ValueError, match=r"signal 'entropy' is raw and derived in metrics\.signals\.logits"):
        raw("entropy", axes=("token",), unit="nat", cost="free", summary="Not recorded.")
    with pytest.raises(ValueError, match="signal 'tokens' is raw and declared raw once more"):
        raw("tokens", axes=("token",), unit="id", cost="free", summary="Otherwise.")


def test_a_module_may_be_imported_again(registry):
    again = made_in("metrics.signals.logits", "entropy", 'def entropy(logits: Tensor) -> Tensor:\n    "Again."')
    signal(axes=("token",), unit="nat")(again)
    assert signals()["entropy"].compute is again
    known = signals()["tokens"]
    assert raw("tokens", axes=known.axes, unit=known.unit, cost="free", summary=known.summary, dtype="int32") == known


@pytest.mark.parametrize(
    ("signature", "says"),
    [
        ("(entropy=1)", "parameter 'entropy' must be a signal"),
        ("(*entropies)", "parameter 'entropies' must be a signal"),
        ("(entropy, **options)", "parameter 'options' must be a signal"),
        ("(entropy, /)", "parameter 'entropy' must be a signal"),
        ("(entropy, *, share)", "option 'share' has no default"),
    ],
)
@pytest.mark.parametrize("kind", ["metric", "signal"])
def test_crooked_signatures_are_refused(registry, kind, signature, says):
    function = made_in("elsewhere", "crooked", f'def crooked{signature}:\n    "A docstring."')
    declare = (
        metric(higher="neutral", unit="1", source="folklore") if kind == "metric" else signal(axes=("token",), unit="1")
    )
    with pytest.raises(TypeError) as error:
        declare(function)
    assert f"{kind} 'crooked'" in str(error.value)
    assert says in str(error.value)
    assert "crooked" not in {**core._metrics, **core._signals}


def test_a_docstring_is_compulsory(registry):
    silent = made_in("elsewhere", "silent", "def silent(entropy): pass")
    with pytest.raises(TypeError, match="'silent' has no docstring"):
        metric(higher="neutral", unit="1", source="folklore")(silent)


def test_the_summary_is_the_first_paragraph(registry):
    source = 'def spoken(entropy):\n    """One line\n    and a half.\n\n    More.\n    """'
    metric(higher="neutral", unit="1", source="folklore")(made_in("elsewhere", "spoken", source))
    assert metrics()["spoken"].summary == "One line and a half."


def test_the_decorators_give_back_the_function(registry):
    function = made_in("elsewhere", "plain", 'def plain(entropy, *, share=0.5):\n    "Plain."')
    assert isinstance(function, types.FunctionType)
    assert metric(higher="neutral", unit="1", source="folklore", variants=[{"share": 0.1}])(function) is function
    known = metrics()["plain"]
    assert (known.needs, dict(known.options), known.variants) == (("entropy",), {"share": 0.5}, ({"share": 0.1},))
    assert [c.id for c in choose("standard") if c.metric.name == "plain"] == ["plain", "plain(share=0.1)"]
