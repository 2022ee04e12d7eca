"""What every metric and every derived signal promises, checked over the whole registry.

A new metric or signal is covered by being there. A new raw signal needs one line in `raw_signals`. What compares
samples of a document is in test_contract_samples.py.
"""

import math
import re
from pathlib import Path

import pytest
import torch

from metrics.choosing import choose
from metrics.core import Choice, metric_cost, metrics, signals
from metrics.plan import BYTES, derive, make_plan

TESTS = Path(__file__).resolve().parents[1]
TESTED = frozenset(
    name for file in TESTS.rglob("test_*.py") for name in re.findall(r"^ *def test_(\w+)\(", file.read_text(), re.M)
)

CHOICES = {c.id: c for c in choose("all")}
METRICS = metrics()
SIGNALS = signals()
DERIVED = {name: s for name, s in SIGNALS.items() if s.compute is not None and not s.gathered}
ORDER = make_plan((), "all").compute
ORDER = (*ORDER, *(n for n in make_plan("all").compute if n not in ORDER))

TENSORS = frozenset(
    n for n, s in SIGNALS.items() if s.compute is None and s.cost in ("logits", "hidden", "lens", "attention")
)
"""Raw tensors, which come in the model's precision."""

SIZES = {"layer": 3, "head": 2, "dim": 8, "vocab": 300, "option": 4}


def raw_signals(tokens=6, prompt=5, vocab=SIZES["vocab"], seed=0):
    """One valid record: every raw signal by name."""
    generator = torch.Generator().manual_seed(seed)
    layers, heads, dim, options = (SIZES[axis] for axis in ("layer", "head", "dim", "option"))
    keys = prompt + tokens
    scores = torch.randn(layers, heads, keys, keys, generator=generator)
    causal = scores.masked_fill(torch.ones(keys, keys).triu(1).bool(), -math.inf).softmax(-1)
    logits = torch.randn(tokens, vocab, generator=generator) * 2
    hidden = torch.randn(layers, tokens + 1, dim, generator=generator)
    lens = torch.randn(layers - 1, tokens, vocab, generator=generator)
    before = torch.cat([torch.full_like(hidden[:1], math.nan), hidden[:-1]])
    return {
        **{
            name: torch.rand([tokens if axis == "token" else SIZES[axis] for axis in made.axes], generator=generator)
            for name, made in SIGNALS.items()
            if made.compute is None and made.cost in ("influence", "passes")
        },
        "logits": logits,
        "hidden": hidden,
        "hidden_before": before,
        "hidden_start": torch.randn(layers, dim, generator=generator),
        "lens_logits": torch.cat([lens, logits[None]]),
        "lens_last_logits": logits.clone(),
        "attention": causal[:, :, prompt - 1 :].contiguous(),
        "attention_columns": causal.sum(-2),
        "attention_self": causal.diagonal(dim1=-2, dim2=-1).contiguous(),
        "tokens": torch.randint(0, vocab, (tokens,), generator=generator, dtype=torch.int32),
        "token_count": torch.tensor(tokens),
        "prompt_count": torch.tensor(prompt),
        "record_id": torch.randint(0, 2**62, (), generator=generator),
        "stated_confidence": torch.rand((), generator=generator),
        "option_loglikelihood": -torch.rand(options, generator=generator) * 20,
        "option_tokens": torch.randint(1, 9, (options,), generator=generator).float(),
        "option_bytes": torch.randint(10, 40, (options,), generator=generator).float(),
    }


def recipe(*names):
    """The derived signals that lead to names, in order."""
    needed, todo = set(), list(names)
    while todo:
        name = todo.pop()
        if name in DERIVED and name not in needed:
            needed.add(name)
            todo += DERIVED[name].needs
    return [name for name in ORDER if name in needed]


def raw_needs(*names):
    """The raw signals that names come from in the end."""
    return {
        need for name in (*names, *recipe(*names)) for need in SIGNALS[name].needs or (name,) if need not in DERIVED
    }


def complete(raw, *names):
    return {**raw, **derive(recipe(*names), raw)}


def score(choice, raw):
    return choice(complete(raw, *choice.metric.needs))


def same(a, b, **tolerance):
    torch.testing.assert_close(a, b, equal_nan=True, **tolerance)


def test_the_example_has_every_raw_signal():
    missing = {name for name, s in SIGNALS.items() if s.compute is None and s.cost != "samples"} - set(raw_signals())
    assert not missing, f"give tests/metrics/test_contract.py an example of {', '.join(sorted(missing))}"
    for name, value in raw_signals().items():
        assert value.dim() == len(SIGNALS[name].axes), name


# --- metrics


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
class TestMetric:
    def test_is_one_finite_number(self, choice):
        for seed in range(3):
            value = score(choice, raw_signals(seed=seed))
            assert isinstance(value, torch.Tensor)
            assert value.shape == ()
            assert value.is_floating_point()
            assert value.isfinite()

    def test_leaves_its_inputs_alone(self, choice):
        available = complete(raw_signals(), *choice.metric.needs)
        before = {name: available[name].clone() for name in choice.metric.needs}
        choice(available)
        for name, value in before.items():
            same(available[name], value, rtol=0, atol=0)

    def test_takes_an_answer_of_one_token(self, choice):
        assert score(choice, raw_signals(tokens=1)).isfinite()
        assert score(choice, raw_signals(tokens=1, prompt=1)).isfinite()

    @pytest.mark.parametrize("vocab", [2, 19, 20, 21, 200])
    def test_takes_a_small_vocabulary(self, choice, vocab):
        assert score(choice, raw_signals(vocab=vocab)).isfinite()

    def test_is_deterministic(self, choice):
        state = torch.get_rng_state()
        first = score(choice, raw_signals())
        torch.manual_seed(1)
        second = score(choice, raw_signals())
        torch.set_rng_state(state)
        assert torch.equal(first, second)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_nearly_single(self, choice, dtype):
        single = raw_signals()
        half = {n: v.to(dtype) if n in TENSORS else v for n, v in single.items()}
        lifted = {n: half[n].float() if n in TENSORS else v for n, v in single.items()}
        value = score(choice, half)
        same(value, score(choice, lifted), rtol=1e-6, atol=1e-6)
        same(value, score(choice, single), rtol=0.02, atol=0.02)

    def test_nan_is_not_hidden(self, choice):
        """One value that is not a number, in the first token or anywhere else a metric looks, spoils the score."""
        raw = raw_signals()
        spots = {"logits": (0, 7), "hidden": ..., "attention": ..., "option_loglikelihood": (2,)}
        for name in raw_needs(*choice.metric.needs) & set(spots):
            spoilt = {**raw, name: raw[name].clone()}
            spoilt[name][spots[name]] = math.nan
            assert score(choice, spoilt).isnan(), name


@pytest.mark.parametrize("made", METRICS.values(), ids=METRICS)
class TestDeclaration:
    def test_direction(self, made):
        """A sure answer and an unsure one, scored with every declared variant, come out as declared."""
        needs_logits = "logits" in make_plan(made.name).capture and not make_plan(made.name).extra_pass
        needs_options = any("option" in SIGNALS[n].axes for n in made.needs)
        if made.higher == "neutral" or metric_cost(made) == "samples" or not (needs_logits or needs_options):
            pytest.skip("no sure and unsure input is known for what this metric reads")
        generator = torch.Generator().manual_seed(5)
        unsure = raw_signals(tokens=8, seed=5)
        sure = dict(unsure)
        sure["logits"] = torch.randn(unsure["logits"].shape, generator=generator)
        sure["logits"].scatter_(-1, unsure["tokens"].long()[:, None], 25.0)
        sure["option_loglikelihood"] = torch.tensor([-1.0, -200.0, -210.0, -220.0])
        unsure["option_loglikelihood"] = torch.full((4,), -30.0)
        for record in (sure, unsure):
            record["option_tokens"], record["option_bytes"] = torch.full((4,), 3.0), torch.full((4,), 12.0)
        for options in ({}, *made.variants):
            choice = Choice(made, {**made.options, **options})
            a, b = score(choice, sure), score(choice, unsure)
            assert (a < b) if made.higher == "uncertain" else (a > b), f"{choice.id}: sure {a}, unsure {b}"

    def test_is_documented(self, made):
        first = made.compute.__doc__.strip().splitlines()[0]
        assert len(first) > 10
        assert first.endswith((".", ":")) or made.summary.endswith(".")
        assert made.higher in ("uncertain", "confident", "neutral")
        assert made.unit

    def test_names_its_source(self, made):
        assert re.fullmatch(r"arXiv:\d{4}\.\d{4,5}|doi:10\.\d{4,9}/\S+|https://\S+|folklore", made.source), (
            f"{made.name}: source '{made.source}' is none of arXiv:, doi:, https: or folklore"
        )

    def test_variants_set_known_options(self, made):
        for variant in made.variants:
            assert set(variant) <= set(made.options)
            assert any(made.options[key] != value for key, value in variant.items())
            assert all(type(made.options[key]) is type(value) for key, value in variant.items())

    def test_has_a_test_of_its_own_name(self, made):
        assert made.name in TESTED, (
            f"metric '{made.name}' has no test_{made.name}; write one that computes it by hand, "
            f"in tests/metrics/uncertainty/test_{made.family}.py or beside it"
        )


# --- derived signals


@pytest.mark.parametrize("name", DERIVED)
class TestSignal:
    @pytest.mark.parametrize(("tokens", "prompt", "vocab"), [(6, 5, 300), (1, 1, 300), (4, 2, 7)])
    def test_has_the_axes_and_the_type_declared(self, name, tokens, prompt, vocab):
        value = complete(raw_signals(tokens, prompt, vocab), name)[name]
        sizes = {**SIZES, "token": tokens, "step": tokens + 1, "key": prompt + tokens, "vocab": vocab}
        made = SIGNALS[name]
        expected = [int(axis.split("=")[1]) if "=" in axis else sizes[axis] for axis in made.axes]
        assert len(value.shape) == len(expected)
        for got, size, axis in zip(value.shape, expected, made.axes):
            assert got == size or (not made.kept and "=" in axis and got < size), f"{axis}: {got}, not {size}"
        assert made.dtype in BYTES
        assert value.dtype == getattr(torch, made.dtype)

    def test_is_finite_on_valid_input(self, name):
        value = complete(raw_signals(), name)[name]
        first = 1 if "hidden_before" in raw_needs(name) else 0  # layer 0 has no layer before it
        assert value[first:].isfinite().all()
        assert value[:first].isnan().all()

    def test_leaves_its_inputs_alone(self, name):
        available = complete(raw_signals(), name)
        before = {need: available[need].clone() for need in SIGNALS[name].needs}
        derive([name], available)
        for need, value in before.items():
            same(available[need], value, rtol=0, atol=0)

    def test_a_stack_of_records_equals_each(self, name):
        """What is computed row by row may be computed on the rows of a whole batch."""
        if not SIGNALS[name].kept or SIGNALS[name].axes[:1] != ("token",) or raw_needs(name) - {"logits", "tokens"}:
            pytest.skip("not kept, or not computed token by token from logits")
        records = [raw_signals(tokens=n, seed=n) for n in (1, 4, 7)]
        stack = {need: torch.cat([r[need] for r in records]) for need in ("logits", "tokens")}
        together = complete(stack, name)[name]
        apart = torch.cat([complete(record, name)[name] for record in records])
        same(together, apart, rtol=1e-6, atol=1e-6)

    def test_nan_in_gives_nan_out(self, name):
        raw = raw_signals()
        spoilt = {n: torch.full_like(v, math.nan) if v.is_floating_point() else v for n, v in raw.items()}
        value = complete(spoilt, name)[name]
        if value.is_floating_point():
            assert value.isnan().all()
        elif SIGNALS[name].kept:
            assert (value == -1).all(), "an integer signal says -1 where it is undefined"

    def test_has_a_test_of_its_own_name(self, name):
        module = SIGNALS[name].compute.__module__.rsplit(".", 1)[-1]
        assert name in TESTED, (
            f"signal '{name}' has no test_{name}; write one in tests/metrics/signals/test_{module}.py"
        )

    def test_is_documented(self, name):
        assert SIGNALS[name].summary.strip().endswith(".")
        assert SIGNALS[name].unit


LOOKED_AT = [name for name, s in DERIVED.items() if s.cost in ("hidden", "lens", "attention")]


def of_layer(source, layer):
    """Raw signals of a single layer, where they have layers."""
    return {n: v[layer : layer + 1] if SIGNALS[n].axes[:1] == ("layer",) else v for n, v in source.items()}


@pytest.mark.parametrize("name", LOOKED_AT)
def test_layers_are_looked_at_one_by_one(name):
    """The pass for signals hands over one layer at a time, so that not all have to be held."""
    source = raw_signals()
    if SIGNALS[name].cost == "lens" and "layer" not in SIGNALS[name].axes:
        pytest.skip("of the last layer alone, or of a few tokens at all layers")
    order = recipe(name)
    together = derive(order, source)[name]
    assert SIGNALS[name].axes[0] == "layer"
    for layer in range(SIZES["layer"]):
        alone = derive(order, of_layer(source, layer))[name]
        same(alone, together[layer : layer + 1])


@pytest.mark.parametrize("name", [n for n in LOOKED_AT if "attention" in raw_needs(n)])
def test_attention_is_looked_at_piece_by_piece(name):
    """Of a long text the pass hands over some queries at a time, with the keys up to the last of them."""
    source = raw_signals()
    assert raw_needs(name) <= {"attention", "prompt_count"}, "sums over columns come when a layer has been read whole"
    weights = source["attention"]
    order = recipe(name)
    whole = derive(order, source)[name]
    dim, steps, keys = SIGNALS[name].axes.index("step"), *weights.shape[-2:]
    cut = 3
    first = weights[..., :cut, : keys - steps + cut]
    pieces = [derive(order, {**source, "attention": part})[name] for part in (first, weights[..., cut:, :])]
    same(torch.cat(pieces, dim), whole)
