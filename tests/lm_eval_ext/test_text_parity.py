"""Answers are those of hf, and spans and signals those of a batch of one, whatever the text and the tokenizer."""

import pytest
import torch
from scripted import script, scripted
from spelling import KINDS, THINK

from lm_eval_ext.generation import STOPS_FIRST
from metrics.record import Span

SIGNALS = ("tokens", "logprob", "entropy", "top_logprobs")
PROMPTS = ["a", "a 4)", "the answer", "b a b 4"]
END = "<eos>"


@pytest.fixture(scope="session")
def spelt():
    """A function kind -> its tokenizer and a model for it, made once."""
    made = {}

    def get(kind):
        if kind not in made:
            tokenizer = KINDS[kind]()
            made[kind] = (tokenizer, scripted(tokenizer))
        return made[kind]

    return get


@pytest.fixture
def asked(spelt, make_lm, make_hf, instance, reopened):
    """A function (kind, rows, settings, **arguments) -> by batch size: hf's answers, ours, and the records."""

    def run(kind, rows, generation, **arguments):
        tokenizer, model = spelt(kind)
        settings = {"max_gen_toks": 12, "do_sample": False, **generation}
        requests = [instance("generate_until", (p, settings), i) for i, p in enumerate(PROMPTS[: len(rows)])]
        model.scripts = {tuple(tokenizer.encode(p)): script(tokenizer, parts) or [1] for p, parts in zip(PROMPTS, rows)}
        found = {}
        for size in (1, len(rows)):
            same = {"model": model, "tokenizer": tokenizer, "batch_size": size, **arguments}
            expected = make_hf(**same).generate_until(requests, disable_tqdm=True)
            lm = make_lm(**same)
            answers = lm.generate_until(requests, disable_tqdm=True)
            records = {r.key.doc_id: r for r in reopened(lm).records(SIGNALS)}
            found[size] = expected, answers, [records[i] for i in range(len(rows))]
        return found

    return run


def same_spans_and_signals(one, many):
    for a, b in zip(one, many):
        assert a.spans == b.spans
        assert a.token_count == b.token_count == a.spans["generation"].stop
        assert torch.equal(a.signals["tokens"], b.signals["tokens"])
        for name in SIGNALS[1:]:
            torch.testing.assert_close(a.signals[name], b.signals[name], atol=2e-4, rtol=2e-4)


CASES = {
    "a stop inside a token": ([["4).", "4).", END], ["4", ")."], ["44)", "a"], [").", "4"]], {"until": [")"]}),
    "a stop across tokens": ([["4\n", "\n", "a"], ["4", "\n\n"], ["a", "\n", "4", "\n", "\n"]], {"until": ["\n\n"]}),
    "stops that overlap": ([["a4)", ").", "b"], ["b).", "a"], ["4))"]], {"until": [").", "))", ")"]}),
    "the end of sequence as a stop": ([["4", END, "b"], ["a b", END], [END]], {"until": [END]}),
    "no stop": ([["4", END], ["a", "b", "4", ")", "a", END], [END, "a"]], {"until": []}),
    "a stop that is text, not a list": ([["4", ")", "b"], ["a b)"]], {"until": ")"}),
    "one token": ([["4", "a"], [")", "a"], ["\n", "a"]], {"until": [")"], "max_gen_toks": 1}),
    "nothing": ([[END], [")", "a"], ["\n\n", "4"]], {"until": [")", "\n\n"]}),
    "white space": ([["  ", "\n", "4"], ["\n", "4"], [" ", END]], {"until": ["4"]}),
    "special tokens inside": (
        [["a", "<|end|>", "4", END], ["<|end|>", "4", ")"], ["<unk>", "b", END]],
        {"until": [")"]},
    ),
    "characters of several tokens": (
        [["a😀", "中", ")"], ["e\u0301", "é", END], ["€😀", "😀", "b"], ["中文", ")", "中"]],
        {"until": [")", "😀😀"]},
    ),
    "beams": ([["4", ")"], ["a", "b", ")"]], {"until": [")"], "num_beams": 2, "max_gen_toks": 5}),
}


@pytest.mark.parametrize("kind", ["byte level", "byte level, cleaned", "byte fallback", "metaspace", "wordpiece"])
@pytest.mark.parametrize("name", CASES)
def test_the_same_answers_and_spans_in_every_batch(name, kind, asked):
    rows, generation = CASES[name]
    found = asked(kind, rows, generation)
    for expected, answers, records in found.values():
        assert answers == expected == [r.answer for r in records]
        assert all("answer" in r.spans for r in records)
    same_spans_and_signals(found[1][2], found[len(rows)][2])


def decoded(spelt, kind, record, span):
    start, stop = record.spans[span]
    return spelt(kind)[0].decode(record.signals["tokens"][start:stop], skip_special_tokens=True)


@pytest.mark.parametrize("form", [str, int])
@pytest.mark.parametrize("kind", ["byte level", "byte fallback", "metaspace"])
def test_thoughts_are_spans_of_their_own(kind, form, asked, spelt):
    rows = [["a b", THINK, "\n\n", "4", END], ["b", THINK, "4", "a", END], [THINK, "4 4", END], ["a", "b", "4", END]]
    mark = spelt(kind)[0].convert_tokens_to_ids(THINK)
    found = asked(kind, rows, {"until": []}, think_end_token=THINK if form is str else mark)
    for expected, answers, records in found.values():
        assert answers == expected == [r.answer for r in records]
        assert ["thought" in r.spans for r in records] == [True, True, True, False]
        for record in records[:3]:
            assert record.signals["tokens"][record.spans["thought"].stop - 1] == mark
            assert record.spans["thought"].start == 0
            assert THINK not in record.answer
            assert decoded(spelt, kind, record, "answer").strip() == record.answer.strip()
        assert decoded(spelt, kind, records[3], "generation").strip() == records[3].answer  # lm-eval scores the thought
    same_spans_and_signals(found[1][2], found[4][2])


def test_a_stop_string_inside_a_thought_does_not_hide_the_answer(asked, spelt):
    """In a batch the row goes on behind it, and lm-eval cuts the thought first; alone it ends there, thinking.

    Before 0.4.12 lm-eval cuts at the stop string first, and the row is scored in a batch as it is alone.
    """
    rows = [["a)", "b", THINK, "4", ")", *["b"] * 9], ["b", "a"]]
    found = asked("byte level", rows, {"until": [")"]}, think_end_token=THINK)
    for expected, answers, records in found.values():
        assert answers == expected == [r.answer for r in records]
    alone, together = found[1][2][0], found[2][2][0]
    assert alone.answer == "a"
    assert "thought" not in alone.spans
    if STOPS_FIRST:
        assert (together.answer, together.spans) == (alone.answer, alone.spans)
        assert decoded(spelt, "byte level", together, "generation") == "a)"
        return
    assert together.answer == "4"
    assert decoded(spelt, "byte level", together, "answer") == "4"
    assert decoded(spelt, "byte level", together, "thought").endswith(THINK)
    assert decoded(spelt, "byte level", together, "generation").endswith("4)")


def test_a_special_token_as_a_stop_ends_the_generation(asked):
    """lm-eval stops at it when all rows have, and cannot cut there, since it decodes without special tokens."""
    rows = [["4", "<|end|>", "a", "b", "a"], ["a", "b", "a", "4", "<|end|>"]]
    found = asked("byte level", rows, {"until": ["<|end|>"]})
    for expected, answers, _ in found.values():
        assert answers == expected
    assert (found[1][0][0], found[2][0][0]) == ("4", "4aba")  # of hf itself
    same_spans_and_signals(found[1][2], found[2][2])
    assert found[2][2][0].spans == {"answer": Span(0, 1), "generation": Span(0, 2)}


def test_an_end_of_sequence_of_the_request_itself(asked):
    rows = [["4", "<|end|>"], ["a", "b", "a", "4", "<|end|>"]]
    found = asked("byte level", rows, {"until": [], "eos_token_id": 4})
    for expected, answers, _ in found.values():
        assert answers == expected
    same_spans_and_signals(found[1][2], found[2][2])
    assert found[2][2][0].spans == {"answer": Span(0, 1), "generation": Span(0, 2)}


def test_a_marker_that_the_decoded_text_does_not_show_is_said(asked, capsys):
    rows = [["a", "<|end|>", "4", END]]
    found = asked("byte level", rows, {"until": []}, think_end_token="<|end|>")
    assert "think_end_token=<|end|> is a special token" in capsys.readouterr().err
    expected, answers, (record,) = found[1]
    assert answers == expected == ["a4"]
    assert record.spans == {"answer": Span(0, 3), "generation": Span(0, 4)}
    found = asked("byte level", rows, {"until": []}, think_end_token="4")
    assert "special" not in capsys.readouterr().err
    assert found[1][1] == ["4"]
    assert found[1][2][0].spans["thought"] == Span(0, 2)
