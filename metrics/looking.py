"""The kinds of figures that `plot` draws, each from one request; what lacks something says so instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from metrics.cases import Case
from metrics.core import signals
from metrics.documents import axes_of, keys_of, lacking, layer_names, values
from metrics.drawing import Picture
from metrics.figures import document, scores, tokens
from metrics.record import Key
from metrics.report import alike
from metrics.score import units
from metrics.store import Store

SIGNALS = ("entropy", "lens_entropy")
RECEIVED = "attention_received"
NEEDS_DOC = "this shows one document; pass --doc N"


@dataclass(frozen=True)
class Request:
    """What is to be drawn.

    `store` has the spans of the filter asked for, `spanned` those of a case's own filter; `frame` has a row for each
    unit, with its labels; `scores` the oriented scores of a task's units, for tasks without labels; `texts` gives the
    text of each token of a record, the prompt's first.
    """

    store: Store
    spanned: Callable[[Case | None], Store]
    cases: Sequence[Case]
    frame: Callable[[Case | None], pd.DataFrame]
    scores: Callable[[], Mapping[str, dict[str, np.ndarray]]]
    tasks: Sequence[str]
    metrics: Sequence[str]
    span: str
    doc: int | None
    signals: Sequence[str]
    most: int
    replicates: int
    seed: int
    texts: Callable[[Key], list[str]]


Found = Iterator[Picture | str]
NO_LABELS = "right and wrong are not known; pass --labels with lm-eval's output folder, a jsonl or a csv"


def distributions(request: Request) -> Found:
    """Distributions of scores."""
    yield from _each(request, lambda case, names: scores.distributions(case, names))


def roc(request: Request) -> Found:
    """ROC curves with bands."""
    yield from _each(
        request,
        lambda case, names: scores.roc(case, names, seed=request.seed, replicates=request.replicates),
        both=True,
    )


def coverage(request: Request) -> Found:
    """Risk-coverage curves."""
    yield from _each(request, lambda case, names: scores.coverage(case, names), both=True)


def _each(request: Request, draw: Callable[[Case, Sequence[str]], Picture], *, both: bool = False) -> Found:
    """One figure a case; with `both`, of the metrics that score both right answers and wrong ones."""
    if not request.cases:
        yield NO_LABELS
    for case in request.cases:
        same = alike(case.scores)
        held = [name for name in request.metrics if name in case.scores and same[name] == name]
        single = [name for name in held if both and not _has_both(case, case.scores[name])]
        held = [name for name in held if name not in single]
        names = scores.first_of_families(held, request.most)
        if case.wrong is None:
            yield f"{case.title}: the label is graded, so no answer is right or wrong; pass --threshold"
        elif single and not names:
            of = f"{int(case.wrong.sum())} of {len(case.wrong)} answers are wrong"
            yield f"{case.title}: {of}; this needs right and wrong ones that the metrics score"
        elif not names:
            yield f"{case.title}: none of the metrics has a score and a direction; choose others with --metrics"
        else:
            if len(names) < len(held):
                yield (
                    f"{case.title}: {len(names)} of {len(held)} metrics that differ in order, by family; "
                    f"--most {len(held)} draws all"
                )
            if single:
                yield f"{case.title}: {', '.join(single)} scored right answers only or wrong ones only, so left out"
            yield draw(case, names)


def _has_both(case: Case, score: np.ndarray) -> bool:
    """Whether a score is given to right and to wrong answers; true of a graded case, which has neither."""
    return case.wrong is None or len(np.unique(case.wrong[~np.isnan(score)])) == 2


def correlation(request: Request) -> Found:
    """Correlations between metrics, once a task."""
    by_task: dict[str, dict[str, np.ndarray]] = {}
    for case in request.cases:
        by_task.setdefault(case.task, {n: case.scores[n] for n in request.metrics if n in case.scores})
    for task, found in (by_task or request.scores()).items():
        if len(found) < 2:
            yield f"{task}: {len(found)} metric has scores; choose two or more with --metrics"
        else:
            yield scores.correlation(task, found)


def curves(request: Request) -> Found:
    """Token signals along the answers, and along one document."""
    yield from _signals(request, ("token",), "token", "curves", _curve)


def profile(request: Request) -> Found:
    """Signals by layer along the answers, and along one document."""
    yield from _signals(request, ("layer", "token"), "(layer, token)", "profile", _profile)


def _curve(request: Request, name: str, title: str, held: Any, wrong: Any) -> Picture:
    return tokens.curves(title, name, _unit(request, name), held, wrong)


def _profile(request: Request, name: str, title: str, held: Any, wrong: Any) -> Picture:
    layers = layer_names(request.store.manifest, next(iter(held.values())).shape[0])
    return tokens.profile(title, name, _unit(request, name), layers, held, wrong)


def _signals(request: Request, axes: tuple[str, ...], called: str, kind: str, draw: Callable[..., Picture]) -> Found:
    """One figure a signal with these axes and case, and one of the document; a step is the token that it produced."""
    fitting = []
    for name in request.signals:
        if name not in request.store.manifest["signals"]:
            known = signals().get(name)
            if known is None or _by_token(known.axes) == axes:
                yield lacking(request.store, name)
        elif _by_token(axes_of(request.store, name)) == axes:
            fitting.append(name)
    if not fitting:
        yield f"none of {', '.join(request.signals)} is a recorded {called} signal; pass --signal NAME for another"
    for name in fitting:
        step = "step" in axes_of(request.store, name)
        for title, store, keys, wrong in _populations(request):
            held = {key: v[..., :-1] if step else v for key, v in values(store, name, keys, request.span)}
            if held:
                nothing = next(iter(held.values()))[..., :0]
                held |= {key: nothing for key in keys if key not in held}  # counted as left out
                yield draw(request, name, title, held, wrong)
            else:
                yield f"{title}: no record has '{name}' and the span '{request.span}'"
        for title, key, words in _documents(request):
            found = next((v for _, v in values(request.store, name, [key], request.span)), None)
            if found is None or not found.size:
                yield f"{title}: no values of '{name}' in the span '{request.span}'"
                continue
            found = found[..., :-1] if step else found
            words = _cut_words(request, key, words)
            if kind == "curves":
                yield document.curve(title, name, _unit(request, name), found, words)
            else:
                layers = layer_names(request.store.manifest, found.shape[0])
                yield document.by_layer(title, name, _unit(request, name), layers, found, words)


def influence(request: Request) -> Found:
    """Influences of a document's tokens, a row a method."""
    names = [
        name
        for name, facts in request.store.manifest["signals"].items()
        if facts.get("cost") == "influence" and axes_of(request.store, name) == ("token",)
    ]
    if not names:
        yield f"{request.store.path} holds no influence of tokens; record with signals=influence"
        return
    if request.doc is None:
        yield NEEDS_DOC
    for title, key, words in _documents(request):
        rows = {n: v for n in names for _, v in values(request.store, n, [key], request.span) if v.size}
        if rows:
            yield document.influence(title, rows, _cut_words(request, key, words))
        else:
            yield f"{title}: no values in the span '{request.span}'"


def received(request: Request) -> Found:
    """Attention that each token of a document receives."""
    if RECEIVED not in request.store.manifest["signals"]:
        yield lacking(request.store, RECEIVED)
        return
    if request.doc is None:
        yield NEEDS_DOC
    for title, key, words in _documents(request):
        found = next((v for _, v in values(request.store, RECEIVED, [key], request.span)), None)
        if found is None:
            yield f"{title}: the record has no '{RECEIVED}' or no span '{request.span}'"
            continue
        axes = axes_of(request.store, RECEIVED)
        found = found.mean(axes.index("head")) if "head" in axes else found
        layers = layer_names(request.store.manifest, found.shape[0])
        prompt = request.store.entries()[key]["prompt_count"]
        unit = _unit(request, RECEIVED)
        yield document.by_layer(
            title, RECEIVED, unit, layers, found, words[: found.shape[1]], prompt=prompt, logarithmic=True
        )


KINDS: dict[str, Callable[[Request], Found]] = {
    "distributions": distributions,
    "roc": roc,
    "coverage": coverage,
    "correlation": correlation,
    "curves": curves,
    "profile": profile,
    "influence": influence,
    "received": received,
}
"""The kinds by name, in the order in which they are drawn."""


def _by_token(axes: Sequence[str]) -> tuple[str, ...]:
    return tuple("token" if axis == "step" else axis for axis in axes)


def _unit(request: Request, name: str) -> str:
    return request.store.manifest["signals"][name].get("unit", "1")


def _populations(request: Request) -> Iterator[tuple[str, Store, list[Key], dict[Key, bool] | None]]:
    """Title, store with its spans, records and errors of each case; of each task where nothing is labelled."""
    for case in request.cases:
        frame = request.frame(case)
        part = frame.loc[(frame["task"] == case.task) & frame[f"label:{case.verdict}"].notna()]
        keys = keys_of(part)
        yield (
            case.title,
            request.spanned(case),
            keys,
            None if case.wrong is None else dict(zip(keys, map(bool, case.wrong))),
        )
    if not request.cases:
        frame = request.frame(None)
        for task in request.tasks:
            yield task, request.spanned(None), keys_of(frame.loc[frame["task"] == task]), None


def _documents(request: Request) -> Iterator[tuple[str, Key, list[str]]]:
    """The record of the document in each task that has it, and the texts of its tokens."""
    if request.doc is None:
        return
    tasks = [task for task in request.tasks if _has(request.store, task, request.doc)]
    if not tasks:  # the line names what there is
        find_key(request.store, request.doc, request.tasks[0] if len(request.tasks) == 1 else None)
    for task in tasks:
        key = find_key(request.store, request.doc, task)
        yield f"{task}, document {request.doc}", key, request.texts(key)


def _has(store: Store, task: str, doc: int) -> bool:
    return any(key.task == task and key.doc_id == doc for key in store.entries())


def _cut_words(request: Request, key: Key, words: Sequence[str]) -> list[str]:
    entry = request.store.entries()[key]
    start, stop = entry["spans"][request.span]
    return list(words[entry["prompt_count"] + start : entry["prompt_count"] + stop])


def find_key(
    store: Store, doc: int, task: str | None = None, sample: int = 0, option: int | None = None, *, norm: str = "none"
) -> Key:
    """The record of a document: of its sample, and of the option given or that the model chose.

    Raises:
        ValueError: there is none; the message names what there is.
    """
    entries = store.entries()
    tasks = list(dict.fromkeys(key.task for key in entries))
    if task is not None and task not in tasks:
        raise ValueError(f"--task {task}: {store.path} holds {', '.join(tasks) or 'no task'}")
    of_tasks = {t: sorted({k.doc_id for k in entries if k.task == t}) for t in ([task] if task else tasks)}
    having = [t for t, docs in of_tasks.items() if doc in docs]
    if not having:
        held = "; ".join(f"{t} has {_ranges(docs)}" for t, docs in of_tasks.items()) or "it is empty"
        raise ValueError(f"--doc {doc}: {store.path} has no such document; {held}")
    if len(having) > 1:
        raise ValueError(f"--doc {doc} is in several tasks, {', '.join(having)}; pass --task")
    same = {k: e for k, e in entries.items() if k.task == having[0] and k.doc_id == doc}
    samples = sorted({k.occurrence for k in same})
    if sample not in samples:
        raise ValueError(f"--sample {sample}: document {doc} of {having[0]} has sample {_ranges(samples)}")
    same = {k: e for k, e in same.items() if k.occurrence == sample}
    if option is None:
        return units(same, norm=norm)[0].key
    options = sorted({k.request for k in same})
    if option not in options:
        raise ValueError(f"--option {option}: document {doc} of {having[0]} has option {_ranges(options)}")
    return next(k for k in sorted(same) if k.request == option)


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers in few characters: ``0 to 4, 7``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    shown = [str(a) if a == b else f"{a} to {b}" for a, b in runs]
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} further ranges" if len(shown) > 8 else "")
