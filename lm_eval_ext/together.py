"""Answers to one prompt generated together: the prompt is read once, and each answer goes on from a copy of its cache.

`generate` itself, asked for `num_return_sequences`, copies the prompt before it reads it, which saves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from lm_eval_ext.room import in_parts

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

COPIED = (DynamicLayer, DynamicSlidingWindowLayer)
"""Kinds of a cache's layers whose rows stand for themselves."""


def read_once(
    model: PreTrainedModel, context: Tensor, mask: Tensor, settings: Mapping[str, Any], pad: int | None
) -> DynamicCache | None:
    """The key-value cache of all but each row's last token, for `generate` to go on from.

    None where nothing is to be gained, no prompt being there twice, or where rows cannot be copied: with beams, prompts
    of one token, models that keep more than keys and values (recurrent states, a cache of fixed size), and a cache
    of another length than the prompts.

    Args:
        model: a causal decoder.
        context: ``[row, position]``, prompts padded on the left.
        mask: ``[row, position]``, 0 for padding.
        settings: what `generate` is about to be called with.
        pad: the padding token's id.
    """
    own = model.generation_config
    beams = settings.get("num_beams") or own.num_beams or 1
    fixed = model._is_stateful or own.cache_implementation is not None
    if beams != 1 or fixed or bool((mask[:, :-1].sum(1) == 0).any()):
        return None
    different, place = torch.unique(torch.stack([context, mask], 1), dim=0, return_inverse=True)
    if len(different) == len(context):
        return None
    prompts, masks = different[:, 0, :-1], different[:, 1, :-1]
    cache = _prefill(model, prompts, masks, pad)
    if type(cache) is not DynamicCache or any(type(layer) not in COPIED for layer in cache.layers):
        return None
    if cache.get_seq_length() != prompts.shape[1]:
        return None
    cache.reorder_cache(place)
    return cache


def _prefill(model: PreTrainedModel, prompts: Tensor, masks: Tensor, pad: int | None) -> Any:
    """The cache with which `generate` goes into its second step: that of the prompts.

    Arguments overrule the model's own generation settings, which a `GenerationConfig` given to it only would where it
    differs from the defaults. So every setting is named that adds tokens, rows or draws.
    """
    generate: Any = model.generate
    once = generate(
        input_ids=prompts,
        attention_mask=masks,
        max_length=prompts.shape[1] + 1,
        max_new_tokens=None,
        min_length=0,
        min_new_tokens=None,
        num_beams=1,
        num_return_sequences=1,
        do_sample=False,
        use_cache=True,
        pad_token_id=pad,
        return_dict_in_generate=True,
    )
    return once.past_key_values


class Together:
    """How repeats are generated: as the harness has it, or a document's together, in batches that hold them all.

    Attributes:
        asked: whether they are generated together.
        rows: how many repeats the requests have that are being generated together; None where none are.
        most: rows that fit into memory at a time; None until it has run out.
    """

    def __init__(self, asked: bool) -> None:
        self.asked = asked
        self.rows: int | None = None
        self.most: int | None = None

    def groups(self, requests: Sequence[Instance]) -> list[tuple[int | None, Sequence[int]]]:
        """Places in a list of requests that go through the harness together, with their repeats: all or of a kind."""
        return [*by_repeats(requests).items()] if self.asked else [(None, range(len(requests)))]

    @contextmanager
    def in_rows(self, rows: int | None) -> Iterator[None]:
        """Generate in batches of at least so many rows, reading each prompt once; as the harness does with None."""
        self.rows = rows
        try:
            yield
        finally:
            self.rows = None

    def at_least(self, size: Any) -> Any:
        """The harness's batch size; no smaller than the repeats that are generated together."""
        return max(size, self.rows) if isinstance(size, int) and self.rows is not None else size

    def generate(
        self,
        generate: Callable[[Tensor, Tensor], Tensor],
        context: Tensor,
        mask: Tensor,
        pad: int | None,
        *,
        tell: Callable[[str], None],
    ) -> Tensor:
        """What `generate` makes of the rows of a batch and its mask, in fewer rows at a time where memory runs out."""

        def part(rows: Sequence[int]) -> Tensor:
            at = slice(rows[0], rows[-1] + 1)
            return generate(context[at], mask[at])

        def halved(most: int) -> None:
            if self.most is None:
                tell("memory ran out; repeats are generated together in smaller batches")
            self.most = most

        parts = in_parts(part, range(len(context)), self.most or len(context), halved)
        return one_below_another(parts, pad)


def by_repeats(requests: Sequence[Instance]) -> dict[int, list[int]]:
    """Places in a list of requests by how often each is asked: those of a kind go through the harness together."""
    found: dict[int, list[int]] = {}
    for place, request in enumerate(requests):
        found.setdefault(request.repeats or 1, []).append(place)
    return found


def one_below_another(parts: Sequence[Tensor], pad: int | None) -> Tensor:
    """What several calls of `generate` returned, as if one had: rows padded on the right to a common length."""
    width = max(part.shape[1] for part in parts)
    return torch.cat([nn.functional.pad(part, (0, width - part.shape[1]), value=pad or 0) for part in parts])
