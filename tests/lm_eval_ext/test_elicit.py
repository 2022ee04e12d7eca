"""What a model is asked about its answer: which tokens, and which replies count."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from lm_eval_ext.elicit import ELICITING, QUESTION, QUOTED, Text, asked, eliciting, quoted, replies, reply_of_polygraph
from metrics.record import Span

KNOWN = [
    "<bos>",
    "<eos>",
    "<unk>",
    "<pad>",
    "True",
    "False",
    "possible",
    "answer:",
    "Decision:",
    "[U]",
    "[A]",
    "w1",
    "w2",
]
BOS, UNK = 0, 2


def words(vocabulary=KNOWN, ends=True):
    ids = {word: i for i, word in enumerate(vocabulary)}
    backend = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if ends:
        special = [("<bos>", ids["<bos>"]), ("<eos>", ids["<eos>"])]
        backend.post_processor = processors.TemplateProcessing(single="<bos> $A <eos>", special_tokens=special)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>", pad_token="<pad>"
    )


def ids(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False)


def test_the_question_follows_prompt_and_answer():
    tokenizer = words()
    text = Text([BOS, 11, 12], [12, 11, 11, 1], Span(1, 3))
    assert asked(tokenizer, text) == [BOS, 11, 12, 11, 11, *ids(tokenizer, QUESTION)]


def test_in_a_chat_the_question_is_a_message_of_its_own():
    tokenizer = words()

    def render(messages):
        return "".join(f" {'[U]' if m['role'] == 'user' else '[A]'} {m['content']}" for m in messages) + " [A] "

    in_chat = Text(ids(tokenizer, "[U] w1 [A]"), [12], Span(0, 1))
    assert asked(tokenizer, in_chat, render) == [9, 11, 10, 12, 9, *ids(tokenizer, QUESTION), 10]
    plain = in_chat._replace(prompt=[11])
    assert asked(tokenizer, plain, render) == [11, 12, *ids(tokenizer, QUESTION)]


def test_quoted_is_one_text_with_its_first_and_last_token():
    tokenizer = words()
    before, between, behind = QUOTED
    text = Text([BOS, 11, 12], [12, 11], Span(0, 2))
    assert quoted(tokenizer, text) == tokenizer.encode(f"{before}w1 w2{between}w2 w1{behind}")


@pytest.mark.parametrize("ends", [True, False])
def test_eliciting_keeps_the_answers_tokens(ends):
    tokenizer = words(ends=ends)
    before, between, behind = ELICITING
    built, first = eliciting(tokenizer, Text([BOS, 11], [12, 11, 12, 1], Span(0, 3)))
    assert built[first : first + 3] == [12, 11, 12]
    assert built[first + 3 :] == ids(tokenizer, behind)
    assert built[:first] == [BOS] * ends + ids(tokenizer, f"{before}w1{between}")


def test_replies_are_counted_with_and_without_a_space():
    assert replies(words()) == ([4], [5])
    backend = Tokenizer(models.BPE({c: i for i, c in enumerate("ĠTrueFals?")}, [], unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    split = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?")
    assert [[split.convert_ids_to_tokens(i) for i in of] for of in replies(split)] == [["T"], ["F"]]
    with pytest.raises(ValueError, match=r"4 tokens of True.*leave out p_true_polygraph"):
        reply_of_polygraph(split)


def test_replies_that_cannot_be_told_apart_are_refused():
    without = words([w for w in KNOWN if w not in ("True", "False")])
    with pytest.raises(ValueError, match=r"cannot tell the replies True and False.*leave out p_true"):
        replies(without)
    with pytest.raises(ValueError, match="leave out p_true_polygraph"):
        reply_of_polygraph(without)
    assert reply_of_polygraph(words()) == [4]
