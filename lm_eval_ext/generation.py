"""Generation requests: each step's logits are reduced while the model generates.

The parent encodes a batch of prompts (`tok_batch_encode`), generates (`_model_generate`), then answers row by row.
"""

# pyright: reportAttributeAccessIssue=false
# (lm-eval's class decorator hides the type of HFLM)
from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import postprocess_generated_text
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lm_eval_ext.answers import spans
from lm_eval_ext.capture import GenerationTap
from lm_eval_ext.elicit import Text
from lm_eval_ext.recorder import say
from lm_eval_ext.requests import Identity, TaggedPrompt
from lm_eval_ext.room import out_of_memory
from metrics.record import Span

if TYPE_CHECKING:
    from lm_eval_ext.model import HFStoreLM

STOPS_FIRST = postprocess_generated_text("a.b</t>c", ["."], "</t>") == "a"
"""Whether the installed lm-eval cuts at stop strings first, then at an end of thinking: so before 0.4.12."""


class _Generated(NamedTuple):
    """A finished row, ready to be recorded but for a further pass."""

    place: int
    prompt: list[int]
    ids: list[int]
    spans: dict[str, Span]
    answer: str
    truncated: bool
    signals: dict[str, Tensor] | None


class GenerationSession:
    """Follows one call of `generate_until`."""

    kind = "generate_until"

    def __init__(self, lm: HFStoreLM, identities: Sequence[Identity | None]) -> None:
        self.lm = lm
        self.identities = identities
        self._rows: dict[int, int] = {}
        self._prompts: list[list[int]] = []
        self._truncated: list[bool] = []
        self._new: list[list[int]] = []
        self._signals: list[dict[str, Tensor] | None] = []
        self._stops: list[str] = []
        self._ends: frozenset[int] = frozenset()
        self._finished: list[_Generated] = []
        self._said = False
        marker = lm.think_end_token
        if isinstance(marker, str) and (found := special_ids(lm.tokenizer, [marker])):
            say(
                f"think_end_token={marker} is a special token, which is left out of the text that lm-eval looks in, "
                f"so it cuts no thought; give the token's id: think_end_token={min(found)}"
            )

    def batch(self, prompts: Sequence[TaggedPrompt], ids: Tensor, mask: Tensor) -> None:
        """The next batch as encoded, padded on the left."""
        self.flush()
        self._rows = {p.index: row for row, p in enumerate(prompts)}
        self._prompts = [row[m.bool()].tolist() for row, m in zip(ids, mask)]
        _, uncut = HFLM.tok_batch_encode(self.lm, [str(p) for p in prompts])
        self._truncated = (uncut.sum(-1) > mask.sum(-1)).tolist()
        self._new, self._signals = [], []

    def tap(self) -> GenerationTap:
        """To hold around the batch's generation."""
        return GenerationTap(self.lm.model, self.lm.recorder.plan, self.lm.raw_dtype)

    def generated(
        self, tap: GenerationTap, sequences: Tensor, start: int, stops: Sequence[str], eos: int | Iterable[int] | None
    ) -> None:
        """What the batch's next rows generated: ``sequences[:, start:]``; `eos` is the request's own setting."""
        new = sequences[:, start:]
        self._new += new.tolist()
        self._stops = list(stops)
        asked = frozenset({eos} if isinstance(eos, int) else eos or ())
        self._ends = (asked or eos_ids(self.lm)) | special_ids(self.lm.tokenizer, stops)
        if tap.problem is not None and not out_of_memory(tap.problem):
            raise tap.problem
        signals = tap.signals(new)
        if signals is None:
            self._signals += [None] * len(new)
        else:
            self._signals += [{name: value[row] for name, value in signals.items()} for row in range(len(new))]
        if signals is None and not self._said:
            self._said = True
            why = "memory ran out in looking at a step" if tap.problem else "steps are no tokens here (beams, say)"
            say(f"{why}; a teacher-forced pass over the answers serves instead", self.lm.rank)

    def heard(self, place: int, answer: str) -> None:
        """The parent has decoded and cut the row of the request at `place`."""
        if self.identities[place] is None or not self.lm.recorder.on:
            return
        row = self._rows[place]
        ids = self._new[row]
        cut = spans(ids, answer, self.lm.tok_decode, self._ends, self._stops, self.lm.think_end_token, STOPS_FIRST)
        n = cut["generation"].stop
        seen = self._signals[row]
        signals = None if seen is None else {name: value[:n].clone() for name, value in seen.items()}
        self._finished.append(
            _Generated(place, self._prompts[row], ids[:n], cut, answer, self._truncated[row], signals)
        )

    def flush(self) -> None:
        """Record the batch, after a teacher-forced pass where one is needed."""
        finished, self._finished = self._finished, []
        plan = self.lm.recorder.plan
        missing = any(one.signals is None for one in finished) and "logits" in plan.capture
        more: list[dict[str, Tensor]] = [{} for _ in finished]
        usable = [i for i, one in enumerate(finished) if one.ids]
        texts = [Text(finished[i].prompt, finished[i].ids, finished[i].spans.get("answer")) for i in usable]
        for i, signals in zip(usable, self.lm.look_again(texts, logits=missing)):
            more[i] = signals
        for one, signals in zip(finished, more):
            identity = self.identities[one.place]
            assert identity is not None
            self.lm.recorder.add(
                identity,
                self.kind,
                answer=one.answer,
                prompt=one.prompt,
                prompt_count=len(one.prompt),
                tokens=one.ids,
                spans=one.spans,
                text=one.answer,
                truncated=one.truncated,
                signals={**(one.signals or {}), **signals},
            )
        self.lm.recorder.end_batch()

    def finish(self) -> None:
        """The last batch."""
        self.flush()


def eos_ids(lm: HFStoreLM) -> frozenset[int]:
    """Token ids at which generation ends a sequence."""
    configured = getattr(lm.model.generation_config, "eos_token_id", None)
    listed = configured if isinstance(configured, (list, tuple)) else [configured]
    return frozenset(i for i in (*listed, lm.tokenizer.eos_token_id) if i is not None)


def special_ids(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> frozenset[int]:
    """The ids of those texts that are special tokens, which a decoded answer does not show.

    lm-eval stops at such a stop string, which it looks for with special tokens, but cannot cut the text there.
    """
    special = {token.content: i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset(special[text] for text in texts if text in special)
