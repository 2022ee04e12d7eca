"""Scores of many composites in one pass over a store, in parallel processes.

`metrics.score` scores one metric of one record at a time. Here answers of like length stand side by side, all layers at
once, and what combinations share is worked out once: a token metric's values and their order for all its weightings
and poolings, weighted sums for all poolings. The poolings are the very functions of `metrics.tokenwise.pooling`, so
the numbers are those of `metrics.score`. A process holds one shard and `BATCH` records.
"""

from __future__ import annotations

import math
import multiprocessing
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from metrics.core import Choice, Signal, signals
from metrics.naming import spelled
from metrics.record import Key
from metrics.samples import Beside, of_samples
from metrics.score import NOTHING, SPANS, ScoreTable, Unit, lack, score, score_one, signals_of, why_undefined
from metrics.store import open_store
from metrics.tokenwise.composite import Composite
from metrics.tokenwise.pooling import pooled
from metrics.tokenwise.rows import Rows, Values
from metrics.tokenwise.values import layer_of

Given = Mapping[str, Tensor]
"""The signals of an answer by name, cut to its span."""

BATCH = 512
"""Records held at a time."""

BLOCK = 1 << 18
"""Values of tokens and layers that are pooled at a time: a few megabytes, which stay in a processor's cache."""

PARTS = 2
"""Tasks a process: fewer read less twice, more share the work more evenly."""


@dataclass
class Scores:
    """Scores (units, metrics), NaN where unscored, and for each reason how many units of each metric it left so."""

    values: np.ndarray
    unscored: dict[str, np.ndarray]

    def missed(self, reason: str, at: int | slice | Sequence[int] | np.ndarray, count: int | np.ndarray = 1) -> None:
        """Note that `count` units of the metrics `at` are unscored."""
        self.unscored.setdefault(reason, np.zeros(self.values.shape[1], dtype=np.int64))[at] += count


def grid_score(
    path: Path,
    chosen: Sequence[Unit],
    metrics: Sequence[Choice],
    *,
    span: str,
    jobs: int,
    beside: Beside = NOTHING,
) -> ScoreTable:
    """As `metrics.score.score` of the store at `path`, for many composites at once; other metrics may be among them.

    Args:
        path: of a store.
        chosen: from `metrics.score.units`.
        metrics: composites and others.
        span: as of `metrics.score.score`.
        jobs: processes; with one, everything is done in this one.
        beside: as of `metrics.score.score`.

    Raises:
        ValueError: unknown `span`, or a layer that was not recorded.
    """
    if span not in SPANS:
        raise ValueError(f"span='{span}' is not known; choose {', '.join(SPANS)}")
    ours = [c for c in metrics if not of_samples(c, signals())]
    if len(ours) < len(metrics):
        theirs = [c for c in metrics if c not in ours]
        whole = grid_score(path, chosen, ours, span=span, jobs=jobs, beside=beside)
        more = score(chosen, theirs, open_store(path).records, span=span, beside=beside)
        return ScoreTable(whole.units, {**whole.values, **more.values}, {**whole.unscored, **more.unscored})
    row_of = {unit.key: i for i, unit in enumerate(chosen) if not unit.lacking}
    keys = [key for key in open_store(path).entries() if key in row_of]  # in the order of the shards
    size = max(1, math.ceil(len(keys) / (jobs * PARTS if jobs > 1 else 1)))
    parts = [[chosen[row_of[key]] for key in keys[i : i + size]] for i in range(0, len(keys), size)]
    whole = Scores(np.full((len(chosen), len(metrics)), np.nan), {})
    seen = np.zeros(len(chosen), dtype=bool)
    with tqdm(total=len(keys), desc="scoring", leave=False, disable=None) as progress:  # terminals alone
        for done, found in _parts(parts, Work(path, metrics, span, beside), jobs):
            at = [row_of[key] for key in done]
            seen[at] = True
            whole.values[at] = found.values
            for reason, counts in found.unscored.items():
                whole.missed(reason, slice(None), counts)
            progress.update(len(done))
    for row in np.flatnonzero(~seen).tolist():
        whole.missed(chosen[row].lacking or "record in a damaged shard", slice(None))
    return ScoreTable(
        list(chosen),
        {c.id: whole.values[:, i] for i, c in enumerate(metrics)},
        {c.id: Counter({r: int(n[i]) for r, n in whole.unscored.items() if n[i]}) for i, c in enumerate(metrics)},
    )


class Work(NamedTuple):
    """What every part is scored by."""

    path: Path
    metrics: Sequence[Choice]
    span: str
    beside: Beside = NOTHING


def _parts(parts: Sequence[Sequence[Unit]], work: Work, jobs: int) -> Iterator[tuple[list[Key], Scores]]:
    if jobs == 1 or len(parts) < 2:
        for part in parts:
            yield score_part(part, work)
        return
    spawn = multiprocessing.get_context("spawn")
    workers = min(jobs, len(parts))
    with ProcessPoolExecutor(workers, spawn, initializer=_start, initargs=(work,)) as pool:
        for future in as_completed([pool.submit(_in_worker, part) for part in parts]):
            yield future.result()


_work: list[Work] = []
"""What a worker process was started for; empty elsewhere."""


def _start(work: Work) -> None:
    torch.set_num_threads(1)
    _work[:] = [work]


def _in_worker(part: Sequence[Unit]) -> tuple[list[Key], Scores]:
    (work,) = _work
    return score_part(part, work)


def score_part(part: Sequence[Unit], work: Work) -> tuple[list[Key], Scores]:
    """Scores of the units whose records can be read, and their keys."""
    path, metrics, span, beside = work
    known, families = signals(), _families(metrics)
    stored = sorted({n for c in metrics for n in c.metric.needs if known[n].cost != "free"})
    by_key = {unit.key: unit for unit in part}
    records = open_store(path).records(stored, by_key)
    keys: list[Key] = []
    values, whole = [np.empty((0, len(metrics)))], Scores(np.empty((0, len(metrics))), {})
    while batch := list(islice(records, BATCH)):
        keys += [record.key for record in batch]
        given = [signals_of(record, by_key[record.key], span, known, beside) for record in batch]
        scores = Scores(np.full((len(batch), len(metrics)), np.nan), {})
        _score_others(metrics, given, scores, span, known)
        _score_composites(families, given, scores, span, known)
        values.append(scores.values)
        for reason, counts in scores.unscored.items():
            whole.missed(reason, slice(None), counts)
    return keys, Scores(np.concatenate(values), whole.unscored)


def _score_others(
    metrics: Sequence[Choice], given: Sequence[Given | str], scores: Scores, span: str, known: Mapping[str, Signal]
) -> None:
    for column, choice in enumerate(metrics):
        if isinstance(choice.metric.compute, Composite):
            continue
        for row, available in enumerate(given):
            scores.values[row, column], reason = score_one(choice, available, span, known)
            if reason:
                scores.missed(reason, column)


@dataclass(frozen=True)
class Pooled:
    """Composites that differ in the layer alone: their columns, and which of the family's layers each is of."""

    of: Composite
    columns: list[int]
    layers: list[int]


@dataclass(frozen=True)
class Family:
    """Composites of one token metric, by weighting; `layers` are all that they name, none where there are none."""

    of: Composite
    layers: list[int]
    weighted: dict[str, list[Pooled]]


def _families(metrics: Sequence[Choice]) -> list[Family]:
    families: dict[str, Family] = {}
    leaves: dict[tuple[str, str, str], Pooled] = {}
    for column, choice in enumerate(metrics):
        made = choice.metric.compute
        if not isinstance(made, Composite):
            continue
        pool, weight = made.parts()[1:]
        token = spelled(made.token.name, {**made.token_options, **_any_layer(made)}, made.token.options)
        family = families.setdefault(token, Family(made, [], {}))
        leaf = leaves.get((token, weight, pool))
        if leaf is None:
            leaf = leaves[token, weight, pool] = Pooled(made, [], [])
            family.weighted.setdefault(weight, []).append(leaf)
        if made.layer is not None and made.layer not in family.layers:
            family.layers.append(made.layer)
        leaf.columns.append(column)
        leaf.layers.append(family.layers.index(made.layer) if made.layer is not None else 0)
    return list(families.values())


def _any_layer(made: Composite) -> Mapping[str, int]:
    return {"layer": made.token.options["layer"]} if made.token.layered else {}


def _score_composites(
    families: Sequence[Family],
    given: Sequence[Given | str],
    scores: Scores,
    span: str,
    known: Mapping[str, Signal],
) -> None:
    pools = [(pools[0].of.needs, pools) for family in families for pools in family.weighted.values()]
    usable = []
    for row, available in enumerate(given):
        if not isinstance(available, str) and available["token_count"] > 0:
            usable.append(row)
            continue
        for needs, leaves in pools:
            reason = lack(needs, available, span, known) or f"empty {span}"
            scores.missed(reason, [column for leaf in leaves for column in leaf.columns])
    for rows in _blocks(usable, given):
        block = Block.of(rows, [available for row in rows if not isinstance(available := given[row], str)])
        for family in families:
            possible = {}
            for weight, leaves in family.weighted.items():
                reason = lack(leaves[0].of.needs, block.given[0], span, known)
                if reason:
                    scores.missed(reason, [column for leaf in leaves for column in leaf.columns], len(rows))
                else:
                    possible[weight] = leaves
            if possible:
                _score_family(family, possible, block, scores, span)


def _blocks(rows: Iterable[int], given: Sequence[Given | str]) -> Iterator[list[int]]:
    """Rows that have the same signals and as many layers, shortest first, cut where a block would grow too large."""
    alike: dict[tuple[tuple[str, int], ...], list[tuple[int, int]]] = {}
    for row in rows:
        available = given[row]
        assert not isinstance(available, str)
        shape = tuple(sorted((name, v.shape[0] if v.ndim > 1 else 1) for name, v in available.items()))
        alike.setdefault(shape, []).append((int(available["token_count"]), row))
    for shape, members in alike.items():
        most = max(size for _, size in shape)
        block: list[int] = []
        for width, row in sorted(members):
            if block and (len(block) + 1) * width * most > BLOCK:
                yield block
                block = []
            block.append(row)
        yield block


@dataclass(frozen=True)
class Block:
    """Answers of like length that have the same signals; `count` (rows,) are their tokens."""

    rows: list[int]
    given: Sequence[Given]
    count: Tensor
    weights: dict[str, Tensor]
    """Weights that were worked out, padded with 0, by the weighting."""

    @classmethod
    def of(cls, rows: list[int], given: Sequence[Given]) -> Block:
        """A block without weights yet."""
        return cls(rows, given, torch.stack([available["token_count"] for available in given]), {})

    def padded(self, values: Sequence[Tensor]) -> Tensor:
        """Values (..., tokens) of each answer, padded with 0 on the right: (rows, ..., T)."""
        out = torch.zeros(len(values), *values[0].shape[:-1], int(self.count.max()), dtype=torch.float64)
        for row, value in zip(out, values):
            row[..., : value.shape[-1]] = value
        return out


def _score_family(
    family: Family, possible: Mapping[str, list[Pooled]], block: Block, scores: Scores, span: str
) -> None:
    made = family.of
    tokens, count = block.padded([made.values(available) for available in block.given]), block.count
    if family.layers:
        tokens = torch.stack([layer_of(tokens, layer, made.token.name) for layer in family.layers], -2)
        count = count.unsqueeze(-1)
    values = Values(tokens, count)
    for weight, leaves in possible.items():
        if weight not in block.weights:
            block.weights[weight] = block.padded([leaves[0].of.weights(available) for available in block.given])
        weights = block.weights[weight]
        rows = Rows(values, weights.unsqueeze(-2) if family.layers else weights)
        for leaf in leaves:
            found = pooled(leaf.of.pooling, rows, leaf.of.pooling_options).double().numpy()
            found = found.reshape(len(block.rows), -1)[:, leaf.layers]
            scores.values[np.ix_(block.rows, leaf.columns)] = found
            for at, row in enumerate(np.isnan(found)):
                if row.any():
                    reason = why_undefined(leaf.of.needs, block.given[at], span)
                    scores.missed(reason, np.asarray(leaf.columns)[row])
