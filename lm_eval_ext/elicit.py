"""The words in which a model is asked about its own answer, as token ids.

Prompt and answer stay the ids that were read and written; only what is put around them is tokenized here. Where a
method quotes the prompt as text, its special tokens are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from metrics.record import Span

Render = Callable[[list[dict[str, str]]], str]
"""Renders messages with the chat template, up to where the assistant's turn begins."""

QUESTION = "Is the possible answer:\n (A) True\n (B) False\nThe possible answer is:"
"""P(True), zero-shot, after arXiv:2207.05221, section 3: it stands behind prompt and answer."""

QUOTED = (
    "Question: ",
    "\n Possible answer:",
    "\n Is the possible answer:\n (A) True\n (B) False\n The possible answer is:",
)
"""The same in LM-Polygraph's words: around the prompt and the answer, both as text."""

ELICITING = (
    "Read the following question with optional context and decide if the answer correctly answer the question. "
    "Focus on the answer, and reply Y or N.\n\n\n"
    "Context: Luxor International Airport is a airport near Luxor in Egypt (EG). It is 353km away from the nearest "
    "seaport (Duba). The offical IATA for this airport is LXR.\n"
    "Question: Luxor international airport is in which country?\n"
    "Answer: It is in the United States, and its IATA is LXR.\n"
    " Decision: N. (The airport is in Egypt, not the United States.)\n\n\n"
    "Context: Harry is a good witcher.\nQuestion: How old is Harry?\nAnswer: Harry practices witchcraft.\n"
    " Decision: N. (The answer does not mention Harry's age.)\n\n\n"
    "Question: What is the capital of Kenya?\nAnswer: Nairobi is the capital of Kenya.\n Decision: Y.\n\n\n"
    "Question: Who has won the most Premier League titles since 2015?\n"
    "Answer: Manchester City have win the most Premier League title after 2015.\n"
    " Decision: Y. (Grammar errors are ignored.)\n\n\nQuestion: ",
    "\nAnswer:",
    "\n Decision:",
)
"""CSL's prompt, word for word from arXiv:2406.01806: before the prompt, before the answer, behind it."""

_MARK = "MARK7319"


class Text(NamedTuple):
    """A prompt, a continuation, and which of its tokens make up the answer; None where that is not known."""

    prompt: Sequence[int]
    tokens: Sequence[int]
    answer: Span | None

    @property
    def answered(self) -> list[int]:
        """The answer's tokens."""
        return [] if self.answer is None else list(self.tokens[slice(*self.answer)])


def asked(tokenizer: PreTrainedTokenizerBase, text: Text, render: Render | None = None) -> list[int]:
    """Prompt, answer and the question whether it is true.

    Where the prompt is a chat, which shows in its holding what the template puts behind a user's message, the question
    is a user's message and the assistant's turn is open; else it begins in a line of its own.

    Args:
        tokenizer: the model's.
        text: what was asked and answered.
        render: the chat template; None where there is none.
    """
    more = f"\n{QUESTION}"
    if render is not None and _is_chat(tokenizer, text.prompt, render):
        turns = [("user", "?"), ("assistant", _MARK), ("user", QUESTION)]
        more = render([{"role": role, "content": content} for role, content in turns]).rpartition(_MARK)[2]
    return [*text.prompt, *text.answered, *tokenizer.encode(more, add_special_tokens=False)]


def _is_chat(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], render: Render) -> bool:
    behind = render([{"role": "user", "content": _MARK}]).rpartition(_MARK)[2].strip()
    return bool(behind) and behind in str(tokenizer.decode(list(prompt)))


def quoted(tokenizer: PreTrainedTokenizerBase, text: Text) -> list[int]:
    """LM-Polygraph's question whether an answer is true, with prompt and answer quoted as text."""
    before, between, behind = QUOTED
    question, answer = _plain(tokenizer, text.prompt), _plain(tokenizer, text.answered)
    return tokenizer.encode(before + question + between + answer + behind)


def eliciting(tokenizer: PreTrainedTokenizerBase, text: Text) -> tuple[list[int], int]:
    """CSL's question whether an answer is correct, and the place of the answer's first token in it."""
    before, between, behind = ELICITING
    head = _opening(tokenizer, before + _plain(tokenizer, text.prompt) + between)
    return [*head, *text.answered, *tokenizer.encode(behind, add_special_tokens=False)], len(head)


def _opening(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of a text that goes on: with what the tokenizer puts before a text, without what it puts behind one."""
    ids = tokenizer.encode(text)
    plain = tokenizer.encode(text, add_special_tokens=False)
    extra = len(ids) - len(plain)
    first = next((i for i in range(extra + 1) if ids[i : i + len(plain)] == plain), extra)
    return ids[: first + len(plain)]


def _plain(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=True))


def replies(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The first tokens of the replies True and False, each with and without a space in front.

    Where the tokenizer splits a word, its first piece stands for it; a token of nothing but space is passed over.

    Raises:
        ValueError: a reply is unknown to the tokenizer, or both may begin with the same token.
    """
    true, false = (sorted({_first(tokenizer, space + word) for space in ("", " ")}) for word in ("True", "False"))
    if set(true) & set(false) or tokenizer.unk_token_id in (*true, *false):
        raise ValueError(
            "the tokenizer cannot tell the replies True and False by their first token, so P(True) is not defined; "
            "leave out p_true, p_true_relative and p_true_polygraph"
        )
    return true, false


def _first(tokenizer: PreTrainedTokenizerBase, word: str) -> int:
    ids = tokenizer.encode(word, add_special_tokens=False)
    return next((i for i in ids if str(tokenizer.decode([i])).strip()), ids[0])


def reply_of_polygraph(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The one token that LM-Polygraph counts: True as it stands at the start of a text.

    Raises:
        ValueError: the tokenizer makes several of it, or none that it knows.
    """
    ids = tokenizer.encode("True", add_special_tokens=False)
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        raise ValueError(
            f"the tokenizer makes {len(ids)} tokens of True, and LM-Polygraph's P(True) is defined for one that is "
            "known; leave out p_true_polygraph"
        )
    return ids
