"""The results of a sweep on disk: MTEB's own files, whole or not at all, a journal, and what was done."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mteb.abstasks import AbsTask
from mteb.cache import ResultCache
from mteb.models.model_meta import ModelMeta
from mteb.results import TaskResult

from metrics.lock import Lock
from mteb_ext.source import Counters

JOURNAL, RECORD = "sweep.jsonl", "sweep.json"
SETTINGS = "run_settings.jsonl"
SCRATCH = ".saving-"


class Unwritable(OSError):
    """The folder of results cannot be written, or the disk is full."""


@dataclass(frozen=True)
class Failure:
    """A unit that was not evaluated, and why; without a task or a variant, all of them."""

    checkpoint: str
    task: str
    variant: str
    reason: str

    @property
    def line(self) -> str:
        """All of it, for people."""
        return f"{'  '.join(text for text in (self.checkpoint, self.variant, self.task) if text)}: {self.reason}"


@dataclass
class Outcome:
    """What a sweep did.

    Attributes:
        done: units evaluated.
        scoring: seconds in evaluators, summed over processes, without forward passes.
        bank: bytes of the largest bank.
    """

    done: int = 0
    failures: list[Failure] = field(default_factory=list)
    counters: Counters = field(default_factory=Counters)
    scoring: float = 0.0
    seconds: float = 0.0
    bank: int = 0


class Results:
    """The folder of a sweep, which is a cache folder of MTEB.

    One process writes; its threads may call `save` and `note` at once.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with TemporaryDirectory() as elsewhere:  # a cache makes its folder at once, and a plan must not write
            self._elsewhere = ResultCache(elsewhere)
        self._lock = threading.Lock()
        self._seen: dict[Path, TaskResult | None] = {}

    def claim(self) -> Lock:
        """Make the folder, keep other sweeps out of it, and clear what one that was killed left half done.

        Raises:
            BlockingIOError: another sweep is at work here.
            Unwritable: it cannot be made.
        """
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = Lock(self.folder / ".sweep.lock", "--out DIR")
            for left in self.folder.glob(f"{SCRATCH}*"):
                shutil.rmtree(left, ignore_errors=True)
            journal = self.folder / JOURNAL
            if journal.is_file() and (held := journal.read_bytes()) and not held.endswith(b"\n"):
                journal.write_bytes(held[: held.rfind(b"\n") + 1])
        self._seen.clear()
        return lock

    def path(self, meta: ModelMeta, task: AbsTask) -> Path:
        """Where MTEB keeps the result of a task."""
        return self._path(meta, task.metadata.name)

    def _path(self, meta: ModelMeta, task: str) -> Path:
        inside = self._elsewhere.get_task_result_path(task, meta).relative_to(self._elsewhere.cache_path)
        return self.folder / inside

    def done(self, meta: ModelMeta, task: AbsTask) -> bool:
        """Whether every split and subset of a task has its scores of the data as they are now.

        Nothing is written, and a file is read once.
        """
        path = self.path(meta, task)
        if path not in self._seen:
            self._seen[path] = _read(path)
        held = self._seen[path]
        if held is None or not held.is_mergeable(task):  # scores of another revision of the data
            return False
        return bool(held.scores) if task.is_aggregate else not held.get_missing_evaluations(task)

    def save(self, result: TaskResult, meta: ModelMeta, encode_kwargs: Mapping[str, Any]) -> None:
        """Write a result the way MTEB does, with each file renamed into place when it is whole.

        Scores of other subsets and splits that are there stay, as with MTEB; a file that cannot be read is put aside.

        Raises:
            Unwritable: the disk is full or the folder cannot be written.
        """
        with self._lock, self._writing(), TemporaryDirectory(prefix=SCRATCH, dir=self.folder) as scratch:
            path = self._path(meta, result.task_name)
            target = path.parent
            held = _read(path)
            if held is None and path.is_file():
                path.replace(path.with_name(f"{path.name}.damaged"))
            elif held is not None and _scopes(held) - _scopes(result) and held.is_mergeable(result):
                result = held.merge(result)
            made = ResultCache(Path(scratch))
            beside = made.get_task_result_path(result.task_name, meta).parent
            beside.mkdir(parents=True)
            if (target / SETTINGS).is_file():
                (beside / SETTINGS).write_bytes((target / SETTINGS).read_bytes())
            made.save_to_cache(result, meta, encode_kwargs=encode_kwargs)
            target.mkdir(parents=True, exist_ok=True)
            scores = beside / f"{result.task_name}.json"
            for file in sorted(beside.iterdir(), key=lambda p: p == scores):  # the scores last: they mean done
                file.replace(target / file.name)
            self._seen[path] = result

    def note(self, **unit: Any) -> None:
        """Append one unit to the journal."""
        when = datetime.now(timezone.utc).isoformat(timespec="seconds")
        line = json.dumps({"time": when, **unit}, ensure_ascii=False)
        with self._lock, self._writing(), (self.folder / JOURNAL).open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def record(self, run: Mapping[str, Any]) -> None:
        """Add one run to the record: what it was asked to do, and what that has cost."""
        path = self.folder / RECORD
        temporary = path.with_name(f".{path.name}.tmp")
        with self._lock, self._writing():
            try:
                runs = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() else []
            except (ValueError, KeyError, TypeError):
                warnings.warn(f"{path} cannot be read; its earlier runs are left out", stacklevel=2)
                runs = []
            text = json.dumps({"runs": [*runs, dict(run)]}, indent=2, default=str)
            temporary.write_text(text + "\n", encoding="utf-8")
            temporary.replace(path)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except BlockingIOError:
            raise
        except OSError as problem:
            where = problem.filename or self.folder
            raise Unwritable(
                f"{where} cannot be written: {problem.strerror or problem}; free space or make the folder writable, "
                "and run the same command again (nothing finished is lost), or give another --out DIR"
            ) from None


def _read(path: Path) -> TaskResult | None:
    """A result, None where there is none that can be read."""
    if not path.is_file():
        return None
    try:
        return TaskResult.from_disk(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        reason = " ".join(str(problem).split())[:120]
        warnings.warn(f"{path} cannot be read ({reason}); it is evaluated again", stacklevel=1)
        return None


def _scopes(result: TaskResult) -> set[tuple[str, str]]:
    """Every (split, subset) that has scores."""
    return {(split, scores["hf_subset"]) for split, subsets in result.scores.items() for scores in subsets}
