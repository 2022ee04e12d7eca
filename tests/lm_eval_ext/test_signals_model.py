"""Signals of real models: padding, batches and attention code make no difference, and the row is P - 1 + t."""

import contextlib
import gc
import weakref

import numpy as np
import pytest
import torch

from lm_eval_ext.arch import blocks
from lm_eval_ext.capture import GenerationTap
from lm_eval_ext.forced import ForcedPass
from metrics.core import signals
from metrics.plan import make_plan
from metrics.record import Key

FAMILIES = ("llama", "neox", "gpt2")
RAW = "logits+hidden+attention"
GENERATE = {"until": ["w7"], "max_gen_toks": 9, "do_sample": False}
INTEGERS = ("rank", "top_tokens", "tokens", "prompt_tokens")
EVERYTHING = make_plan("standard", "all", RAW).keep


@pytest.fixture
def prompts(words_of):
    return [words_of(n, seed) for seed, n in enumerate((3, 11, 6, 1, 8))]


def recorded(store):
    found = {r.key._replace(kind=""): r for r in store.records((*EVERYTHING, "tokens", "prompt_tokens"))}
    return dict(sorted(found.items()))


def everything(make_lm, reopened, requests, kind, family, **arguments):
    lm = make_lm(family, signals="all", raw=RAW, **arguments)
    getattr(lm, kind)(requests, disable_tqdm=True)
    return recorded(reopened(lm))


def same_records(a, b, tolerance=2e-4):
    assert list(a) == list(b) != []
    for key in a:
        assert a[key].spans == b[key].spans
        assert set(a[key].signals) == set(b[key].signals) >= set(EVERYTHING)
        for name, value in a[key].signals.items():
            if name in INTEGERS:
                assert torch.equal(value, b[key].signals[name]), (key, name)
            else:
                torch.testing.assert_close(
                    value,
                    b[key].signals[name],
                    atol=tolerance,
                    rtol=tolerance,
                    equal_nan=True,
                    msg=lambda m, where=(key, name): f"{where}: {m}",
                )


def generation_requests(instance, prompts):
    return [instance("generate_until", (p, dict(GENERATE)), i) for i, p in enumerate(prompts)]


def scoring_requests(instance, prompts, words_of):
    ends = [" " + words_of(1 + i % 4, 50 + i) for i in range(len(prompts))]
    return [instance("loglikelihood", (p, e), i) for i, (p, e) in enumerate(zip(prompts, ends))]


def of_kind(kind, instance, prompts, words_of):
    if kind == "generate_until":
        return generation_requests(instance, prompts)
    if kind == "loglikelihood":
        return scoring_requests(instance, prompts, words_of)
    return [instance(kind, (p,), i) for i, p in enumerate(prompts)]


KINDS = ("generate_until", "loglikelihood", "loglikelihood_rolling")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_of_one_records_what_a_batch_of_four_does(family, kind, make_lm, reopened, instance, prompts, words_of):
    runs = [
        everything(
            make_lm, reopened, of_kind(kind, instance, prompts, words_of), kind, family, batch_size=size, max_length=32
        )
        for size in (1, 4)
    ]
    same_records(*runs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_sdpa_records_what_eager_does(family, kind, make_lm, reopened, instance, prompts, words_of):
    runs = [
        everything(
            make_lm, reopened, of_kind(kind, instance, prompts, words_of), kind, family, attention=how, max_length=32
        )
        for how in ("sdpa", "eager")
    ]
    same_records(*runs)


def test_generation_keeps_the_models_own_attention(make_lm, instance, prompts):
    lm = make_lm("llama", signals="attention_diagonal+hidden_norm", attention="sdpa")
    seen = []
    block = blocks(lm.model)[0]
    handle = block.register_forward_hook(lambda m, a, o: seen.append(lm.model.config._attn_implementation))
    lm.generate_until(generation_requests(instance, prompts[:2]), disable_tqdm=True)
    handle.remove()
    assert seen[:-1] == ["sdpa"] * (len(seen) - 1) != []
    assert seen[-1] == "eager"  # the teacher-forced pass
    assert lm.model.config._attn_implementation == "sdpa"


def test_standard_makes_no_pass_of_its_own(make_lm, make_hf, instance, prompts, words_of):
    def forwards(lm):
        calls = []
        handle = lm.model.register_forward_hook(lambda m, a, o: calls.append(1))
        for kind in KINDS:
            getattr(lm, kind)(of_kind(kind, instance, prompts, words_of), disable_tqdm=True)
        handle.remove()
        return len(calls)

    assert forwards(make_lm()) == forwards(make_hf())


def test_no_hook_stays_behind(make_lm, instance, prompts, words_of):
    lm = make_lm("llama", signals="all", raw=RAW)
    for kind in KINDS:
        getattr(lm, kind)(of_kind(kind, instance, prompts, words_of), disable_tqdm=True)
    for module in lm.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_hooks_leave_when_the_model_raises(tiny_model):
    model = tiny_model("llama")
    plan = make_plan("standard", "all")
    with pytest.raises(IndexError):
        ForcedPass(model, plan, (0, 1))([([4, 5], [4711])], logits=True)
    with contextlib.suppress(RuntimeError), GenerationTap(model, plan):
        raise RuntimeError
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert model.config._attn_implementation == "sdpa"


# ---------------------------------------------------------------- against independent forwards, in float64


def reference(model, ids):
    """Logits of one plain forward of one sequence without padding."""
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].double().numpy()


def check_rows(record, rows, log_softmax64):
    """Every signal of the logits against float64 NumPy on the given rows."""
    lp = log_softmax64(rows)
    p = np.exp(lp)
    tokens = record.signals["tokens"].numpy()
    own = lp[np.arange(len(tokens)), tokens]
    entropy = -(p * lp).sum(-1)
    top = np.sort(lp, -1)[:, ::-1][:, :20]
    half = np.sqrt(p) / np.sqrt(p).sum(-1, keepdims=True)
    expected = {
        "logprob": own,
        "entropy": entropy,
        "varentropy": (p * (lp + entropy[:, None]) ** 2).sum(-1),
        "mean_log_probability": lp.mean(-1),
        "log_vocabulary": np.full(len(tokens), np.log(lp.shape[-1])),
        "log_half_power": np.log(np.sqrt(half).sum(-1)),
        "top_logprobs": top,
        "logits": rows,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(record.signals[name].double().numpy(), value, rtol=2e-4, atol=2e-4, err_msg=name)
    assert record.signals["rank"].tolist() == (lp > own[:, None]).sum(-1).tolist()
    assert record.signals["top_tokens"][:, 0].tolist() == lp.argmax(-1).tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_distribution_of_token_t_is_row_p_minus_1_plus_t(
    family, make_lm, reopened, instance, prompts, words_of, log_softmax64, tokenizer
):
    for kind in ("generate_until", "loglikelihood"):
        requests = of_kind(kind, instance, prompts, words_of)
        lm = make_lm(family, signals="all", raw=RAW)
        answers = getattr(lm, kind)(requests, disable_tqdm=True)
        found = recorded(reopened(lm))
        for i, prompt in enumerate(prompts):
            record = found[Key("toy", i, 0, 0)]
            asked = tokenizer(prompt)["input_ids"]
            assert record.signals["prompt_tokens"].tolist() == asked
            assert record.prompt_count == len(asked)
            tokens = record.signals["tokens"].tolist()
            if kind == "loglikelihood":
                assert tokens == tokenizer(requests[i].args[1])["input_ids"]
                assert answers[i][0] == pytest.approx(float(record.signals["logprob"].sum()), abs=1e-4)
            rows = reference(lm.model, asked + tokens)[len(asked) - 1 : -1]
            assert len(rows) == len(tokens)
            check_rows(record, rows, log_softmax64)
            if kind == "generate_until":
                assert rows.argmax(-1).tolist() == tokens  # greedy: each token is the best of its own row


@pytest.mark.parametrize("family", FAMILIES)
def test_rolling_windows_take_the_row_before_each_token(family, make_lm, reopened, instance, words_of, log_softmax64):
    text = words_of(40, 3)
    lm = make_lm(family, metrics="standard", signals="all", raw=RAW, max_length=16, batch_size=2)
    (answer,) = lm.loglikelihood_rolling([instance("loglikelihood_rolling", (text,))], disable_tqdm=True)
    record = recorded(reopened(lm))[Key("toy", 0, 0, 0)]
    ids = lm.tok_encode(text)
    assert record.signals["tokens"].tolist() == ids
    assert answer == pytest.approx(float(record.signals["logprob"].sum()), abs=1e-3)
    rows = []  # windows of 16: the first begins with the prefix token, the last reaches back to be full
    for start in range(0, 40, 16):
        stop = min(start + 16, 40)
        before = [lm.prefix_token_id, *ids][max(0, stop - 16) : stop]
        rows.append(reference(lm.model, before)[-(stop - start) :])
    check_rows(record, np.concatenate(rows), log_softmax64)


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_and_attention_are_the_models_own(family, make_lm, reopened, instance, prompts, words_of):
    for kind in ("generate_until", "loglikelihood"):
        requests = of_kind(kind, instance, prompts, words_of)
        found = everything(make_lm, reopened, requests, kind, family)
        lm = make_lm(family, attention="eager")
        for record in found.values():
            ids = torch.cat([record.signals["prompt_tokens"], record.signals["tokens"]]).long()
            with torch.no_grad():
                out = lm.model(ids[None], output_hidden_states=True, output_attentions=True)
            first = record.prompt_count - 1
            hidden = torch.stack(out.hidden_states)[:, 0, first:]
            last = record.signals["hidden"][-1:]
            norm = {"llama": "norm", "neox": "final_layer_norm", "gpt2": "ln_f"}[family]
            assert record.signals["hidden"].shape == hidden.shape
            torch.testing.assert_close(record.signals["hidden"][:-1], hidden[:-1], rtol=1e-4, atol=1e-4)
            with torch.no_grad():  # the model's own last entry is normed, ours is the block's output
                torch.testing.assert_close(getattr(lm.model.base_model, norm)(last), hidden[-1:], rtol=1e-4, atol=1e-4)
            attention = torch.stack(out.attentions)[:, 0, :, first:]
            torch.testing.assert_close(record.signals["attention"], attention, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(record.signals["hidden_norm"], torch.cat([hidden[:-1], last]).norm(dim=-1))
            torch.testing.assert_close(
                record.signals["hidden_mean"][:-1], hidden[:-1, 1:].mean(1), rtol=1e-4, atol=1e-4
            )
            own = torch.stack([attention[..., t, first + t] for t in range(attention.shape[2])], -1)
            torch.testing.assert_close(record.signals["attention_diagonal"].float(), own, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_in_generation_equals_teacher_forced(family, make_lm, reopened, instance, prompts, monkeypatch):
    requests = generation_requests(instance, prompts)
    inside = everything(make_lm, reopened, requests, "generate_until", family)
    monkeypatch.setattr(GenerationTap, "signals", lambda self, generated: None)
    outside = everything(make_lm, reopened, requests, "generate_until", family)
    same_records(inside, outside)


def test_layers_can_be_chosen(make_lm, reopened, instance, prompts):
    requests = generation_requests(instance, prompts[:2])
    full = everything(make_lm, reopened, requests, "generate_until", "llama")
    lm = make_lm("llama", signals="all", raw=RAW, layers="0+-1")
    lm.generate_until(requests, disable_tqdm=True)
    store = reopened(lm)
    assert store.manifest["layers"] == [0, 3]
    for key, record in recorded(store).items():
        torch.testing.assert_close(record.signals["hidden"], full[key].signals["hidden"][[0, 3]])
        torch.testing.assert_close(record.signals["attention"], full[key].signals["attention"][[-1]])


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32"])
def test_raw_dtype_is_that_of_raw_tensors_alone(name, make_lm, reopened, instance, prompts):
    lm = make_lm("llama", signals="all", raw=RAW, raw_dtype=name)
    lm.generate_until(generation_requests(instance, prompts[:2]), disable_tqdm=True)
    known = signals()
    for record in recorded(reopened(lm)).values():
        for signal in EVERYTHING:
            expected = name if signal in RAW.split("+") else known[signal].dtype
            assert str(record.signals[signal].dtype) == f"torch.{expected}", signal


# ---------------------------------------------------------------- what does not fit one step a token


@pytest.mark.parametrize("extra", [{"num_beams": 3}, {"prompt_lookup_num_tokens": 3}])
def test_rows_that_change_places_are_scored_by_a_pass_of_their_own(
    extra, make_lm, make_hf, reopened, instance, prompts, log_softmax64
):
    """Beam search and assisted decoding, where a step is not a token."""
    size = 1 if "prompt_lookup_num_tokens" in extra else 4
    requests = [instance("generate_until", (p, {**GENERATE, **extra}), i) for i, p in enumerate(prompts)]
    lm = make_lm(signals="all", raw=RAW, batch_size=size)
    answers = lm.generate_until(requests, disable_tqdm=True)
    assert answers == make_hf(batch_size=size).generate_until(requests, disable_tqdm=True)
    for record in recorded(reopened(lm)).values():
        prompt, tokens = record.signals["prompt_tokens"].tolist(), record.signals["tokens"].tolist()
        check_rows(record, reference(lm.model, prompt + tokens)[len(prompt) - 1 : -1], log_softmax64)


def test_a_step_that_is_not_a_token_is_noticed(tiny_model):
    """Candidates that were all rejected leave as many steps as tokens, with other tokens in them."""
    model, plan = tiny_model("llama"), make_plan("standard")
    tap = GenerationTap(model, plan)
    with tap, torch.no_grad():
        model(input_ids=torch.tensor([[5, 6, 7]]))
        model(input_ids=torch.tensor([[8, 9, 10]]))  # 8 was taken, 9 and 10 are guesses
    assert tap.signals(torch.tensor([[8, 11]])) is None


def test_sampled_tokens_get_the_models_own_distribution(make_lm, reopened, instance, prompts, log_softmax64):
    """Raw logits: temperature, top-k and the like do not enter."""
    settings = {"until": [], "max_gen_toks": 12, "do_sample": True, "temperature": 3.0, "top_k": 5}
    requests = [instance("generate_until", (p, settings), i) for i, p in enumerate(prompts)]
    lm = make_lm(signals="all", raw=RAW)
    torch.manual_seed(5)
    lm.generate_until(requests, disable_tqdm=True)
    found = recorded(reopened(lm))
    assert max(int(r.signals["rank"].max()) for r in found.values()) > 0
    for record in found.values():
        prompt, tokens = record.signals["prompt_tokens"].tolist(), record.signals["tokens"].tolist()
        check_rows(record, reference(lm.model, prompt + tokens)[len(prompt) - 1 : -1], log_softmax64)


# ---------------------------------------------------------------- at the edge of the context


@pytest.mark.parametrize("family", FAMILIES)
def test_a_full_context_leaves_no_room_for_the_state_after_the_last_token(
    family, make_lm, make_hf, instance, words_of, reopened
):
    """The scoring forward leaves out the last token; where a table of positions ends before it, its state is NaN."""
    request = instance("loglikelihood", (words_of(90, 1), " " + words_of(5, 2)))
    lm = make_lm(family, signals="all", raw=RAW)
    answer = lm.loglikelihood([request], disable_tqdm=True)
    assert answer == make_hf(family).loglikelihood([request], disable_tqdm=True)
    record = recorded(reopened(lm))[Key("toy", 0, 0, 0)]
    assert record.truncated
    assert record.prompt_count == 65 - 5
    assert record.signals["hidden"].shape == (4, 6, 32)
    assert record.signals["attention"].shape == (3, 4, 6, 65)
    for name in ("hidden", "attention", "hidden_norm", "attention_diagonal", "attention_row_entropy"):
        by_step = record.signals[name].movedim({"hidden": 1, "attention": 2}.get(name, -1), 0)
        assert by_step[:-1].isfinite().all(), name
        assert by_step[-1].isnan().all() if family == "gpt2" else by_step[-1].isfinite().all(), name
    with torch.no_grad():
        ids = torch.cat([record.signals["prompt_tokens"], record.signals["tokens"]]).long()[None, :-1]
        states = lm.model(ids, output_hidden_states=True).hidden_states
    torch.testing.assert_close(record.signals["hidden"][1, :-1], states[1][0, -5:], rtol=1e-4, atol=1e-4)


def test_several_windows_keep_the_state_that_produced_each_token(make_lm, reopened, instance, words_of):
    """One step a token over all windows and one at the end; what has no such axis is not kept."""
    text = words_of(40, 3)
    lm = make_lm(signals="all", raw="hidden", max_length=16, batch_size=2)
    lm.loglikelihood_rolling([instance("loglikelihood_rolling", (text,))], disable_tqdm=True)
    record = recorded(reopened(lm))[Key("toy", 0, 0, 0)]
    assert record.signals["hidden"].shape == (4, 41, 32)
    assert record.signals["hidden_norm"].shape == (4, 41)
    assert record.signals["attention_diagonal"].shape == (3, 4, 41)
    assert "hidden_mean" not in record.signals
    assert "attention" not in record.signals
    ids = [lm.prefix_token_id, *lm.tok_encode(text)]
    with torch.no_grad():
        second = lm.model(torch.tensor([ids[16:32]]), output_hidden_states=True).hidden_states
    torch.testing.assert_close(record.signals["hidden"][1, 16:32], second[1][0], rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------- memory


def test_a_tap_holds_the_logits_of_one_step(tiny_model):
    model = tiny_model("llama")
    whole, alive = [], []

    def watch(_module, _args, output):
        whole.append(weakref.ref(output.logits.untyped_storage()))
        gc.collect()
        alive.append(sum(r() is not None for r in whole))

    tap = GenerationTap(model, make_plan("standard"))
    handle = model.register_forward_hook(watch)
    with tap, torch.no_grad():
        new = model.generate(torch.tensor([[5, 6, 7, 8]]), max_new_tokens=12, min_new_tokens=12, do_sample=False)
    handle.remove()
    assert tap.signals(new[:, 4:])["entropy"].shape == (1, 12)
    assert len(alive) == 12
    assert max(alive) <= 3  # this step's, the one before it until it is reduced, and what generate holds


def test_a_tap_lets_go_of_the_logits_of_the_prompt(tiny_model):
    """A model that computes logits at every position: only the last row is held."""
    model = tiny_model("llama")
    tap = GenerationTap(model, make_plan("standard"))
    with tap, torch.no_grad():
        model(input_ids=torch.arange(4, 44)[None])
        assert tap._waiting.untyped_storage().nbytes() == 48 * 4


def test_scoring_lets_go_of_a_batch_before_the_next(make_lm, instance, prompts, words_of, monkeypatch):
    lm = make_lm(batch_size=1)
    stores, alive = [], []

    def watch(_module, _args, output):
        gc.collect()
        alive.append(sum(r() is not None for r in stores))
        stores.append(weakref.ref(output.logits.untyped_storage()))

    handle = lm.model.register_forward_hook(watch)
    lm.loglikelihood(scoring_requests(instance, prompts, words_of), disable_tqdm=True)
    handle.remove()
    assert alive == [0] * len(prompts)


def test_mixed_precision_does_not_reach_the_signals(make_lm, instance, words_of, reopened):
    """The harness's autocast surrounds the generation; entropies are float32 all the same."""
    requests = [instance("generate_until", (words_of(5, i), {"until": [], "max_gen_toks": 6}), i) for i in range(4)]
    lm = make_lm(mixed_precision_dtype="bfloat16", raw="logits", raw_dtype="float32")
    lm.generate_until(requests, disable_tqdm=True)
    for record in reopened(lm).records(["logits", "entropy", "varentropy"]):
        p = record.signals["logits"].double().softmax(-1)
        expected = -(p * p.log()).sum(-1)
        torch.testing.assert_close(record.signals["entropy"].double(), expected, rtol=1e-5, atol=1e-5)
