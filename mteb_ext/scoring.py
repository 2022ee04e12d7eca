"""Scoring one variant on one task, here or in a process of its own that only reads the bank."""

from __future__ import annotations

import contextlib
import copy
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import lru_cache
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple, cast

import mteb
import torch
from datasets.utils import logging as datasets_logging
from mteb.abstasks import AbsTask
from mteb.abstasks.aggregated_task import AbsTaskAggregate
from mteb.results import TaskResult
from threadpoolctl import threadpool_limits
from transformers.utils import logging as transformers_logging

from mteb_ext.encoder import LayerEncoder
from mteb_ext.meta import Variant, encoder_of, meta_of
from mteb_ext.source import shared_source
from mteb_ext.tasks import resolve

SUPERSEDED = "The task .* is superseded"
"""MTEB's advice to take a newer task, given again at every evaluation; presets name their tasks on purpose."""


@dataclass(eq=False)
class Loaded:
    """A task with its data, evaluated any number of times as if for the first time.

    A task draws from generators of its own while it is evaluated, so each evaluation gets a copy whose generators
    stand where loading left them.
    """

    task: AbsTask
    _generators: tuple[Any, Any] = field(init=False)
    _parts: list[Loaded] = field(default_factory=list)

    def __post_init__(self) -> None:
        if isinstance(self.task, AbsTaskAggregate):
            self._parts = [Loaded(part) for part in self.task.metadata.tasks]
        elif not self.task.data_loaded:
            with contextlib.redirect_stdout(sys.stderr):
                self.task.load_data()
        self._generators = copy.deepcopy((self.task.rng_state, self.task.np_rng))

    def fresh(self) -> AbsTask:
        """The task as it was after loading; the rows of its data are shared, what holds them is not."""
        task = copy.copy(self.task)
        task.rng_state, task.np_rng = copy.deepcopy(self._generators)
        task.dataset = copy.copy(task.dataset)
        if self._parts:
            parts = [part.fresh() for part in self._parts]
            vars(task)["metadata"] = task.metadata.model_copy(update={"tasks": parts})
        return task

    def unload(self) -> None:
        """Let the data go."""
        for part in self._parts:
            part.unload()
        self.task.unload_data()


class Scored(NamedTuple):
    """A result, the seconds it took, and what was warned of, each once in one line."""

    result: TaskResult
    seconds: float
    warnings: tuple[str, ...]


def score(
    encoder: LayerEncoder, loaded: Loaded, batch_size: int, predictions: Path | None = None, *, progress: bool = False
) -> Scored:
    """Evaluate by MTEB's own evaluator; `progress` shows a bar of the texts that go through the model.

    MTEB adds to a file of predictions that is there; what an evaluation that was cut off left is removed first.
    """
    if predictions is not None:
        (predictions / f"{loaded.task.metadata.name}_predictions.json").unlink(missing_ok=True)
    started = time.perf_counter()
    with warnings.catch_warnings(record=True) as heard, contextlib.redirect_stdout(sys.stderr):
        found = mteb.evaluate(
            cast(Any, encoder),
            loaded.fresh(),
            co2_tracker=False,
            cache=None,
            encode_kwargs=cast(Any, {"batch_size": batch_size, "show_progress_bar": progress}),
            prediction_folder=predictions,
            show_progress_bar=False,
        )
    lines = dict.fromkeys(f"{one.category.__name__}: {_first_line(str(one.message))}" for one in heard)
    return Scored(found.task_results[0], time.perf_counter() - started, tuple(lines))


def _first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "").rstrip(":")


@dataclass(frozen=True)
class Job:
    """One unit for another process.

    Attributes:
        names, preset: the tasks of the sweep as they were asked for.
        task: the name of the one to score.
        root: the folder of banks.
    """

    names: tuple[str, ...]
    preset: str | None
    task: str
    variant: Variant
    root: Path
    batch_size: int
    predictions: Path | None


@dataclass(eq=False)
class Scorer:
    """What a scoring process holds between its units: the sweep's tasks, and the data of the last one."""

    tasks: dict[str, AbsTask]
    loaded: Loaded | None = None

    def run(self, job: Job) -> Scored:
        """Score one unit.

        Raises:
            NotHeld: a text is no longer in the bank.
        """
        if self.loaded is None or self.loaded.task.metadata.name != job.task:
            self.loaded = None  # the former task's data can go before the next one's come
            self.loaded = Loaded(copy.copy(self.tasks[job.task]))
        encoder = encoder_of(job.variant, shared_source(job.variant.request, (), job.root))
        encoder.mteb_model_meta = meta_of(job.variant)
        return score(encoder, self.loaded, job.batch_size, job.predictions)


class Pool:
    """Processes that score; they are started when first needed, and anew after one has died.

    Args:
        workers: how many.
        verbose: let the hosts log in them.
    """

    def __init__(self, workers: int, verbose: bool = False) -> None:
        self.workers, self.verbose = workers, verbose
        self._executor: ProcessPoolExecutor | None = None
        self._line: Any = None

    def submit(self, job: Job) -> Future[Scored]:
        """Score a unit when a process is free."""
        if self._executor is not None:
            try:
                return self._executor.submit(run, job)
            except BrokenProcessPool:  # its own units have ended by that too
                self.close()
        self._executor = self._start()
        return self._executor.submit(run, job)

    def close(self, *, now: bool = False) -> None:
        """Drop what has not begun and wait for the rest, or end that as well."""
        if self._line is not None and now:
            self._line.close()
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
        if self._line is not None:
            self._line.close()
        self._executor = self._line = None

    def _start(self) -> ProcessPoolExecutor:
        methods = multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        if "forkserver" in methods:
            context.set_forkserver_preload(["mteb_ext.scoring"])
        theirs, self._line = context.Pipe(duplex=False)  # of a class that differs between systems
        threads = max(1, cores() // (self.workers + 1))
        return ProcessPoolExecutor(
            self.workers, mp_context=context, initializer=start, initargs=(threads, theirs, self.verbose)
        )


def cores() -> int:
    """The number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the hosts' progress bars and log lines away from ours."""
    loggers = [logging.getLogger(name) for name in ("mteb", "datasets", "sentence_transformers")]
    before, level = [logger.level for logger in loggers], transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    datasets_logging.disable_progress_bar()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, former in zip(loggers, before):
            logger.setLevel(former)
        transformers_logging.set_verbosity(level)
        transformers_logging.enable_progress_bar()
        datasets_logging.enable_progress_bar()


@lru_cache(maxsize=1)
def _scorer(names: tuple[str, ...], preset: str | None) -> Scorer:
    return Scorer({task.metadata.name: task for task in resolve(names, preset)})


_for_good = contextlib.ExitStack()


def start(threads: int, line: Any, verbose: bool) -> None:
    """Prepare a scoring process: it shares the machine with others, and leaves the keyboard to its parent.

    It ends when its parent dies or lets go of its end of `line`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(line,), daemon=True).start()
    warnings.filterwarnings("ignore", message=SUPERSEDED)
    if not verbose:
        _for_good.enter_context(quiet())
    torch.set_num_threads(threads)
    threadpool_limits(threads)


def _end_with_parent(line: Any) -> None:
    parent = multiprocessing.parent_process()
    wait([line] if parent is None else [line, parent.sentinel])
    os._exit(1)


def run(job: Job) -> Scored:
    """Score one unit in a process of its own."""
    return _scorer(job.names, job.preset).run(job)
