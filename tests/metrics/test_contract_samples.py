"""What every metric of a document's samples and every gathered signal promises, checked over the whole registry.

A new metric or gathered signal is covered by being there. A new raw signal needs one line in `document`.
"""

import math

import pytest
import torch

from metrics.choosing import choose
from metrics.core import metric_cost, metrics, signals
from metrics.samples import clusters
from metrics.signals.samples import AFFINITIES, CLUSTERINGS

SIGNALS = signals()
OF_SAMPLES = {name: made for name, made in metrics().items() if metric_cost(made) == "samples"}
CHOICES = {c.id: c for c in choose(list({made.family: None for made in OF_SAMPLES.values()}))}
GATHERED = {name: s for name, s in SIGNALS.items() if s.gathered}
SIZES = {"layer": 3, "dim": 8}

NEVER_NAN = {"sample_index", "sample_text", "sample_length"}
TEXTS = ("four", "4", "five", "four", "it is four", "six", "4", "four")


def document(texts=TEXTS, *, tokens=None, scored=0, seed=0):
    """A valid document of samples: every signal that a metric of samples may need. Samples of equal text are equal."""
    generator = torch.Generator().manual_seed(seed)
    ids = clusters(texts).long()

    def draw(*shape):
        """Values for each distinct text, the same for equal ones."""
        return torch.rand(len(texts), *shape, generator=generator, dtype=torch.float64)[ids]

    def pairs(*shape):
        return torch.rand(len(texts), len(texts), *shape, generator=generator, dtype=torch.float64)[ids][:, ids]

    length = (
        torch.full((len(texts),), tokens) if tokens else torch.randint(1, 9, (len(texts),), generator=generator)[ids]
    )
    equal = ids[:, None] == ids
    alike = pairs(len(AFFINITIES))
    alike = (alike + alike.transpose(0, 1)) / 2
    relations = torch.randn(len(texts), len(texts), 3, generator=generator, dtype=torch.float64)[ids][:, ids].softmax(
        -1
    )
    surely = torch.tensor([0.98, 0.015, 0.005], dtype=torch.float64)
    return {
        "sample_index": torch.tensor(scored),
        "sample_text": ids.double(),
        "sample_clusters": torch.stack([ids.double() % (5 - i) for i in range(len(CLUSTERINGS))]),
        "sample_affinity": alike.where(~equal[..., None], 1.0).permute(2, 0, 1).contiguous(),
        "sample_nli": relations.where(~equal[..., None], surely),
        "sample_embedding": draw(16) - 0.3,
        "sample_log_probability": -3 * draw() * length,
        "sample_relevant_log_probability": -3 * draw(),
        "sample_length": length.double(),
        "sample_entropy": 4 * draw(),
        "sample_states": draw(SIZES["layer"], SIZES["dim"]),
        "logprob": -torch.rand(tokens or 5, generator=generator),
        "token_relevance": torch.rand(tokens or 5, generator=generator),
    }


def permuted(source, order):
    """The same document, its samples in another order."""
    made = dict(source)
    for name in source:
        for dim, axis in enumerate(SIGNALS[name].axes):
            if axis == "sample":
                made[name] = made[name].index_select(dim, order)
    made["sample_index"] = (order == source["sample_index"]).nonzero()[0, 0]
    return made


def same(a, b, **tolerance):
    torch.testing.assert_close(a, b, equal_nan=True, **tolerance)


def test_the_example_has_every_signal_of_samples():
    wanted = {name for name, s in SIGNALS.items() if s.cost == "samples"}
    made = document()
    missing = wanted - set(made)
    assert not missing, f"give tests/metrics/test_contract_samples.py an example of {', '.join(sorted(missing))}"
    for name in wanted:
        assert made[name].dim() == len(SIGNALS[name].axes), name


def test_one_family_holds_them_all():
    assert set(CHOICES) == {c.id for c in choose("sampling")}
    assert {c.metric.name for c in choose("sampling")} == set(OF_SAMPLES)


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
class TestMetric:
    @pytest.mark.parametrize("tokens", [None, 1])
    def test_is_one_finite_number(self, choice, tokens):
        for seed in range(3):
            value = choice(document(seed=seed, tokens=tokens))
            assert isinstance(value, torch.Tensor)
            assert value.shape == ()
            assert value.is_floating_point()
            assert value.isfinite()

    @pytest.mark.parametrize("texts", [("a", "b"), ("a", "a"), ("a",) * 5, tuple("abcde")])
    def test_takes_two_samples_equal_ones_and_different_ones(self, choice, texts):
        assert choice(document(texts)).isfinite()

    def test_one_sample_is_certain_or_undefined(self, choice):
        value = choice(document(("a",)))
        assert value.shape == ()
        assert not value.isinf()

    def test_leaves_its_inputs_alone(self, choice):
        available = document()
        before = {name: available[name].clone() for name in choice.metric.needs}
        choice(available)
        for name, value in before.items():
            same(available[name], value, rtol=0, atol=0)

    def test_the_order_of_the_samples_is_of_no_account(self, choice):
        source = document(scored=2)
        order = torch.tensor([5, 2, 7, 0, 1, 6, 4, 3])
        same(choice(permuted(source, order)), choice(source), rtol=1e-9, atol=1e-9)

    def test_only_the_scored_sample_tells_scores_of_a_document_apart(self, choice):
        values = [choice(document(scored=i)).item() for i in (0, 2)]
        assert (values[0] != values[1]) == ("sample_index" in choice.metric.needs)

    def test_all_samples_are_scored_at_once_as_one_by_one(self, choice):
        several = choice({**document(), "sample_index": torch.arange(len(TEXTS))}).expand(len(TEXTS))
        same(several, torch.stack([choice(document(scored=i)) for i in range(len(TEXTS))]))

    def test_nan_is_not_hidden(self, choice):
        source = document()
        for name in set(choice.metric.needs) - NEVER_NAN:
            spoilt = {**source, name: torch.full_like(source[name], math.nan)}
            assert choice(spoilt).isnan(), name

    def test_one_sample_of_nan_is_not_hidden(self, choice):
        """What one sample lacks no other makes good."""
        source = document()
        for name in set(choice.metric.needs) - NEVER_NAN:
            spoilt = source[name].clone()
            axes = SIGNALS[name].axes
            spoilt.select(axes.index("sample") if "sample" in axes else 0, 0)[...] = math.nan
            assert choice({**source, name: spoilt}).isnan(), name

    def test_direction(self, choice):
        """Samples that agree and are probable, and samples that do not and are not."""
        sure, unsure = document(("a",) * 6), document(tuple("abcdef"))
        sure |= {name: 0.1 * sure[name] for name in ("sample_log_probability", "sample_entropy", "logprob")}
        sure |= {"sample_relevant_log_probability": 0.1 * sure["sample_relevant_log_probability"]}
        unsure["logprob"] = unsure["logprob"] - 3
        a, b = choice(sure), choice(unsure)
        assert (a < b) if choice.metric.higher == "uncertain" else (a > b), f"{choice.id}: sure {a}, unsure {b}"


def test_unknown_kinds_are_refused():
    for name, options, known in [
        ("semantic_sets", {"clusters": "words"}, "answer, embedding, nli"),
        ("degree_matrix", {"affinity": "words"}, "jaccard, rouge_l"),
        ("monte_carlo_entropy", {"likelihood": "words"}, "mean, sum"),
        ("kernel_language_entropy", {"kernel": "words"}, "heat, matern"),
        ("eigenscore", {"scale": "words"}, "covariance, gram"),
    ]:
        (option,) = options
        (choice,) = choose(f"{name}({option}=words)")
        with pytest.raises(ValueError, match=f"{option}='words' is not known; choose .*") as error:
            choice(document())
        assert known in str(error.value)


@pytest.mark.parametrize("name", GATHERED)
class TestGathered:
    def one(self, name, seed=0):
        """A sample's own signals that the entry is made of, as a record holds them."""
        generator = torch.Generator().manual_seed(seed)
        sizes = {**SIZES, "token": 5}
        shapes = {need: [sizes[axis] for axis in SIGNALS[need].axes] for need in SIGNALS[name].needs}
        return {
            need: torch.tensor(5) if need == "token_count" else torch.rand(*shape, generator=generator)
            for need, shape in shapes.items()
        }

    def test_makes_an_entry_of_the_declared_axes(self, name):
        made = SIGNALS[name]
        entry = made.compute(*self.one(name).values())
        assert list(entry.shape) == [SIZES[axis] for axis in made.axes[1:]]
        assert entry.dtype == torch.float64
        assert entry.isfinite().all()

    def test_leaves_its_inputs_alone(self, name):
        available = self.one(name)
        before = {need: value.clone() for need, value in available.items()}
        SIGNALS[name].compute(*available.values())
        for need, value in before.items():
            same(available[need], value, rtol=0, atol=0)

    def test_nan_in_gives_nan_out(self, name):
        needs = self.one(name)
        for need, value in needs.items():
            if value.is_floating_point():
                spoilt = torch.full_like(value, math.nan)
                assert SIGNALS[name].compute(*{**needs, need: spoilt}.values()).isnan().all(), need

    def test_is_documented(self, name):
        assert SIGNALS[name].summary.strip().endswith(".")
        assert SIGNALS[name].unit
