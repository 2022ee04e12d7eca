"""A sweep: every (model, revision, layer or aggregate, task), each text through each model once.

For every checkpoint and task, the first pending variant is evaluated here, which fills the bank with all layers; the
others are scored from it in processes of their own, while this one goes on to the next task. Results are MTEB's own
files, so what is done is read off them, and a sweep that was killed goes on where it stood.
"""

from __future__ import annotations

import errno
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

from mteb.abstasks import AbsTask

from mteb_ext import scoring
from mteb_ext.bank import Bank, BankError, make_room
from mteb_ext.items import save_gold
from mteb_ext.meta import encoder_of
from mteb_ext.scoring import Job, Loaded, Pool, Scored
from mteb_ext.source import NotHeld, Source, Unusable, bank_folder, devices_of
from mteb_ext.sweep_config import SweepConfig
from mteb_ext.sweep_plan import Arm, Refused, Subject
from mteb_ext.sweep_results import Failure, Outcome, Results, Unwritable

AT_ONCE = 2
"""Tasks whose variants may wait to be scored at once; the bank has to hold the texts of as many."""

PATIENCE = 0.5
"""Seconds after which a wait looks for signals."""

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
"""What ends a sweep, for every further unit would meet it too."""


HandedOut = list[tuple[Arm, Future[bool]]]
"""Variants that processes score, each with whether it is left to be evaluated here."""


@dataclass(eq=False)
class Sweep:
    """A sweep under way.

    Attributes:
        tell: called with a line for people whenever a unit has ended.
        progress: show a bar of the texts that go through a model.
        verbose: let the hosts log in scoring processes.
        total: units pending when it began.
    """

    config: SweepConfig
    tasks: Sequence[AbsTask]
    results: Results
    tell: Callable[[str], None]
    progress: bool = False
    verbose: bool = False
    total: int = 0
    outcome: Outcome = field(default_factory=Outcome)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _heard: set[tuple[str, str]] = field(default_factory=set)
    _died: bool = False

    def __post_init__(self) -> None:
        workers = self.config.workers
        self._pool = Pool(max(1, scoring.cores() - 1) if workers is None else workers, self.verbose)

    def run(self, subjects: Sequence[Subject], refused: Sequence[Refused]) -> Outcome:
        """Do everything that is pending.

        Raises:
            OSError: the disk is full or a folder cannot be written; what was finished is there.
        """
        started = time.perf_counter()
        try:
            self.total = sum(len(self._pending(s, task)) for s in subjects for task in self.tasks)
            self._tell_of_predictions(subjects)
            for one in refused:
                self._failed(Failure(one.name, "", "", one.reason))
            for subject in subjects:
                self._subject(subject)
        except KeyboardInterrupt:
            self._pool.close(now=True)
            raise
        finally:
            self._pool.close()
            self.outcome.seconds = time.perf_counter() - started
        return self.outcome

    def _tell_of_predictions(self, subjects: Sequence[Subject]) -> None:
        lacking = self.config.save_predictions and sum(
            self.results.done(arm.meta, task)
            and not (self._predictions(arm) / f"{task.metadata.name}_predictions.json").is_file()
            for subject in subjects
            for arm in subject.arms
            for task in self.tasks
            if not task.is_aggregate
        )
        if lacking:
            self.tell(
                f"Note: {lacking} of the units that are done already have no predictions; to have them of all, give "
                "another --out DIR (and this one's bank by --bank, so that nothing is encoded again)"
            )

    def _pending(self, subject: Subject, task: AbsTask) -> list[Arm]:
        return [arm for arm in subject.arms if not self.results.done(arm.meta, task)]

    def _subject(self, subject: Subject) -> None:
        todo = [(task, arms) for task in self.tasks if (arms := self._pending(subject, task))]
        if not todo:
            return
        source = self._source(subject)
        waiting: list[tuple[AbsTask, HandedOut]] = []
        try:
            for task, arms in todo:
                waiting.append((task, self._task(subject, task, arms, source)))
                while len(waiting) >= AT_ONCE:
                    self._finish(subject, source, *waiting.pop(0))
            while waiting:
                self._finish(subject, source, *waiting.pop(0))
        except Unusable as problem:
            for ended in [ended for _, handed_out in waiting for _, ended in handed_out]:
                _result(ended)
            self._failed(Failure(subject.name, "", "", str(problem)))
        finally:
            self.outcome.counters = self.outcome.counters.plus(source.counters)
            self.outcome.bank = max(self.outcome.bank, source.bank.bytes)

    def _source(self, subject: Subject) -> Source:
        """The source of a checkpoint, which knows every view that will be asked for."""
        request = subject.arms[0].variant.request
        root, cap = self._root(), self.config.bank_limit
        folder = bank_folder(root, request)
        make_room(root, cap, folder)
        source = Source(request, Bank(folder, disk=cap, root=root), devices_of(self.config.device))
        source.views.update({arm.variant.view: None for arm in subject.arms})
        return source

    def _task(self, subject: Subject, task: AbsTask, arms: Sequence[Arm], source: Source) -> HandedOut:
        """Evaluate the first arm here and hand the others out."""
        loaded = self._load(subject, task)
        if loaded is None:
            return []
        try:
            here = arms if self._pool.workers == 0 else arms[:1]
            for arm in here:
                self._here(subject, arm, loaded, source)
            return [(arm, self._hand_out(subject, arm, task)) for arm in arms[len(here) :]]
        finally:
            loaded.unload()

    def _load(self, subject: Subject, task: AbsTask) -> Loaded | None:
        try:
            loaded = Loaded(task)
            if self.config.save_predictions:
                save_gold(task, self.config.out / "predictions" / "gold")
        except Exception as problem:  # a data set's own code
            self._ends(problem)
            self._failed(Failure(subject.name, task.metadata.name, "", f"the data cannot be loaded: {_line(problem)}"))
            return None
        return loaded

    def _here(self, subject: Subject, arm: Arm, loaded: Loaded, source: Source) -> None:
        encoder = encoder_of(arm.variant, source)
        encoder.mteb_model_meta = arm.meta
        before = source.counters.seconds
        try:
            scored = scoring.score(
                encoder, loaded, self.config.batch_size, self._made_predictions(arm), progress=self.progress
            )
            encoding = source.counters.seconds - before
            self._save(subject, arm, scored._replace(seconds=scored.seconds - encoding))
        except Unusable:
            raise
        except Exception as problem:  # an evaluator's own code
            self._ends(problem)
            self._failed(Failure(subject.name, loaded.task.metadata.name, arm.name, _line(problem)))

    def _hand_out(self, subject: Subject, arm: Arm, task: AbsTask) -> Future[bool]:
        """Have a process score a variant; it is saved at once by a thread of the pool, so that a kill loses nothing."""
        job = Job(
            self.config.tasks,
            self.config.preset,
            task.metadata.name,
            arm.variant,
            self._root(),
            self.config.batch_size,
            self._made_predictions(arm),
        )
        settled: Future[bool] = Future()

        def settle(ended: Future[Scored]) -> None:
            try:
                settled.set_result(self._left(subject, arm, task, ended))
            except BaseException as problem:  # raised again where it is waited for
                settled.set_exception(problem)

        self._pool.submit(job).add_done_callback(settle)
        return settled

    def _left(self, subject: Subject, arm: Arm, task: AbsTask, ended: Future[Scored]) -> bool:
        """Whether a variant that left its process still has to be evaluated."""
        try:
            self._save(subject, arm, ended.result())
        except (NotHeld, CancelledError):
            return True
        except BrokenProcessPool:
            with self._lock:
                if not self._died:
                    self._died = True
                    self.tell(
                        "Warning: a scoring process died (out of memory?); what it and the others were at is evaluated "
                        "in the main process, one unit after the other; with fewer --workers each has more memory"
                    )
            return True
        except Exception as problem:  # an evaluator's own code
            self._ends(problem)
            self._failed(Failure(subject.name, task.metadata.name, arm.name, _line(problem)))
        return False

    def _finish(self, subject: Subject, source: Source, task: AbsTask, handed_out: HandedOut) -> None:
        """Wait for a task's variants, and evaluate here what the processes could not."""
        again = [arm for arm, ended in handed_out if _result(ended)]
        loaded = self._load(subject, task) if again else None
        if loaded is None:
            return
        try:
            for arm in again:
                self._here(subject, arm, loaded, source)
        finally:
            loaded.unload()

    def _save(self, subject: Subject, arm: Arm, scored: Scored) -> None:
        result, seconds, heard = scored
        score = float(result.get_score())
        self.results.save(result, arm.meta, {"batch_size": self.config.batch_size})
        self.results.note(
            status="done",
            checkpoint=subject.name,
            task=result.task_name,
            variant=arm.name,
            score=score if math.isfinite(score) else None,
            scoring_seconds=round(seconds, 3),
            **({"warnings": heard} if heard else {}),
        )
        with self._lock:
            for text in heard:
                kind = (result.task_name, text.partition(":")[0])
                if kind not in self._heard:
                    self._heard.add(kind)
                    self.tell(f"Warning: {result.task_name}, {arm.label}: {text} (any more of these: sweep.jsonl)")
            self.outcome.done += 1
            self.outcome.scoring += seconds
            self.tell(f"{self._count()} {subject.name}  {arm.label}  {result.task_name}  {score:.4f}  {seconds:.1f} s")

    def _failed(self, failure: Failure) -> None:
        self.results.note(status="failed", **vars(failure))
        with self._lock:
            self.outcome.failures.append(failure)
            self.tell(f"{self._count()} FAILED: {failure.line}")

    def _count(self) -> str:
        return f"[{self.outcome.done}/{self.total}]"

    def _ends(self, problem: BaseException) -> None:
        """Raise what would meet every further unit."""
        if isinstance(problem, (BankError, Unwritable)):
            raise problem
        if isinstance(problem, OSError) and problem.errno in FULL:
            where = problem.filename or "a folder of results or of data sets"
            raise Unwritable(
                f"{where}: {problem.strerror}; free space and run the same command again: nothing finished is lost"
            ) from None

    def _predictions(self, arm: Arm) -> Path:
        return self.config.out / "predictions" / arm.meta.model_name_as_path() / str(arm.meta.revision) / arm.name

    def _made_predictions(self, arm: Arm) -> Path | None:
        if not self.config.save_predictions:
            return None
        folder = self._predictions(arm)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _root(self) -> Path:
        return self.config.bank or self.config.out / "bank"


def _result(ended: Future[bool]) -> bool:
    """Its result; a wait without an end may miss a Ctrl-C that another thread was handed."""
    while not ended.done():
        wait([ended], PATIENCE)
    return ended.result()


def _line(problem: BaseException) -> str:
    return f"{type(problem).__name__}: {' '.join(str(problem).split())[:300]}"
