"""Further passes of the model, for the signals of cost ``passes`` that a plan keeps: each takes passes of its own.

All but the backward ones are readings of a text made up around the answer, by the pass for signals itself, so that
batches, padding, pieces and lack of memory are dealt with there.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lm_eval_ext import gradients
from lm_eval_ext.arch import attentions, plain
from lm_eval_ext.elicit import Render, Text, asked, eliciting, quoted, replies, reply_of_polygraph
from lm_eval_ext.forced import ForcedPass, Found, Sequences
from lm_eval_ext.room import in_parts, out_of_memory, release
from metrics.core import signals
from metrics.plan import Plan, make_plan

Look = Callable[[Sequence[Text]], Found]

BACKWARD = {"input_gradient": gradients.input_gradient, "lrp": gradients.lrp}
"""Signals that take a backward pass each."""


class FurtherPasses:
    """Makes the further passes that a plan asks for, over some texts at a time; none at all where it asks for none.

    A text that a pass cannot read, since it would be longer than the model's context or has no answer, or for which a
    backward pass finds no memory, has NaN in that pass's signals; `tell` is called with one line for each kind, once.

    Args:
        model: a causal decoder, wrapped or not.
        plan: what to keep.
        tokenizer: the model's.
        prefix: the token before a text without a prompt.
        longest: positions that the model reads.
        render: the chat template; None where there is none.
        device: where the input goes; the model's own by default.
        autocast: precision in which the evaluation lets its passes run.
        tell: takes a line for the user.

    Raises:
        ValueError: the model or the tokenizer does not allow one of the signals; the message names it.
    """

    def __init__(
        self,
        model: Any,
        plan: Plan,
        tokenizer: PreTrainedTokenizerBase,
        *,
        prefix: int | None,
        longest: int,
        render: Render | None = None,
        device: torch.device | str | None = None,
        autocast: torch.dtype | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.model: PreTrainedModel = plain(model)
        known = signals()
        self.names = tuple(name for name in plan.keep if known[name].cost == "passes")
        self._tokenizer, self._render = tokenizer, render
        self._prefix, self._longest = prefix, longest
        self._device = torch.device(device) if device is not None else self.model.device
        self._options: dict[str, Any] = {
            "device": device,
            "autocast": autocast,
            "raw_dtype": torch.float32,
            "tell": tell,
        }
        self._tell = tell
        self._said: set[str] = set()
        self._looks = list(self._chosen())

    def _chosen(self) -> list[Look]:
        """The passes to make, after a check that each can be made."""
        wanted = set(self.names)
        looks: list[Look] = []
        if "logprob_alone" in wanted:
            if self._prefix is None:
                raise ValueError(
                    "the tokenizer has no first token (BOS or EOS) to read an answer after; leave out pmi and cpmi"
                )
            looks.append(self._alone)
        if wanted & {"true_logprob", "false_logprob"}:
            true, false = replies(self._tokenizer)
            counted = {"true_logprob": true, "false_logprob": false}
            looks.append(functools.partial(self._replied, self._asked, counted))
        if "true_logprob_polygraph" in wanted:
            counted = {"true_logprob_polygraph": reply_of_polygraph(self._tokenizer)}
            looks.append(functools.partial(self._replied, self._quoted, counted))
        if wanted & {"csl_weight", "csl_head_weight", "csl_next_weight"}:
            attentions(self.model)
        if wanted & {"csl_weight", "csl_head_weight"}:
            looks.append(self._elicited)
        if "csl_next_weight" in wanted:
            looks.append(self._next)
        for name in BACKWARD:
            if name in wanted:
                gradients.check_gradients(self.model)
                looks.append(functools.partial(self._backward, name))
        if "lrp" in wanted:
            gradients.check_lrp(self.model)
        return looks

    def __call__(self, texts: Sequence[Text]) -> Found:
        """The signals of each text, on the CPU; each text has at least one token of prompt and continuation."""
        found: Found = [{} for _ in texts]
        for look in self._looks:
            for one, more in zip(found, look(texts)):
                one.update({name: value for name, value in more.items() if name in self.names})
        return found

    # ------------------------------------------------------------------ without the prompt

    @functools.cached_property
    def _logprob(self) -> ForcedPass:
        return ForcedPass(self.model, make_plan((), "logprob"), (), **self._options)

    def _alone(self, texts: Sequence[Text]) -> Found:
        assert self._prefix is not None
        prompt = [self._prefix]
        made = self._logprob([(prompt, text.tokens) for text in texts], logits=True)
        return [{"logprob_alone": one["logprob"]} for one in made]

    # ------------------------------------------------------------------ asked whether it is true

    @functools.cached_property
    def _logits(self) -> ForcedPass:
        return ForcedPass(self.model, make_plan((), (), "logits"), (), **self._options)

    def _asked(self, text: Text) -> list[int]:
        return asked(self._tokenizer, text, self._render)

    def _quoted(self, text: Text) -> list[int]:
        return quoted(self._tokenizer, text)

    def _replied(
        self, ask: Callable[[Text], list[int]], counted: Mapping[str, list[int]], texts: Sequence[Text]
    ) -> Found:
        """The log-probability that the reply to a question begins with one of the counted tokens, by signal."""
        (reply, *_), *_ = counted.values()
        questions = self._readable([ask(text) if text.answered else None for text in texts], 1)
        made = self._some(questions, lambda ids: (ids, [reply]), functools.partial(self._logits, logits=True))

        def read(one: dict[str, Tensor], ids: list[int]) -> Tensor:
            return one["logits"][0].log_softmax(-1)[ids].logsumexp(-1) if one else torch.tensor(math.nan)

        return [{name: read(one, ids) for name, ids in counted.items()} for one in made]

    # ------------------------------------------------------------------ asked where it looks

    @functools.cached_property
    def _attention(self) -> ForcedPass:
        layers = range(len(attentions(self.model)) + 1)
        return ForcedPass(self.model, make_plan((), (), "attention"), layers, **self._options)

    def _elicited(self, texts: Sequence[Text]) -> Found:
        built = [eliciting(self._tokenizer, text) for text in texts]
        ids = self._readable([ids if text.answered else None for text, (ids, _) in zip(texts, built)], 0)
        return self._looked_at(texts, ids, [first for _, first in built], ("csl_weight", "csl_head_weight"))

    def _next(self, texts: Sequence[Text]) -> Found:
        stops = [0 if text.answer is None else text.answer.stop for text in texts]
        ids = [[*text.prompt, *text.tokens[:stop]] if text.answered else None for text, stop in zip(texts, stops)]
        firsts = [len(text.prompt) + (text.answer.start if text.answer else 0) for text in texts]
        return self._looked_at(texts, self._readable(ids, 0), firsts, ("csl_next_weight",))

    def _looked_at(
        self, texts: Sequence[Text], ids: Sequence[list[int] | None], firsts: Sequence[int], names: Sequence[str]
    ) -> Found:
        """Attention of the last token of `ids` to the answer, which begins at `firsts`, as means over all heads."""
        made = self._some(ids, lambda i: (i[:-1], i[-1:]), self._attention)
        found: Found = []
        for text, one, first in zip(texts, made, firsts):
            spread = {name: torch.full((len(text.tokens),), math.nan) for name in names}
            if one and text.answer is not None:
                weight = one["attention"][:, :, -1, first : first + len(text.answered)].double().flatten(0, 1)
                total = weight.sum(-1, keepdim=True)
                seeing = (total != 0).squeeze(-1)  # a head of a short window may not reach back to the answer
                means = weight.mean(0), (weight / total)[seeing].mean(0)
                for name, mean in zip(names, means):
                    spread[name][slice(*text.answer)] = mean.float()
            found.append(spread)
        return found

    # ------------------------------------------------------------------ backward

    def _backward(self, name: str, texts: Sequence[Text]) -> Found:
        sequences = [(text.prompt, text.tokens) for text in texts]

        def work(part: Sequences) -> list[Tensor]:
            try:
                with torch.compiler.set_stance("force_eager"):
                    return BACKWARD[name](self.model, part, self._device)
            except (RuntimeError, MemoryError) as problem:
                if not out_of_memory(problem) or len(part) > 1:
                    raise
            release()
            self._say(f"memory ran out in the backward pass over a text; its {name} is NaN")
            return [torch.full((len(part[0][1]),), math.nan)]

        return [{name: value} for made in in_parts(work, sequences, len(sequences)) for value in made]

    # ------------------------------------------------------------------ what can be read

    def _readable(self, questions: Sequence[list[int] | None], more: int) -> list[list[int] | None]:
        """Those of the questions that fit into the context with `more` tokens behind them, None in place of others."""
        kept = [q if q is not None and len(q) + more <= self._longest else None for q in questions]
        if kept != list(questions):
            self._say(f"a question about an answer is longer than the model's context ({self._longest}); NaN there")
        return kept

    def _some(
        self,
        questions: Sequence[list[int] | None],
        cut: Callable[[list[int]], tuple[Sequence[int], Sequence[int]]],
        read: Callable[[Sequences], Found],
    ) -> Found:
        """Read the questions that are there; nothing is found for the others."""
        made = iter(read([cut(ids) for ids in questions if ids is not None]))
        return [{} if ids is None else next(made) for ids in questions]

    def _say(self, what: str) -> None:
        if self._tell is not None and what not in self._said:
            self._said.add(what)
            self._tell(what)
