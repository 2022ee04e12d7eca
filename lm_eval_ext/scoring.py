"""Log-likelihood requests: the scoring forward itself is looked at, one batch at a time.

The parent's scoring loop calls, for each batch, `_model_call` once, then for each row `_select_cont_toks` and, for each
request that the row answers, the cache hook. One row answers several requests when options differ in one token only.
"""

# pyright: reportAttributeAccessIssue=false
# (lm-eval's class decorator hides the type of HFLM)
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from lm_eval.utils import get_rolling_token_windows
from torch import Tensor

from lm_eval_ext.capture import logit_signals
from lm_eval_ext.elicit import Text
from lm_eval_ext.requests import Identity
from lm_eval_ext.room import in_parts
from metrics.core import signals as known_signals
from metrics.record import Span

if TYPE_CHECKING:
    from lm_eval_ext.model import HFStoreLM


class _Asked(NamedTuple):
    """One request as the parent batches it: texts and token ids."""

    texts: tuple[str, str] | None
    context: list[int]
    continuation: list[int]


class _Answered(NamedTuple):
    place: int
    row: int
    stop: int
    answer: Any


class ScoringSession:
    """Follows one call of `loglikelihood`."""

    kind = "loglikelihood"
    further = True
    """Whether passes over other texts are made: a text in windows has no prompt and no answer."""

    def __init__(self, lm: HFStoreLM, identities: Sequence[Identity | None]) -> None:
        self.lm = lm
        self.identities = identities
        self._asked: list[_Asked] = []
        self._logits: Tensor | None = None
        self._row = -1
        self._stop = 0
        self._answered: list[_Answered] = []
        self._batch: list[_Answered] = []

    def begin(self, requests: Sequence[Any]) -> range:
        """Take the token ids of the requests that the parent is about to batch; returns their places."""
        first = len(self._asked)
        self._asked.extend(_Asked(*r[:3]) for r in requests)
        return range(first, len(self._asked))

    def batch(self, logits: Tensor) -> None:
        """The logits ``[row, position, vocab]`` of the next batch."""
        self._logits, self._row = logits, -1

    def row(self, stop: int) -> None:
        """The parent turns to the next row, whose last scored position is `stop` - 1."""
        self._row += 1
        self._stop = stop

    def heard(self, place: int, answer: Any) -> None:
        """The parent has answered the request at `place` from the current row."""
        self._answered.append(_Answered(place, self._row, self._stop, answer))

    def flush(self) -> None:
        """Reduce and record what the current batch answered, and let go of its logits."""
        answered, logits = self._answered, self._logits
        self._answered, self._logits = [], None
        answered = [a for a in answered if self._wanted(a.place)]
        if not answered or logits is None or not self.lm.recorder.on:
            return
        plan = self.lm.recorder.plan
        self._batch = answered
        lengths = [len(self._asked[a.place].continuation) for a in answered]
        found: list[dict[str, Tensor]] = [{} for _ in answered]
        if "logits" in plan.capture:
            rows = torch.tensor([a.row for a, n in zip(answered, lengths) for _ in range(n)])
            at = torch.tensor([p for a, n in zip(answered, lengths) for p in range(a.stop - n, a.stop)])
            tokens = torch.tensor([t for a in answered for t in self._asked[a.place].continuation])
            made = self._reduce(logits, rows, at, tokens)
            for name, value in made.items():
                for out, part in zip(found, value.split(lengths)):
                    out[name] = part
        texts = [
            Text(self._prompt(a.place), self._asked[a.place].continuation, Span(0, n))
            for a, n in zip(answered, lengths)
        ]
        del logits
        for out, more in zip(found, self.lm.look_again(texts, further=self.further)):
            out.update(more)
        for one, signals in zip(answered, found):
            self._record(one, signals)
        self.lm.recorder.end_batch()

    def _reduce(self, logits: Tensor, rows: Tensor, at: Tensor, tokens: Tensor) -> dict[str, Tensor]:
        """Signals of the given (row, position) pairs, gathered in blocks so that no second batch of logits arises."""

        def reduce(block: Sequence[int]) -> dict[str, Tensor]:
            at_ = slice(block[0], block[-1] + 1)
            picked = logits[rows[at_].to(logits.device), at[at_].to(logits.device)]
            plan = self.lm.recorder.plan
            made = logit_signals(plan, picked, tokens[at_].to(logits.device), self.lm.raw_dtype)
            return {name: value.cpu() for name, value in made.items()}

        most = max(1, (256 << 20) // (4 * logits.shape[-1]))
        with torch.no_grad():
            parts = in_parts(reduce, range(len(rows)), most)
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _prompt(self, place: int) -> list[int]:
        """The prompt as the model saw it: cut on the left to the context."""
        asked = self._asked[place]
        whole = (asked.context + asked.continuation)[-(self.lm.max_length + 1) :]
        return whole[: len(whole) - len(asked.continuation)]

    def _wanted(self, place: int) -> bool:
        return self.identities[place] is not None

    def _record(self, one: _Answered, signals: dict[str, Tensor]) -> None:
        asked = self._asked[one.place]
        identity = self.identities[one.place]
        assert identity is not None
        self._check(one, signals)
        prompt = self._prompt(one.place)
        everything = Span(0, len(asked.continuation))
        self.lm.recorder.add(
            identity,
            self.kind,
            answer=[float(one.answer[0]), bool(one.answer[1])],
            prompt=prompt,
            prompt_count=len(prompt),
            tokens=asked.continuation,
            spans={"answer": everything, "generation": everything},
            text=asked.texts[1] if asked.texts else "",
            truncated=len(prompt) < len(asked.context),
            signals=signals,
        )

    def _check(self, one: _Answered, signals: dict[str, Tensor]) -> None:
        """The recorded log-probabilities add up to the harness's answer, or the wrong rows were looked at.

        Raises:
            ValueError: they do not, beyond what half precision explains.
        """
        same_row = [a for a in self._batch if a.row == one.row]
        lengths = {len(self._asked[a.place].continuation) for a in same_row}
        if "logprob" not in signals or len(lengths) > 1:  # the harness itself mixes up unequal lengths of one row
            return
        total, answer = float(signals["logprob"].sum()), float(one.answer[0])
        if abs(total - answer) > 0.1 * len(signals["logprob"]) + 0.05 * abs(answer):
            raise ValueError(
                f"log-likelihood {answer:.4f} was answered where {total:.4f} was recorded: this version of lm-eval "
                "batches otherwise; please report it"
            )

    def finish(self) -> None:
        """The last batch."""
        self.flush()


class RollingSession(ScoringSession):
    """Follows one call of `loglikelihood_rolling`, whose requests are cut into windows, each scored on its own.

    A record holds the signals of all its windows end to end, and no prompt: each token's context is in its window.
    A signal that cannot be so joined, such as a mean over one window, is kept only where there is a single window.
    """

    kind = "loglikelihood_rolling"
    further = False

    def __init__(self, lm: HFStoreLM, identities: Sequence[Identity | None], windows: Sequence[int]) -> None:
        super().__init__(lm, identities)
        self._owner = [request for request, count in enumerate(windows) for _ in range(count)]
        self._first = [sum(windows[:i]) for i in range(len(windows))]
        self._count = list(windows)
        self._parts: dict[int, dict[int, tuple[dict[str, Tensor], list[int], float, bool]]] = {}

    def _wanted(self, place: int) -> bool:
        return place < len(self._owner) and self.identities[self._owner[place]] is not None

    def _record(self, one: _Answered, signals: dict[str, Tensor]) -> None:
        request = self._owner[one.place]
        parts = self._parts.setdefault(request, {})
        value, greedy = one.answer
        parts[one.place] = (signals, self._asked[one.place].continuation, float(value), bool(greedy))
        if len(parts) == self._count[request]:
            self._whole(request)

    def _whole(self, request: int) -> None:
        windows = [part for _, part in sorted(self._parts.pop(request).items())]
        tokens = [t for _, ids, _, _ in windows for t in ids]
        signals = end_to_end([s for s, _, _, _ in windows])
        identity = self.identities[request]
        assert identity is not None
        everything = Span(0, len(tokens))
        self.lm.recorder.add(
            identity,
            self.kind,
            answer=sum(value for _, _, value, _ in windows),
            prompt=None,
            prompt_count=0,
            tokens=tokens,
            spans={"answer": everything, "generation": everything},
            text="",
            truncated=False,
            signals=signals,
        )


def count_windows(lm: HFStoreLM, text: str) -> int:
    """How many windows the harness cuts a text into."""
    windows = get_rolling_token_windows(
        token_list=lm.tok_encode(text),
        prefix_token=lm.prefix_token_id,
        max_seq_len=lm.max_length,
        context_len=1,
    )
    return sum(1 for _ in windows)


def end_to_end(windows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The signals of consecutive windows as of one continuation: one step a token, and the last window's last."""
    if len(windows) == 1:
        return windows[0]
    known = known_signals()
    joined = {}
    for name in windows[0]:
        axes = known[name].axes
        if "key" in axes or not {"token", "step"} & set(axes):
            continue
        dim = axes.index("token" if "token" in axes else "step")
        parts = [w[name] for w in windows]
        if "step" in axes:
            parts = [*(p.narrow(dim, 0, p.shape[dim] - 1) for p in parts[:-1]), parts[-1]]
        joined[name] = torch.cat(parts, dim)
    return joined
