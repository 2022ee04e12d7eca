import itertools

import pytest
import torch

from metrics.core import metrics, signals
from metrics.plan import BYTES, Plan, Shape, bytes_per_record, derive, make_plan


def test_needs_come_before_what_needs_them():
    known = signals()
    plan = make_plan("all", "all")
    place = {name: i for i, name in enumerate(plan.compute)}
    assert len(place) == len(plan.compute)
    for name in plan.compute:
        for need in known[name].needs:
            assert known[need].compute is None or place[need] < place[name], f"{need} comes after {name}"


def test_capture_is_only_what_is_needed():
    assert make_plan("answer_length").capture == ()
    assert make_plan("choice_entropy+random").capture == ()
    assert make_plan("mean_nll").capture == ("logits",)
    assert make_plan("answer_length", "hidden_norm").capture == ("hidden",)
    assert make_plan((), "attention_diagonal+hidden_mean+rank").capture == ("logits", "hidden", "attention")
    assert make_plan("standard").capture == ("logits",)
    assert make_plan((), (), "attention").capture == ("attention",)
    assert make_plan((), (), "none").capture == ()


def test_the_extra_pass_is_for_states_and_maps_only():
    assert not make_plan("standard").extra_pass
    assert make_plan("mean_nll", "hidden_norm").extra_pass
    assert make_plan("mean_nll", (), "attention").extra_pass


def test_what_is_kept_suffices_for_the_metrics():
    known = signals()
    for name, made in metrics().items():
        plan = make_plan(name)
        for need in (n for name in made.needs for n in (known[name].needs if known[name].gathered else (name,))):
            outside = known[need].cost in ("free", "samples")  # follows from the key, or from texts
            assert need in plan.keep or outside, f"{name} cannot be scored without {need}"
        assert plan.samples == any("sample" in known[need].axes for need in made.needs)


def test_metrics_of_texts_need_them_stored():
    assert make_plan("discrete_semantic_entropy").texts
    assert not make_plan("standard").texts


def test_intermediates_are_computed_but_not_kept():
    plan = make_plan("mean_entropy")
    assert plan.keep == ("entropy",)
    assert {"shifted_logits", "probabilities", "log_probabilities"} <= set(plan.compute)
    assert "varentropy" not in plan.compute


def test_keep_has_one_order_whatever_the_question():
    names = ["mean_nll", "mean_entropy", "margin", "boosted_prob"]
    kept = {make_plan("+".join(p), "hidden_norm", "logits").keep for p in itertools.permutations(names)}
    assert kept == {("boosted_probability", "entropy", "logits", "logprob", "top_logprobs", "hidden_norm")}


def test_metrics_are_recorded_by_id():
    assert make_plan("min_k(share=0.1)+mean_nll").metrics == ("min_k(share=0.1)", "mean_nll")


def test_raw_tensors_are_kept_on_demand_only():
    assert "logits" not in make_plan("standard").keep
    plan = make_plan((), (), ["logits", "hidden"])
    assert plan.keep == ("logits", "hidden")
    assert plan.compute == ()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("mean_nl",), "unknown metric 'mean_nl'. Did you mean 'mean_nll'?"),
        (((), "hiden_norm"), "unknown signal 'hiden_norm'. Did you mean 'hidden_norm'?"),
        (((), (), "logit"), "unknown raw tensor 'logit'. Did you mean 'logits'?"),
        (((), (), "tokens"), "unknown raw tensor 'tokens'"),
        (((), "probabilities"), "'probabilities' is an intermediate that is never stored; use raw=logits"),
    ],
)
def test_what_cannot_be_planned_is_refused(arguments, says):
    with pytest.raises(ValueError) as error:
        make_plan(*arguments)
    assert says in str(error.value)


def test_signal_presets():
    known = signals()
    assert set(make_plan((), "standard").keep) == {
        n for n, s in known.items() if s.compute is not None and s.kept and s.cost == "logits"
    }
    assert {"hidden_norm", "attention_diagonal", "entropy"} <= set(make_plan((), "all").keep)


@pytest.mark.parametrize(("family", "member"), [("attention", "lookback_ratio"), ("hidden", "hidden_norm")])
def test_a_family_of_signals_is_not_the_raw_tensor_of_that_name(family, member):
    assert member in make_plan((), family).keep
    assert family not in make_plan((), family).keep
    assert make_plan((), (), family).keep == (family,)


def test_stages_part_the_work_by_cost():
    plan = make_plan("all", "all")
    stages = {cost: plan.stage(cost) for cost in ("free", "logits", "hidden", "lens", "attention")}
    assert sorted(sum(stages.values(), ())) == sorted(plan.compute)
    assert "entropy" in stages["logits"]
    assert "hidden_norm" in stages["hidden"]
    assert "lens_entropy" in stages["lens"]
    assert "attention_diagonal" in stages["attention"]
    assert [n for n in plan.compute if n in stages["logits"]] == list(stages["logits"])


def test_derive_returns_new_signals_only_and_leaves_its_input():
    given = {"logits": torch.tensor([[0.0, 0.0]]), "tokens": torch.tensor([1])}
    before = dict(given)
    made = derive(make_plan("mean_nll").compute, given)
    assert made["logprob"].item() == pytest.approx(-0.6931472, abs=1e-6)
    assert not set(made) & set(given)
    assert given == before


def test_derive_refuses_raw_and_unknown_signals():
    with pytest.raises(ValueError, match="signal 'logits' is raw"):
        derive(["logits"], {})
    with pytest.raises(ValueError, match=r"unknown signal 'entropi'\. Did you mean 'entropy'"):
        derive(["entropi"], {})


def test_bytes_by_hand():
    shape = Shape(blocks=32, heads=32, dim=4096, vocab=128_256, prompt=743, tokens=256)
    plan = make_plan("mean_nll+margin", "top_tokens+rank+hidden_norm+hidden_mean+attention_diagonal", "all_raw"[:0])
    assert bytes_per_record(plan, shape) == {
        "logprob": 256 * 4,
        "rank": 256 * 4,
        "top_logprobs": 256 * 20 * 4,
        "top_tokens": 256 * 20 * 4,
        "hidden_mean": 33 * 4096 * 4,
        "hidden_norm": 33 * 257 * 4,
        "attention_diagonal": 32 * 32 * 257 * 2,  # of the embeddings there is no attention
    }
    raw = make_plan((), (), "logits+hidden+attention")
    assert bytes_per_record(raw, shape, raw_bytes=2) == {
        "logits": 256 * 128_256 * 2,
        "hidden": 33 * 257 * 4096 * 2,
        "attention": 32 * 32 * 257 * 999 * 2,
    }


def test_standard_lens_and_attention_fit_into_three_megabytes():
    """All their signals, and every score's, of a prompt of 512 and an answer of 256 tokens; 32 layers of 32 heads."""
    shape = Shape(blocks=32, heads=32, dim=4096, vocab=128_256, prompt=512, tokens=256)
    plan = make_plan("standard+lens+attention", "standard+lens+attention")
    sizes = bytes_per_record(plan, shape)
    assert {"lens_rank", "attention_sink", "laplacian_eigenvalues", "attention_received"} <= set(sizes)
    assert 2.5e6 < sum(sizes.values()) < 3e6


def test_bytes_of_selected_layers():
    shape = Shape(blocks=32, heads=8, dim=16, vocab=10, prompt=1, tokens=1, layers=3)
    assert bytes_per_record(make_plan((), "hidden_mean"), shape) == {"hidden_mean": 3 * 16 * 4}


def test_every_kept_signal_has_a_size():
    shape = Shape(blocks=2, heads=2, dim=4, vocab=8, prompt=3, tokens=5)
    plan = make_plan("all", "all", "logits+hidden+attention")
    sizes = bytes_per_record(plan, shape)
    assert tuple(sizes) == plan.keep
    assert all(size > 0 for size in sizes.values())
    assert {s.dtype for s in signals().values()} <= set(BYTES)


def test_an_empty_plan():
    assert make_plan("") == Plan((), (), (), ())
