"""Further passes: what they read, by hand; batches, padding, room and refusals; and whole evaluations."""

import math
import sys

import pytest
import torch
from families import CONTEXT, VOCAB
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lm_eval_ext import gradients
from lm_eval_ext.elicit import Text, asked, eliciting, quoted
from lm_eval_ext.passes import FurtherPasses
from metrics.plan import make_plan
from metrics.record import Span

METRICS = "pmi+cpmi+p_true+p_true_relative+p_true_polygraph+csl+csl_by_head+csl_next"
PLAN = make_plan(METRICS, "input_gradient")
NAMES = {
    *("logprob_alone", "true_logprob", "false_logprob", "true_logprob_polygraph"),
    *("csl_weight", "csl_head_weight", "csl_next_weight", "input_gradient"),
}
TRUE, FALSE, ROOM = VOCAB - 2, VOCAB - 1, 512
TEXTS = [
    Text([0, 6, 7], [8, 9, 10, 1], Span(1, 3)),
    Text([0, *range(10, 30)], [31, 32, 33, 34, 35, 36, 37], Span(0, 7)),
    Text([0], [30], Span(0, 1)),
]


@pytest.fixture(scope="module")
def speaking():
    """The tokenizer of the tests, with words for True and False."""
    words = {"<bos>": 0, "<eos>": 1, "<unk>": 2, "<pad>": 3, **{f"w{i}": i + 4 for i in range(VOCAB - 6)}}
    backend = Tokenizer(models.WordLevel({**words, "True": TRUE, "False": FALSE}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        pad_token="<pad>",
        model_max_length=ROOM,
    )


@pytest.fixture
def passes(tiny_model, speaking):
    """A function (family, plan, **options) -> further passes on a tiny model."""

    def make(family="llama", plan=PLAN, **options):
        model = tiny_model(family)
        return FurtherPasses(model, plan, speaking, **{"prefix": 0, "longest": ROOM, **options})

    return make


def log_rows(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].log_softmax(-1)


def last_row(model, ids):
    with torch.no_grad():
        return torch.cat(model(torch.tensor([ids]), output_attentions=True).attentions)[:, :, -1].flatten(0, 1)


def test_logprob_alone(passes):
    look = passes()
    for text, found in zip(TEXTS, look(TEXTS)):
        rows = log_rows(look.model, [0, *text.tokens])
        by_hand = torch.stack([rows[t, token] for t, token in enumerate(text.tokens)])
        torch.testing.assert_close(found["logprob_alone"], by_hand, rtol=1e-4, atol=1e-5)


def test_logprob_alone_is_not_lm_polygraphs(passes):
    """It takes the row of the token itself (and has no row for the first): off by one."""
    look, text = passes(), TEXTS[1]
    theirs = log_rows(look.model, text.tokens).gather(-1, torch.tensor(text.tokens)[:, None])[:, 0]
    ours = look([text])[0]["logprob_alone"]
    assert not torch.isclose(theirs, ours, rtol=1e-3).any()


def test_true_logprob_and_false_logprob(passes, speaking):
    look = passes()
    for text, found in zip(TEXTS, look(TEXTS)):
        row = log_rows(look.model, asked(speaking, text))[-1]
        torch.testing.assert_close(found["true_logprob"], row[TRUE], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found["false_logprob"], row[FALSE], rtol=1e-4, atol=1e-5)
        row = log_rows(look.model, quoted(speaking, text))[-1]
        torch.testing.assert_close(found["true_logprob_polygraph"], row[TRUE], rtol=1e-4, atol=1e-5)


def test_several_spellings_of_a_reply_add_up(passes, monkeypatch):
    monkeypatch.setattr("lm_eval_ext.passes.replies", lambda _tokenizer: ([TRUE, 7], [FALSE]))
    both = passes()(TEXTS[:1])[0]["true_logprob"]
    monkeypatch.setattr("lm_eval_ext.passes.replies", lambda _tokenizer: ([TRUE], [7]))
    apart = passes()(TEXTS[:1])[0]
    assert float(both.exp()) == pytest.approx(
        float(apart["true_logprob"].exp() + apart["false_logprob"].exp()), rel=1e-4
    )


def test_csl_weight_and_csl_head_weight(tiny_model, speaking, passes):
    model, look = tiny_model("llama", "eager"), passes()
    for text, found in zip(TEXTS, look(TEXTS)):
        ids, first = eliciting(speaking, text)
        heads = last_row(model, ids)[:, first : first + len(text.answered)]
        inside = slice(*text.answer)
        torch.testing.assert_close(found["csl_weight"][inside], heads.mean(0), rtol=1e-4, atol=1e-6)
        shares = (heads / heads.sum(-1, keepdim=True)).mean(0)
        torch.testing.assert_close(found["csl_head_weight"][inside], shares, rtol=1e-4, atol=1e-6)
        assert float(found["csl_head_weight"][inside].sum()) == pytest.approx(1, abs=1e-5)
        assert found["csl_weight"].isnan().sum() == len(text.tokens) - len(text.answered)


def test_csl_next_weight(tiny_model, passes):
    model, look = tiny_model("llama", "eager"), passes()
    for text, found in zip(TEXTS, look(TEXTS)):
        start, stop = text.answer
        row = last_row(model, [*text.prompt, *text.tokens[:stop]]).mean(0)
        torch.testing.assert_close(
            found["csl_next_weight"][start:stop], row[len(text.prompt) + start :], rtol=1e-4, atol=1e-6
        )


def test_a_window_that_does_not_reach_the_answer_leaves_its_heads_out(passes):
    """All of Mistral's blocks look at five positions, and the question alone is no longer than that."""
    found = passes("mistral")(TEXTS)
    assert all(one["csl_head_weight"][slice(*t.answer)].nansum() > 0.99 for one, t in zip(found, TEXTS))


@pytest.mark.parametrize("family", ["llama", "neox", "qwen3_moe"])
def test_a_batch_equals_its_texts_one_by_one(family, passes):
    look = passes(family)
    for one, text in zip(look(TEXTS), TEXTS):
        alone = look([text])[0]
        assert set(one) == set(alone) == NAMES
        for name, value in one.items():
            torch.testing.assert_close(value, alone[name], rtol=1e-3, atol=1e-4, equal_nan=True, msg=name)


def test_a_recurrent_model_is_asked_too_but_has_no_attention(passes):
    plan = make_plan("pmi+p_true", "input_gradient")
    assert set(passes("mamba", plan)(TEXTS)[0]) == {"logprob_alone", "true_logprob", "input_gradient"}
    with pytest.raises(ValueError, match="attention"):
        passes("mamba", make_plan("csl"))


def test_what_is_too_long_or_has_no_answer_is_nan_and_said_once(passes):
    said = []
    look = passes(longest=30, tell=said.append)
    texts = [TEXTS[1], Text([0, 5], [6, 7], Span(0, 0)), Text([0, 5], [6, 7], None), TEXTS[2]]
    for _ in range(2):
        long, empty, unknown, short = look(texts)
    assert said == ["a question about an answer is longer than the model's context (30); NaN there"]
    for one in (long, empty, unknown):
        assert one["true_logprob"].isnan()
        assert one["csl_weight"].isnan().all()
    assert long["logprob_alone"].isfinite().all()
    assert empty["csl_next_weight"].isnan().all()
    assert short["true_logprob"].isfinite()
    assert short["csl_weight"].isnan().all()  # its own question is the longer one


def test_nothing_is_read_that_is_not_wanted(passes):
    look = passes(plan=make_plan("standard", "hidden_norm"))
    look.model.register_forward_hook(lambda *_: pytest.fail("a pass was made"))
    assert look.names == ()
    assert look(TEXTS) == [{}, {}, {}]


def test_lack_of_memory_halves_the_batch_and_then_gives_up_a_text(passes, monkeypatch):
    sizes, said = [], []

    def backward(model, sequences, device):
        sizes.append(len(sequences))
        if len(sequences) > 1 or len(sequences[0][1]) > 4:
            raise torch.OutOfMemoryError
        return gradients.input_gradient(model, sequences, device)

    monkeypatch.setattr("lm_eval_ext.passes.BACKWARD", {"input_gradient": backward})
    found = passes(plan=make_plan((), "input_gradient"), tell=said.append)(TEXTS)
    assert sizes == [3, 2, 1, 1, 1]
    assert said == ["memory ran out in the backward pass over a text; its input_gradient is NaN"]
    assert [bool(one["input_gradient"].isnan().all()) for one in found] == [False, True, False]


def test_a_tokenizer_without_a_first_token_is_refused(passes):
    with pytest.raises(ValueError, match="no first token"):
        passes(prefix=None)


# --- whole evaluations


@pytest.fixture
def recorded(make_lm, speaking, instance, reopened):
    """A function (kind, arguments, **options) -> answers and records of an evaluation with further passes."""

    def run(kind, arguments, **options):
        options = {
            "metrics": METRICS,
            "signals": "input_gradient",
            "tokenizer": speaking,
            "max_length": ROOM,
            **options,
        }
        lm = make_lm(**options)
        answers = getattr(lm, kind)([instance(kind, a, doc_id=i) for i, a in enumerate(arguments)], disable_tqdm=True)
        store = reopened(lm)
        names = ["tokens", *store.manifest["signals"]]
        return answers, sorted(store.records(names), key=lambda record: record.key), lm

    return run


PAIRS = [("w1 w2", " w5 w6 w7"), ("w1 w2 w3 w4", " w9"), ("w7", " w8 w3")]


@pytest.mark.parametrize("size", [1, 4])
def test_scored_continuations(recorded, make_hf, instance, speaking, size):
    answers, records, lm = recorded("loglikelihood", PAIRS, batch_size=size)
    hf = make_hf(tokenizer=speaking, batch_size=size, max_length=ROOM)
    requests = [instance("loglikelihood", a, doc_id=i) for i, a in enumerate(PAIRS)]
    assert answers == hf.loglikelihood(requests, disable_tqdm=True)
    for record in records:
        assert set(record.signals) >= NAMES
        rows = log_rows(lm.model, [lm.prefix_token_id, *record.signals["tokens"].tolist()])
        by_hand = rows[:-1].gather(-1, record.signals["tokens"].long()[:, None])[:, 0]
        torch.testing.assert_close(record.signals["logprob_alone"], by_hand, rtol=1e-3, atol=1e-4)
        assert record.signals["true_logprob"].isfinite()
        assert len(record.signals["input_gradient"]) == record.token_count


def test_generated_answers_and_their_scores(recorded, make_hf, instance, speaking, reopened):
    requests = [(f"w{i} w{i + 3}", {"until": [], "max_gen_toks": 6}) for i in range(3)]
    answers, records, lm = recorded("generate_until", requests)
    asked_ = [instance("generate_until", a, doc_id=i) for i, a in enumerate(requests)]
    assert answers == make_hf(tokenizer=speaking, max_length=ROOM).generate_until(asked_, disable_tqdm=True)
    assert all(set(record.signals) >= NAMES for record in records)
    frame = reopened(lm).scores(METRICS)
    for column in METRICS.split("+"):
        assert frame[column].map(math.isfinite).all(), frame.attrs["unscored"]


def test_rolling_texts_have_no_further_passes(recorded):
    _, records, _ = recorded("loglikelihood_rolling", [("w1 w2 w3 w4",)])
    assert not NAMES & set(records[0].signals)


def test_what_cannot_be_made_is_refused_before_any_work(make_lm, monkeypatch):
    """The ordinary tokenizer of the tests has no words for True and False."""
    with pytest.raises(ValueError, match=r"cannot tell the replies True and False.*leave out p_true"):
        make_lm(metrics="p_true")
    monkeypatch.setitem(sys.modules, "lxt", None)
    with pytest.raises(ValueError, match="pip install lxt"):
        make_lm(signals="lrp")


def test_the_context_is_that_of_the_evaluation(recorded):
    _, records, _ = recorded("loglikelihood", PAIRS[:1], max_length=CONTEXT, signals=None)
    assert records[0].signals["csl_weight"].isnan().all()  # the eliciting prompt alone is longer
    assert records[0].signals["logprob_alone"].isfinite().all()
