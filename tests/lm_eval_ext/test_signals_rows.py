"""Signals of real models against independent forwards, in float64: the row of token t is P - 1 + t."""

import numpy as np
import pytest
import torch
from recording import FAMILIES, GENERATE, RAW, everything, of_kind, recorded

from lm_eval_ext.capture import GenerationTap
from metrics.plan import make_plan
from metrics.record import Key


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
