"""Turns what the taps saw into records, and keeps the store; recording may stop, the evaluation never does for it."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from lm_eval_ext.requests import Identity
from lm_eval_ext.room import FAULTS
from metrics.plan import Plan
from metrics.record import Key, Record, Span
from metrics.slices import PRIVATE
from metrics.store import Store
from metrics.writer import Writer

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)
GONE = (errno.ENOENT, errno.ESTALE)
"""What a disk says when it has no room, when a folder may not be written, and when it is not there any more."""


class Recorder:
    """The open store of one model, and what earlier runs left in it.

    Args:
        writer: where records go.
        plan: what is kept.
        store_text: whether answers and token ids are kept.
        resume: serve requests that the store already holds.
    """

    def __init__(self, writer: Writer, plan: Plan, *, store_text: bool, resume: bool) -> None:
        self.writer = writer
        self.plan = plan
        self.store_text = store_text
        self.served = 0
        self._answers = self._finished(writer.path) if resume else {}
        self._stopped = False

    @staticmethod
    def _finished(path: Path) -> dict[tuple[Key, str], Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said below, as lines of ours
            store = Store(path)
            entries = store.entries(verified=True)
        for problem in store.problems:
            say(f"{problem.split(';')[0]}; what it held is asked again")
        return {(k, e["request_hash"]): e["answer"] for k, e in entries.items() if e["answer"] is not None}

    def answer(self, identity: Identity | None) -> Any:
        """What an earlier run answered to this very request, or None."""
        if identity is None:
            return None
        found = self._answers.get((identity.key, identity.request_hash))
        self.served += found is not None
        return tuple(found) if isinstance(found, list) else found

    @property
    def on(self) -> bool:
        """Whether records are still taken."""
        return not self._stopped

    def add(
        self,
        identity: Identity,
        kind: str,
        *,
        answer: Any,
        prompt: Sequence[int] | None,
        prompt_count: int,
        tokens: Sequence[int],
        spans: Mapping[str, Span],
        text: str,
        truncated: bool,
        signals: Mapping[str, Tensor],
    ) -> None:
        """Record one continuation. A full budget or a failing disk stops the recording with one line, nothing else."""
        ids = {"tokens": tokens} if prompt is None else {"tokens": tokens, "prompt_tokens": prompt}
        record = Record(
            key=identity.key,
            kind=kind,
            prompt_count=prompt_count,
            token_count=len(tokens),
            spans=dict(spans),
            answer=answer,
            prompt_hash=identity.prompt_hash,
            doc_hash=identity.doc_hash,
            request_hash=identity.request_hash,
            chars=len(text),
            bytes=len(text.encode(errors="surrogatepass")),
            siblings=identity.siblings,
            truncated=truncated,
            signals={**signals, **{name: torch.tensor(value, dtype=torch.int32) for name, value in ids.items()}},
        )
        self.put(record)

    def put(self, record: Record) -> None:
        """Record one that is made already, without what is private where texts are not kept."""
        if self._stopped:
            return
        if not self.store_text:
            public = {name: value for name, value in record.signals.items() if name not in PRIVATE}
            answer = None if isinstance(record.answer, str) else record.answer
            record = replace(record, answer=answer, signals=public)
        self._guard(lambda: self.writer.add(record) or self._full())

    def end_batch(self) -> None:
        """A batch has been recorded: write what is pending if it is time."""
        if not self._stopped:
            self._guard(self.writer.end_batch)

    def flush(self) -> None:
        """Write what is pending as a shard."""
        if not self._stopped:
            self._guard(self.writer.flush)

    def note(self, **facts: Any) -> None:
        """Note facts about this run in the manifest."""
        if not self._stopped:
            self._guard(lambda: self.writer.note(**facts))

    def count(self, ranks: int) -> str:
        """What is there, in words: what this run wrote where it is the only process, else what the store holds."""
        if ranks == 1:
            return f"{self.writer.written} records, {self.writer.bytes / 1e6:.1f} MB,"
        return f"{len(Store(self.writer.path))} records of {ranks} processes"

    def close(self) -> None:
        """End the run and free the store; nothing is recorded afterwards."""
        try:
            self.writer.close()
        except (OSError, ValueError) as problem:  # ValueError: the manifest has been damaged meanwhile
            if not self._stopped:  # else it has been said
                say(
                    f"store {self.writer.path} could not be closed: {problem}; its finished shards are kept",
                    self.writer.rank,
                )
        self._stopped = True

    def discard(self) -> None:
        """End a run that is refused before anything is recorded; an empty store that it began goes with it."""
        self._guard(self.writer.discard)
        self._stopped = True

    def _guard(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except (OSError, ValueError) as problem:
            why = getattr(problem, "strerror", None) or problem
            self._stop(
                f"cannot write {self.writer.path}: {why}; recording stops here, the evaluation goes on; "
                f"{self._kept(problem)}"
            )

    def _kept(self, problem: Exception) -> str:
        """What is left of the store after a failed write, and what to do about it."""
        code = problem.errno if isinstance(problem, OSError) else None
        if code in GONE and not self.writer.path.exists():
            return "the folder is gone, and what it held with it. Record again into another store=DIR"
        remedy = "Make it writable" if code in CLOSED else "Make room" if code in FULL else "Mend that"
        return f"{self.writer.written} records are kept. {remedy} and run again with store_mode=resume"

    def _full(self) -> None:
        self.writer.flush()
        self._stop(
            f"{self.writer.path} has reached max_store_gb; recording stops here, the evaluation goes on. "
            f"Record fewer signals (eval-ext plan shows what each costs) or allow more"
        )

    def watch(self, action: Callable[[], Any]) -> Any:
        """Do something that only the record needs: what goes wrong in it ends the recording, not the evaluation."""
        if self._stopped:
            return None
        try:
            return action()
        except FAULTS as problem:
            kind = type(problem).__name__
            self._stop(
                f"recording stops here ({kind}: {' '.join(str(problem).split())[:300]}); the evaluation goes on, "
                f"{self.writer.written} records are kept"
            )
            return None

    def _stop(self, why: str) -> None:
        if not self._stopped:
            self._stopped = True
            say(why, self.writer.rank)
            try:
                self.writer.note(stopped=why)
            except (OSError, ValueError):
                return  # the disk that failed holds the manifest too


def say(text: str, rank: int = 0) -> None:
    """One line to the user, on stderr; it names the process if that is not the first."""
    click.echo(f"hf-store, process {rank}: {text}" if rank else f"hf-store: {text}", err=True)
