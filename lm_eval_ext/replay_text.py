"""Token ids of prompts and answers that are known as text alone, and whether they are what the text came from.

Prompts are encoded as `HFLM.generate_until` does. Of an answer the text does not always tell its ids: a tokenizer that
drops a first space decodes "Yes" with and without one alike. So there are several candidates, each a list of ids that
decodes to the text; which is meant the caller decides, with the model. Ids that no tokenizer would choose for the text
(a word generated in smaller parts than needed) cannot be seen in it at all.
"""

# pyright: reportAttributeAccessIssue=false
# (lm-eval's class decorator hides the type of HFLM)
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lm_eval_ext.answers import spans
from lm_eval_ext.replay_log import messages
from metrics.record import Span

if TYPE_CHECKING:
    from lm_eval_ext.model import HFStoreLM

ROOM = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""What the room for an answer is called in generation settings, the first that is given."""

EMPTY_PROMPT = "the prompt has no token"
NO_ROOM = "the settings leave a prompt no room in the context"
TOO_LONG = "prompt and answer are longer than the context"
LOST_PROMPT = "the tokenizer does not give the prompt back"
SPECIAL = "the text names a special token, which a decoded answer leaves out"
SPACE = "the tokenizer changes white space"
UNKNOWN = "the tokenizer lacks a token for some of the text"
OTHER = "the tokenizer gives another text back"
UNUSABLE = (EMPTY_PROMPT, NO_ROOM, TOO_LONG)
"""Reasons for which there is nothing that a model could read."""


@dataclass(frozen=True)
class Prompt:
    """A prompt's ids, as the model reads them and before the cut on the left, and what is wrong with them."""

    text: str
    ids: list[int]
    whole: list[int]
    reason: str = ""


@dataclass(frozen=True)
class Answer:
    """Candidates for an answer's ids; a `reason` where none decodes to the text, and there is one candidate or none."""

    candidates: list[list[int]]
    reason: str = ""


def encode_prompt(lm: HFStoreLM, prompt: str, settings: Mapping[str, Any]) -> Prompt:
    """The ids of a prompt for generation: its last ``max_length - max_gen_toks``, as generation itself keeps them.

    Messages of a chat endpoint are brought into text by the model's own chat template.

    Raises:
        ValueError: there are messages and no template.
    """
    if (said := messages(prompt)) is not None:
        if not lm.tokenizer.chat_template:
            raise ValueError("the log holds chat messages, and the model's tokenizer has no chat template")
        prompt = lm.apply_chat_template(said)
    most = lm.max_length - int(next((settings[name] for name in ROOM if settings.get(name)), lm.max_gen_toks))
    whole = _encode(lm, prompt)
    ids = _encode(lm, prompt, truncation=True) if lm.truncation else whole
    if most <= 0:
        return Prompt(prompt, [], whole, NO_ROOM)
    if not ids:
        return Prompt(prompt, [], whole, EMPTY_PROMPT)
    first = whole[0] == lm.tokenizer.bos_token_id and not prompt.startswith(lm.tokenizer.bos_token)
    back = lm.tok_decode(whole[first:], skip_special_tokens=False)
    return Prompt(prompt, ids[-most:], whole, "" if _solid(back) == _solid(prompt) else LOST_PROMPT)


def encode_answer(lm: HFStoreLM, prompt: Prompt, text: str) -> Answer:
    """The ids that may have been generated behind a prompt: encoded with it, where its ids stay as they are, and alone.

    An empty text has no ids, which is no failure.
    """
    if prompt.reason in UNUSABLE:
        return Answer([], prompt.reason)
    if not text:
        return Answer([[]], prompt.reason)
    joint = _encode(lm, prompt.text + text)
    n = len(prompt.whole)
    made = [joint[n:]] if joint[:n] == prompt.whole else []
    alone = lm.tokenizer.encode(text, add_special_tokens=False)
    made += [ids for ids in (alone,) if ids not in made]
    exact = [ids for ids in made if ids and lm.tok_decode(ids) == text]
    chosen, reason = (exact, prompt.reason) if exact else (made[:1], _why(lm, made[0], text))
    fitting = [ids for ids in chosen if len(prompt.ids) + len(ids) - 1 <= lm.max_length]
    return Answer(fitting, reason if fitting else TOO_LONG)


def answer_spans(lm: HFStoreLM, ids: Sequence[int], text: str) -> dict[str, Span]:
    """`answer` without white space at its end, as recorded, and `generation`, which is all there is."""
    everything = Span(0, len(ids))
    found = spans(ids, text, lm.tok_decode, (), ()) if ids else {}
    return {"answer": everything, **found, "generation": everything}


def _encode(lm: HFStoreLM, text: str, *, truncation: bool = False) -> list[int]:
    ids, _ = lm.tok_batch_encode([text], truncation=truncation)
    return [int(i) for i in ids[0].tolist()]


def _why(lm: HFStoreLM, ids: Sequence[int], text: str) -> str:
    """Why ids do not decode to the text."""
    if lm.tok_decode(ids, skip_special_tokens=False) == text:
        return SPECIAL
    if _solid(lm.tok_decode(ids)) == _solid(text):
        return SPACE
    return UNKNOWN if lm.tokenizer.unk_token_id in ids else OTHER


def _solid(text: str) -> str:
    """The text without white space: what a tokenizer may add or drop of it does not change the ids of a prompt."""
    return "".join(text.split())
