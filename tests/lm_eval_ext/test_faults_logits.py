"""Logits that are no numbers: answers as of hf, NaN where a signal is undefined, and scores that say why they lack."""

import json
import math
import re

import pytest
import torch

from metrics.cases import cases
from metrics.choosing import choose
from metrics.report import auroc_table, show

GREEDY = {"until": ["w7"], "max_gen_toks": 3, "do_sample": False}
BAD = 20
"""Token id that makes a row's logits what the test wants."""

VALUES = ("nan", "inf", "all -inf", "half -inf")


def spoil(model, value):
    """Rows whose prompt holds the token `BAD` get other logits, at every step."""
    rows = []

    def hook(_module, args, kwargs, output):
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids.shape[1] > 1:
            rows[:] = (ids == BAD).any(1).nonzero().flatten().tolist()
        for row in rows:
            if value == "half -inf":
                output.logits[row, :, ::2] = -torch.inf
            elif value == "inf":
                output.logits[row, :, 5] = torch.inf
            else:
                output.logits[row] = torch.nan if value == "nan" else -torch.inf

    model.register_forward_hook(hook, with_kwargs=True)
    return model


@pytest.fixture
def asked(instance, words_of):
    """Six requests, of which every third is spoilt."""

    def make(kind):
        made = []
        for i in range(6):
            prompt = " ".join(w for w in words_of(9, i).split() if w != f"w{BAD - 4}")
            prompt += f" w{BAD - 4} w1" if i % 3 == 0 else " w2 w3"
            made.append(instance(kind, (prompt, " w8 w5" if kind == "loglikelihood" else dict(GREEDY)), i))
        return made

    return make


def plain(answers):
    return [json.dumps(a) for a in answers]  # NaN equals NaN there


@pytest.mark.parametrize("kind", ["generate_until", "loglikelihood"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", VALUES)
def test_evaluation_is_hfs_and_undefined_is_nan(value, dtype, kind, asked, make_lm, make_hf, tiny_model, reopened):
    requests = asked(kind)
    lm = make_lm(model=spoil(tiny_model("llama").to(dtype), value))
    answers = getattr(lm, kind)(requests, disable_tqdm=True)
    theirs = make_hf(model=spoil(tiny_model("llama").to(dtype), value))
    assert plain(answers) == plain(getattr(theirs, kind)(requests, disable_tqdm=True))
    sound = make_lm(model=tiny_model("llama").to(dtype))
    getattr(sound, kind)(requests, disable_tqdm=True)
    store = reopened(lm)
    assert len(store) == 6 and lm.recorder.on is False and "stopped" not in store.manifest["runs"][0]
    names = ["tokens", *sorted(store.manifest["signals"])]
    expected = {r.key: r.signals for r in reopened(sound).records(names)}
    seen = 0
    for record in store.records(names):
        if record.key.doc_id % 3:
            for name, signal in record.signals.items():
                assert torch.equal(signal, expected[record.key][name]), name
        elif value == "half -inf":
            own = record.signals["logprob"]
            assert not own.isnan().any()
            assert torch.equal(own == -torch.inf, record.signals["tokens"] % 2 == 0)
            assert record.signals["entropy"].isfinite().all()
            assert torch.allclose(record.signals["log_vocabulary"], torch.tensor(24.0).log())
        else:
            seen += record.token_count
            for name, signal in record.signals.items():
                if name not in ("tokens", "prompt_tokens"):
                    undefined = signal.isnan() if signal.is_floating_point() else signal == -1
                    assert undefined.all(), name
    assert seen or value == "half -inf"


def test_scores_say_why_they_lack_and_tables_count_them(asked, make_lm, tiny_model, reopened, tmp_path):
    lm = make_lm(model=spoil(tiny_model("llama"), "nan"))
    lm.generate_until(asked("generate_until"), disable_tqdm=True)
    labels = tmp_path / "labels.csv"
    labels.write_text("doc_id,correct\n" + "".join(f"{i},{int(i % 2)}\n" for i in range(6)))
    frame = reopened(lm).scores("standard", labels=labels, span="generation")
    assert frame["mean_entropy"].isna().tolist() == [i % 3 == 0 for i in range(6)]
    assert frame.attrs["unscored"]["mean_entropy"] == {"signal holds NaN": 2}
    assert "token_count" not in frame.attrs["unscored"]
    (case,) = cases(frame, choose("standard"))
    table = auroc_table(case)
    rows = {row["metric"]: row for row in table.rows}
    assert (rows["mean_entropy"]["n"], rows["mean_entropy"]["unscored"]) == (4, 2)
    assert (rows["prompt_length"]["n"], rows["prompt_length"]["unscored"]) == (6, 0)
    assert not math.isnan(rows["mean_entropy"]["auroc"])
    assert re.search(r"\| +4 \| +2 \|\n", show(table, "md"))


@pytest.mark.parametrize("raw", ["hidden_norm", "attention_diagonal"])
def test_states_and_attention_that_are_no_numbers(raw, asked, make_lm, make_hf, tiny_model, reopened):
    """An overflow in a middle block, as half precision brings it."""

    def overflow(model):
        def hook(_module, args, output):
            state = output[0] if isinstance(output, tuple) else output
            state[0] = torch.nan

        model.model.layers[1].register_forward_hook(hook)
        return model

    lm = make_lm(model=overflow(tiny_model("llama", "eager")), signals=raw, batch_size=1)
    requests = asked("generate_until")[:2]
    answers = lm.generate_until(requests, disable_tqdm=True)
    theirs = make_hf(model=overflow(tiny_model("llama", "eager")), batch_size=1)
    assert answers == theirs.generate_until(requests, disable_tqdm=True)
    for record in reopened(lm).records([raw]):
        by_layer = record.signals[raw].reshape(record.signals[raw].shape[0], -1)
        assert by_layer[0].isfinite().all()
        assert by_layer[-1].isnan().all()
