"""From texts to pooled rows of every layer, one forward pass a text."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from mteb_ext.arch import Opaque, watch
from mteb_ext.loading import Replica, Runner, load
from mteb_ext.pooling import PICKS, POOLINGS
from mteb_ext.shards import Rows, View

__all__ = ["Replica", "Runner", "embed", "load", "tokenise"]

CHUNK = 50_000
"""Texts that are tokenised and sorted by length together."""

CHARACTERS = 8 << 20
"""Characters of such texts, prompts included: a tokenizer takes about 110 bytes a token, beyond the limit too."""

Tokens = NDArray[np.int32]
"""(n,), the tokens of a text."""

PIECE = 64 << 20
"""Bytes of rows that are handed over at a time."""


def embed(
    runner: Runner,
    texts: Sequence[str],
    views: Sequence[View],
    *,
    prompt: str = "",
    batch_size: int = 32,
    progress: bool = True,
) -> Iterator[tuple[list[int], dict[View, Rows]]]:
    """Run texts through the model, longest first, and yield positions with their rows (L + 1, n, d) of every view.

    Every position is yielded once; pieces are of about `PIECE` bytes.

    Raises:
        ValueError: one text alone does not fit the device's memory, or it cannot be tokenised.
    """
    with tqdm(total=len(texts), desc="Texts", unit="text", disable=not progress or len(texts) < batch_size) as bar:
        for start, end in _chunks(texts, len(prompt)):
            ids, skip = tokenise(runner, texts[start:end], prompt)
            order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
            batches = _batches(order, ids, batch_size, mixed=runner.replicas[0].layers.padded)
            for positions, rows in _pieces(_run_all(runner, batches, ids, skip, views)):
                bar.update(len(positions))
                yield [start + p for p in positions], rows


def _chunks(texts: Sequence[str], prompt: int) -> Iterator[tuple[int, int]]:
    """Ranges of at most `CHUNK` texts and, but for single texts, `CHARACTERS` characters."""
    start = held = 0
    for i, text in enumerate(texts):
        size = prompt + len(text)
        if i > start and (i - start == CHUNK or held + size > CHARACTERS):
            yield start, i
            start, held = i, 0
        held += size
    if start < len(texts):
        yield start, len(texts)


def tokenise(runner: Runner, texts: Sequence[str], prompt: str) -> tuple[list[Tokens], int]:
    """Token ids of every text behind the prompt, cut to the limit, and how many tokens of the prompt are not pooled.

    Raises:
        ValueError: a text is no valid Unicode, or the tokenizer gives a token that the model does not know.
    """
    ids = [np.asarray(row or [runner.blank], np.int32) for row in _token_ids(runner, texts, prompt)]
    if runner.known is not None and (highest := max((int(row.max()) for row in ids), default=0)) >= runner.known:
        raise ValueError(
            f"the tokenizer gives token {highest} ({runner.tokenizer.convert_ids_to_tokens(highest)!r}), and the model "
            f"knows {runner.known} tokens; tokenizer and weights do not belong together"
        )
    if runner.include_prompt or not prompt:
        return ids, 0
    alone = runner.tokenizer(prompt.lower() if runner.lower else prompt)["input_ids"]
    return ids, len(alone) - (bool(alone) and alone[-1] in runner.tokenizer.all_special_ids)


def _token_ids(runner: Runner, texts: Sequence[str], prompt: str) -> Sequence[list[int]]:
    if not texts:
        return []
    written = [prompt + text for text in texts]
    lowered = [text.lower() for text in written] if runner.lower else written
    try:
        return runner.tokenizer(
            lowered,
            truncation=True,
            max_length=runner.limit,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
    except (TypeError, UnicodeEncodeError):  # what tokenizers say of a lone surrogate
        for text in written:
            if any("\ud800" <= letter <= "\udfff" for letter in text):
                raise ValueError(
                    f"text {text[:60]!r} holds half a character (a lone surrogate), which no tokenizer takes; mend the "
                    "data set or the prompt"
                ) from None
        raise


def _batches(order: Sequence[int], ids: Sequence[Tokens], size: int, *, mixed: bool) -> list[list[int]]:
    """Batches in the given order; of texts of one length each, if lengths may not be mixed."""
    groups = [list(order)] if mixed else [list(g) for _, g in groupby(order, key=lambda i: len(ids[i]))]
    return [group[i : i + size] for group in groups for i in range(0, len(group), size)]


Batch = tuple[list[int], dict[View, Rows]]


def _pieces(batches: Iterator[Batch]) -> Iterator[Batch]:
    held: list[Batch] = []
    size = 0
    for batch in batches:
        held.append(batch)
        size += sum(rows.nbytes for rows in batch[1].values())
        if size >= PIECE:
            yield _joined(held)
            held, size = [], 0
    if held:
        yield _joined(held)


def _joined(held: Sequence[Batch]) -> Batch:
    positions = [p for at, _ in held for p in at]
    return positions, {view: np.concatenate([rows[view] for _, rows in held], 1) for view in held[0][1]}


def _run_all(
    runner: Runner, batches: Sequence[list[int]], ids: Sequence[Tokens], skip: int, views: Sequence[View]
) -> Iterator[Batch]:
    """Run the batches, on all replicas at once where there are several."""
    if len(runner.replicas) == 1:
        for batch in batches:
            yield batch, _run(runner, runner.replicas[0], [ids[i] for i in batch], skip, views)
        return
    free: queue.SimpleQueue[Replica] = queue.SimpleQueue()
    for replica in runner.replicas:
        free.put(replica)

    def one(batch: list[int]) -> Batch:
        replica = free.get()
        try:
            return batch, _run(runner, replica, [ids[i] for i in batch], skip, views)
        finally:
            free.put(replica)

    with ThreadPoolExecutor(len(runner.replicas)) as pool:
        waiting: deque[Future[Batch]] = deque()
        for batch in batches:
            waiting.append(pool.submit(one, batch))
            if len(waiting) > 2 * len(runner.replicas):  # no more results than this wait in memory
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@torch.inference_mode()
def _run(runner: Runner, replica: Replica, ids: Sequence[Tokens], skip: int, views: Sequence[View]) -> dict[View, Rows]:
    try:
        return _forward(replica, ids, runner.pad, skip, views)
    except torch.OutOfMemoryError:
        if len(ids) == 1:
            raise ValueError(
                f"a text of {len(ids[0])} tokens does not fit the memory of {replica.device}; lower max_length, or "
                "take dtype=bfloat16"
            ) from None
        torch.cuda.empty_cache()
    half = len(ids) // 2
    parts = [_run(runner, replica, part, skip, views) for part in (ids[:half], ids[half:])]
    return {view: np.concatenate([part[view] for part in parts], 1) for view in views}


def _forward(replica: Replica, ids: Sequence[Tokens], pad: int, skip: int, views: Sequence[View]) -> dict[View, Rows]:
    tokens, mask = _padded(ids, pad)
    pooled = mask.clone()
    if skip:
        pooled[:, :skip] = 0
        pooled[pooled.sum(1) == 0] = mask[pooled.sum(1) == 0]  # nothing is left of a text cut inside its prompt
    tokens, mask, pooled = (t.to(replica.device) for t in (tokens, mask, pooled))
    found: dict[View, list[Tensor]] = {view: [] for view in views}

    def visit(layer: int, hidden: Tensor) -> None:
        if hidden.shape[:2] != tokens.shape:
            raise Opaque(
                f"layer {layer} has hidden states of shape {tuple(hidden.shape)} for tokens {tuple(tokens.shape)}"
            )
        here = pooled.to(hidden.device)
        finished = None
        for view in views:
            pool = POOLINGS[view.pooling]
            if view.norm == "raw" or not replica.layers.tail:
                row = pool(hidden, here)
            elif view.pooling in PICKS:
                row = replica.layers.finish(pool(hidden, here).to(hidden.dtype)[:, None])[:, 0].float()
            else:
                finished = replica.layers.finish(hidden) if finished is None else finished
                row = pool(finished, here)
            found[view].append(row.to(replica.device))

    with watch(replica.layers.blocks, visit):
        replica.model(input_ids=tokens, attention_mask=mask)
    return {view: torch.stack(rows).cpu().numpy() for view, rows in found.items()}


def _padded(ids: Sequence[Tokens], pad: int) -> tuple[Tensor, Tensor]:
    """Tokens and mask, padded on the right: causal models do not see it, others are told by the mask."""
    width = max(map(len, ids))
    tokens = torch.full((len(ids), width), pad)
    mask = torch.zeros(len(ids), width, dtype=torch.long)
    for row, text in enumerate(ids):
        tokens[row, : len(text)] = torch.from_numpy(text)
        mask[row, : len(text)] = 1
    return tokens, mask
