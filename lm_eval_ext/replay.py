"""Runs made long ago, or by another engine, made into stores: one teacher-forced pass over what was asked and answered.

Log-likelihood requests are put to the model again, as the harness would; of generated texts the ids are made from the
text (`lm_eval_ext.replay_text`), and their signals come from the pass that serves beams. A window of requests is in
memory at a time, and is read longest first.
"""

# pyright: reportAttributeAccessIssue=false
# (lm-eval's class decorator hides the type of HFLM)
from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from lm_eval_ext.elicit import Text
from lm_eval_ext.forced import ForcedPass
from lm_eval_ext.recorder import say
from lm_eval_ext.repeats import generations
from lm_eval_ext.replay_log import GENERATION, Asked, Scanned, read, windows
from lm_eval_ext.replay_text import Answer, Prompt, answer_spans, encode_answer, encode_prompt
from lm_eval_ext.requests import Identity, identify
from lm_eval_ext.room import out_of_memory, release
from metrics.core import signals as known_signals
from metrics.plan import make_plan
from metrics.record import Key

if TYPE_CHECKING:
    from lm_eval_ext.model import HFStoreLM

WINDOW = 1024
"""Requests that are in memory at a time, about: the smaller, the less is gained by sorting them by length."""

UNFAITHFUL = "unfaithful.jsonl"
"""The file of the store that lists, a line each, the records whose ids do not give the text back."""


@dataclass
class Tally:
    """What became of the requests of one task and type."""

    task: str
    kind: str
    requests: int = 0
    checked: int = 0
    """Texts whose ids were held against them: generated ones of a log."""
    recorded: int = 0
    before: int = 0
    """Found in the store, from an earlier run of the same replay."""
    left_out: int = 0
    kept: int = 0
    """Recorded though their ids do not give the text back."""
    several: int = 0
    """Texts that several candidates of ids decode to."""
    empty: int = 0
    truncated: int = 0
    difference: float = math.nan
    """The largest absolute difference from what was logged or recorded."""
    reasons: Counter[str] = field(default_factory=Counter)

    def differs(self, one: float, other: float) -> None:
        """Take note of a number and of what was logged for it."""
        apart = abs(one - other)
        if not math.isnan(apart):
            self.difference = apart if math.isnan(self.difference) else max(self.difference, apart)

    def row(self) -> dict[str, Any]:
        """A line of the table, and of the manifest."""
        return {
            "task": self.task,
            "kind": self.kind,
            "requests": self.requests,
            "records": self.recorded + self.before,
            "round-tripped": self.checked - self.reasons.total() if self.checked else None,
            "left out": self.left_out,
            "first token unclear": self.several,
            "empty answers": self.empty,
            "truncated prompts": self.truncated,
            "largest difference": None if math.isnan(self.difference) else self.difference,
        }


class Tallies:
    """The tallies of a replay, by task and type, and the list of what does not give its text back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._found: dict[tuple[str, str], Tally] = {}
        self._listed: Any = None

    @contextmanager
    def open(self) -> Iterator[Tallies]:
        """Begin the list anew: a replay that goes on reads everything again, but asks the model for the rest alone."""
        self.path.unlink(missing_ok=True)
        try:
            yield self
        finally:
            if self._listed is not None:
                self._listed.close()

    def of(self, key: Key) -> Tally:
        """The tally of a record's task and type."""
        return self._found.setdefault((key.task, key.kind), Tally(key.task, key.kind))

    def unfaithful(self, key: Key, reason: str, *, kept: bool) -> None:
        """List a record whose ids do not give its text back, or that cannot be read at all."""
        tally = self.of(key)
        tally.reasons[reason] += 1
        tally.kept += kept
        tally.left_out += not kept
        if self._listed is None:
            self._listed = self.path.open("w", encoding="utf-8")
        self._listed.write(json.dumps({**key._asdict(), "reason": reason, "kept": kept}) + "\n")
        self._listed.flush()

    def rows(self) -> list[dict[str, Any]]:
        """All tallies, as a table."""
        return [tally.row() for _, tally in sorted(self._found.items())]

    def reasons(self) -> Counter[str]:
        """How often each reason kept a text from being given back."""
        return sum((tally.reasons for tally in self._found.values()), Counter())


class _Item(NamedTuple):
    """A generated text that is to be recorded."""

    identity: Identity
    text: str
    prompt: Prompt
    answer: Answer


Progress = Callable[[int], None]
"""Takes how many requests are done since the last call."""


def replay_log(
    lm: HFStoreLM, scans: Sequence[Scanned], tallies: Tallies, *, keep: bool, limit: int | None, progress: Progress
) -> None:
    """Record what sample files hold.

    Args:
        lm: the model with its open store.
        scans: the sample files, one a task.
        tallies: where is counted what became of them.
        keep: whether texts are recorded too whose ids do not give them back.
        limit: documents of a task.
        progress: told how many requests are done.

    Raises:
        OSError: the store takes no more records.
        ValueError: the harness refuses a request, or a prompt cannot be rendered.
    """
    likelier = _likelier(lm)
    for scanned in scans:
        for window in windows(read(scanned.task, scanned.path, limit), WINDOW):
            for kind in dict.fromkeys(asked.kind for asked in window):
                some = [asked for asked in window if asked.kind == kind]
                if kind == GENERATION:
                    _generated(lm, some, tallies, keep, likelier)
                else:
                    _scored(lm, kind, some, tallies)
                check_open(lm)
                progress(sum(len(asked.responses) for asked in some))


def check_open(lm: HFStoreLM) -> None:
    """Go on only while the store takes records: a replay is nothing but its store.

    Raises:
        OSError: recording has stopped, and why has been said.
    """
    if not lm.recorder.on:
        raise OSError(f"{lm.store_path} takes no more records; mend that and replay again with --store-mode resume")


def _identified(asked: Sequence[Asked]) -> list[Identity]:
    """The identity of every response, in their order."""
    identities = identify([one.request for one in asked for _ in one.responses], asked[0].kind)
    return [identity for identity in identities if identity is not None]


# ---------------------------------------------------------------------- log-likelihoods, asked again


def _scored(lm: HFStoreLM, kind: str, asked: Sequence[Asked], tallies: Tallies) -> None:
    """Ask log-likelihoods again and hold the answers against the logged ones."""
    identities = _identified(asked)
    served = lm.recorder.served
    answers = _answers(lm, kind, [one.request for one in asked for _ in one.responses])
    logged = [response for one in asked for response in one.responses]
    for identity, answer, before in zip(identities, answers, logged):
        tally = tallies.of(identity.key)
        tally.requests += 1
        tally.recorded += 1
        now, then = (value[0] if isinstance(value, tuple) else value for value in (answer, before))
        tally.differs(now, then)
    if identities:
        tallies.of(identities[0].key).recorded -= lm.recorder.served - served
        tallies.of(identities[0].key).before += lm.recorder.served - served


def _answers(lm: HFStoreLM, kind: str, requests: list[Any]) -> list[Any]:
    """The model's answers, in smaller batches once memory has run out; records made twice count once."""
    while True:
        try:
            return getattr(lm, kind)(requests, disable_tqdm=True)
        except AssertionError:
            raise ValueError(
                f"lm-eval refuses one of these requests, as it would with --model hf: a continuation of no token, or "
                f"of more than max_length={lm.max_length}"
            ) from None
        except (RuntimeError, MemoryError) as problem:
            if not out_of_memory(problem) or lm.batch_size == 1:
                raise
        lm.batch_size_per_gpu = (int(lm.batch_size) + 1) // 2
        release()
        say(f"memory ran out; it goes on with batches of {lm.batch_size}")


# ---------------------------------------------------------------------- generated texts

Likelier = Callable[[Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]]], list[Sequence[int]]]
"""Of (prompt, candidates) pairs, the candidates that the model gives the most probability."""


def _likelier(lm: HFStoreLM) -> Likelier:
    """What chooses among the ids that a text may stand for: their log-probability behind the prompt, by the model."""
    look = ForcedPass(
        lm.model,
        make_plan((), "logprob"),
        (),
        raw_dtype=torch.float32,
        device=lm.device,
        autocast=getattr(lm, "mixed_precision_dtype", None),
    )

    def choose(asked: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]]) -> list[Sequence[int]]:
        pairs = [(prompt, ids) for prompt, candidates in asked for ids in candidates]
        found = iter([float(one["logprob"].sum()) for one in look(pairs, logits=True)])
        totals = [[next(found) for _ in candidates] for _, candidates in asked]
        return [candidates[total.index(max(total))] for (_, candidates), total in zip(asked, totals)]

    return choose


def _generated(lm: HFStoreLM, asked: Sequence[Asked], tallies: Tallies, keep: bool, likelier: Likelier) -> None:
    """Encode the texts of a window, then record those whose ids give them back, in batches of equal length."""
    identities = iter(_identified(asked))
    lm.notes.generations(generations([one.request for one in asked]), together=False)
    items = []
    for one in asked:
        prompt = encode_prompt(lm, *one.request.args)
        for text in one.responses:
            item = _Item(next(identities), text, prompt, encode_answer(lm, prompt, text))
            if _wanted(lm, item, tallies, keep):
                items.append(item)
    items.sort(key=lambda item: -len(item.prompt.ids) - len(item.answer.candidates[0]))
    size = int(lm.batch_size)
    for start in range(0, len(items), size):
        _record(lm, items[start : start + size], likelier)
        check_open(lm)


def _wanted(lm: HFStoreLM, item: _Item, tallies: Tallies, keep: bool) -> bool:
    """Count a text; whether it is to be recorded."""
    key = item.identity.key
    tally = tallies.of(key)
    tally.requests += 1
    tally.checked += 1
    if item.answer.reason:
        kept = keep and bool(item.answer.candidates)
        tallies.unfaithful(key, item.answer.reason, kept=kept)
        if not kept:
            return False
    tally.several += len(item.answer.candidates) > 1
    tally.empty += not item.text
    tally.truncated += len(item.prompt.ids) < len(item.prompt.whole)
    before = lm.recorder.answer(item.identity) is not None
    tally.before += before
    tally.recorded += not before
    return not before


def _record(lm: HFStoreLM, items: Sequence[_Item], likelier: Likelier) -> None:
    chosen: list[Sequence[int]] = [item.answer.candidates[0] for item in items]
    unclear = [i for i, item in enumerate(items) if len(item.answer.candidates) > 1]
    for i, ids in zip(unclear, likelier([(items[i].prompt.ids, items[i].answer.candidates) for i in unclear])):
        chosen[i] = ids
    spans = [answer_spans(lm, ids, item.text) for ids, item in zip(chosen, items)]
    texts = [Text(item.prompt.ids, ids, span["answer"]) for item, ids, span in zip(items, chosen, spans)]
    for item, ids, span, signals in zip(items, chosen, spans, signals_of(lm, texts)):
        lm.recorder.add(
            item.identity,
            GENERATION,
            answer=item.text,
            prompt=item.prompt.ids,
            prompt_count=len(item.prompt.ids),
            tokens=ids,
            spans=span,
            text=item.text,
            truncated=len(item.prompt.ids) < len(item.prompt.whole),
            signals=signals,
        )
    lm.recorder.end_batch()


def signals_of(lm: HFStoreLM, texts: Sequence[Text]) -> list[dict[str, Tensor]]:
    """The signals of texts, each with a prompt; those of an empty one have no tokens and the one step before them."""
    stand_in = [lm.prefix_token_id]
    whole = [text if text.tokens else text._replace(tokens=stand_in) for text in texts]
    found = lm.look_again(whole, logits="logits" in lm.recorder.plan.capture)
    return [one if text.tokens else _without_tokens(one, len(text.prompt)) for text, one in zip(texts, found)]


def _without_tokens(found: Mapping[str, Tensor], prompt: int) -> dict[str, Tensor]:
    """What is known before the first token; nothing of signals that describe a continuation as a whole."""
    known, sizes = known_signals(), {"token": 0, "step": 1, "key": prompt}
    cut = {}
    for name, value in found.items():
        axes = known[name].axes
        for axis in sizes.keys() & set(axes):
            cut[name] = value = value.narrow(axes.index(axis), 0, sizes[axis])
    return cut
