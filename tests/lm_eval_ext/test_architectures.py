"""Every architecture: batches, padding and attention code make no difference; signals are the model's own values.

GPT-NeoX, Llama and GPT-2 go through the same in test_signals_model.py.
"""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from families import CONFIGS, WINDOW, tiny
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM

from lm_eval_ext.arguments import TRANSFORMERS
from lm_eval_ext.model import HFStoreLM
from metrics.core import signals
from metrics.store import open_store

FAMILIES = ("opt", "mistral", "phi3", "qwen3", "qwen3_moe", "gemma2", "gpt_oss", "mamba")
WITHOUT_SDPA = ("gemma2", "gpt_oss", "mamba")
FURTHER = tuple(f for f in CONFIGS if f not in (*FAMILIES, "llama", "neox", "gpt2"))
NO_ATTENTION = ("mamba", "mamba2", "falcon_mamba", "jamba", "bamba", "lfm2", "recurrent_gemma")
KINDS = ("generate_until", "loglikelihood", "loglikelihood_rolling")
GENERATE = {"until": ["w7"], "max_gen_toks": 9, "do_sample": False}
INTEGERS = ("rank", "tokens", "prompt_tokens")


def wanted(family):
    """Every signal that the architecture has, and every raw tensor."""
    missing = "hidden" if family == "gemma3n" else "attention" if family in NO_ATTENTION else None
    costs = [cost for cost in ("logits", "hidden", "attention") if cost != missing]
    names = [n for n, s in signals().items() if s.cost in costs and s.kept and s.compute is not None]
    return {"signals": "+".join(names), "raw": "+".join(costs)}


class Run(NamedTuple):
    answers: list
    records: dict


@pytest.fixture(scope="module")
def requests_of(instance, words_of):
    """A function kind -> requests, some longer than a sliding window."""
    prompts = [words_of(n, seed) for seed, n in enumerate((3, 11, 6, 1, 8))]
    ends = [" " + words_of(1 + i % 4, 50 + i) for i in range(len(prompts))]

    def make(kind):
        arguments = {
            "generate_until": [(p, dict(GENERATE)) for p in prompts],
            "loglikelihood": list(zip(prompts, ends)),
            "loglikelihood_rolling": [(p + e,) for p, e in zip(prompts, ends)],
        }[kind]
        return [instance(kind, a, i) for i, a in enumerate(arguments)]

    return make


@pytest.fixture(scope="module")
def run(requests_of, tokenizer, tmp_path_factory):
    """A function (family, kind, batch size, attention) -> what was answered and recorded; each is run once."""
    done = {}

    def make(family, kind, size=4, attention="sdpa"):
        key = (family, kind, size, attention)
        if key not in done:
            folder = tmp_path_factory.mktemp("store") / "s"
            window = {"max_length": 12} if kind == "loglikelihood_rolling" else {}
            lm = HFStoreLM(
                tiny(family, attention),
                tokenizer=tokenizer,
                device="cpu",
                batch_size=size,
                store=folder,
                **wanted(family),
                **window,
            )
            answers = getattr(lm, kind)(requests_of(kind), disable_tqdm=True)
            lm.close()
            names = (*lm._options.plan.keep, "tokens", "prompt_tokens")
            done[key] = Run(answers, {r.key.doc_id: r for r in open_store(folder).records(names)})
        return done[key]

    return make


def same(one, other, tolerance=2e-4):
    assert sorted(one.records) == sorted(other.records) == [0, 1, 2, 3, 4]
    for doc, record in one.records.items():
        assert record.spans == other.records[doc].spans
        for name, value in record.signals.items():
            found = other.records[doc].signals[name]
            if name == "top_tokens":  # two that are equally likely may change places
                values = record.signals["top_logprobs"].double()
                gaps = torch.nn.functional.pad(values.diff(dim=-1).abs(), (1, 1), value=torch.inf)
                assert (torch.minimum(gaps[:, 1:], gaps[:, :-1])[value != found] < 1e-5).all(), (doc, name)
                continue
            coarse = 4e-3 if value.dtype == torch.float16 else 0  # steps of half precision, of states up to 8
            bound = 0 if name in INTEGERS else max(tolerance, coarse)
            torch.testing.assert_close(
                value, found, atol=bound, rtol=bound, equal_nan=True, msg=lambda m, at=(doc, name): f"{at}: {m}"
            )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_of_one_records_what_a_batch_of_four_does(family, kind, run):
    same(run(family, kind), run(family, kind, 1))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FURTHER)
def test_further_architectures_record_the_same_in_any_batch(family, kind, run):
    code = "eager" if family == "falcon" else "sdpa"  # Falcon's cannot be changed for a pass
    same(run(family, kind, attention=code), run(family, kind, 1, attention=code))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in WITHOUT_SDPA])
def test_sdpa_records_what_eager_does(family, kind, run):
    same(run(family, kind), run(family, kind, attention="eager"))


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(
            "gemma2",
            marks=pytest.mark.skipif(TRANSFORMERS < 5, reason="transformers 4 offers sdpa, which leaves the cap out"),
        ),
        "gpt_oss",
    ],
)
def test_caps_and_sinks_allow_no_sdpa(family):
    """So the evaluation's own pass is eager there too, and all signals are of one computation."""
    assert tiny(family).config._attn_implementation == "eager"
    with pytest.raises(ValueError, match="does not support"):
        AutoModelForCausalLM.from_config(CONFIGS[family](), attn_implementation="sdpa")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_those_of_hf(family, kind, run, requests_of, tokenizer):
    window = {"max_length": 12} if kind == "loglikelihood_rolling" else {}
    hf = HFLM(tiny(family), tokenizer=tokenizer, device="cpu", batch_size=4, **window)
    assert run(family, kind).answers == getattr(hf, kind)(requests_of(kind), disable_tqdm=True)


def sequences(found):
    for record in found.records.values():
        yield record, torch.cat([record.signals["prompt_tokens"], record.signals["tokens"]]).long()


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("family", FAMILIES)
def test_signals_of_the_logits_are_those_of_one_teacher_forced_row_each(family, kind, run, log_softmax64):
    """Generation steps, with their cache and left padding, too."""
    model = tiny(family)
    for record, ids in sequences(run(family, kind)):
        if TRANSFORMERS < 5 and (family, kind, record.prompt_count) == ("mamba", "generate_until", 1):
            continue  # transformers 4 misplaces the state of a prompt that is shorter than the convolution
        with torch.no_grad():
            rows = model(ids[None], use_cache=False).logits[0, record.prompt_count - 1 : -1].double().numpy()
        tokens = record.signals["tokens"].numpy()
        lp = log_softmax64(rows)
        own = lp[np.arange(len(tokens)), tokens]
        expected = {"logits": rows, "logprob": own, "entropy": -(np.exp(lp) * lp).sum(-1)}
        for name, value in expected.items():
            np.testing.assert_allclose(record.signals[name], value, rtol=5e-4, atol=5e-4, err_msg=name)
        assert record.signals["rank"].tolist() == (lp > own[:, None]).sum(-1).tolist()


def final_norm(family, model):
    at = {"opt": "decoder.final_layer_norm", "mamba": "norm_f"}.get(family, "norm")
    return model.base_model.get_submodule(at)


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_are_the_models_own(family, kind, run):
    """But for the last entry, which is normed in the model's own. Mamba's own leave out the embeddings."""
    model = tiny(family)
    for record, ids in sequences(run(family, kind)):
        hidden, first = record.signals["hidden"], record.prompt_count - 1
        with torch.no_grad():
            own = torch.stack(model(ids[None], output_hidden_states=True, use_cache=False).hidden_states)[:, 0, first:]
            normed = final_norm(family, model)(hidden[-1])
            if family == "mamba":
                own = torch.cat([model.get_input_embeddings()(ids)[None, first:], own[:3], own[-1:]])
                torch.testing.assert_close(hidden[-1], own[3], rtol=2e-4, atol=2e-4)
        torch.testing.assert_close(hidden[:3], own[:3], rtol=2e-4, atol=2e-4)
        torch.testing.assert_close(normed, own[-1], rtol=2e-4, atol=2e-4)
        torch.testing.assert_close(record.signals["hidden_norm"], hidden.norm(dim=-1))


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "mamba"])
def test_attention_is_the_models_own(family, kind, run):
    model = tiny(family, "eager")
    for record, ids in sequences(run(family, kind)):
        first = record.prompt_count - 1
        with torch.no_grad():
            own = torch.stack(model(ids[None], output_attentions=True, use_cache=False).attentions)[:, 0, :, first:]
        kept = record.signals
        torch.testing.assert_close(kept["attention"], own, rtol=2e-4, atol=1e-5)
        rows = own.double().numpy()
        entropy = -np.where(rows > 0, rows * np.log(np.where(rows > 0, rows, 1)), 0).sum(-1)
        np.testing.assert_allclose(kept["attention_row_entropy"], entropy, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(kept["attention_sink"], 1 - rows.sum(-1).mean(1), atol=1e-5)
        diagonal = np.stack([rows[..., t, first + t] for t in range(rows.shape[2])], -1)
        np.testing.assert_allclose(kept["attention_diagonal"], diagonal, rtol=1e-3, atol=1e-5)


def test_only_rows_with_a_sink_sum_to_less_than_one(run):
    for family in FAMILIES[:-1]:
        for record in run(family, "loglikelihood").records.values():
            sink = record.signals["attention_sink"]
            if family == "gpt_oss":
                assert sink.min() > 1e-6 and sink.mean() > 0.05
            else:
                assert sink.abs().max() < 1e-6


@pytest.mark.parametrize(("family", "sliding"), [("mistral", (0, 1, 2)), ("gemma2", (0, 2)), ("gpt_oss", (0, 2))])
def test_a_sliding_window_leaves_earlier_positions_nothing(family, sliding, run):
    record = run(family, "generate_until").records[1]  # eleven words
    attention, first = record.signals["attention"], record.prompt_count - 1
    for block in range(3):
        far = [attention[block, :, t, : max(0, first + t - WINDOW + 1)] for t in range(attention.shape[2])]
        assert all((f == 0).all() for f in far) == (block in sliding)
