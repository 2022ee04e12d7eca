"""A folder of records and its lazy readers.

::

    STORE/
      manifest.json             schema, model, plan, axes and units of every signal, one entry a run
      lock                      who is writing
      shards/r0-00000.jsonl     record index of a shard; the shard exists when this does
      shards/r0-00000.safetensors
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metrics import shard
from metrics.manifest import read_manifest, update_run
from metrics.record import Key, Record

if TYPE_CHECKING:
    import pandas as pd

    from metrics.score import FeatureArrays


class Store:
    """Reads a store. Opening costs one small file; the index is read at first use, signals when asked for.

    Damage stays local: a shard that cannot be read is named in `problems` (and by one warning) and the rest is read.
    A record written twice, as after a resumed run, counts once: the later one.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.manifest = read_manifest(self.path)
        self.problems: list[str] = []

    @cached_property
    def _index(self) -> dict[Key, tuple[Path, int, dict[str, Any]]]:
        found: dict[Key, tuple[Path, int, dict[str, Any]]] = {}
        indices = []
        if not (self.path / "shards").is_dir():
            self._report(f"{self.path / 'shards'} is missing, and the records with it; restore it, or record again")
        for path in _shards(self.path):
            try:
                header, entries = shard.read_index(path)
            except shard.DamagedShard as damage:
                self._report(str(damage))
            else:
                indices.append((header["run"], path, entries))
        for _, path, entries in sorted(indices, key=lambda index: index[0]):
            for row, entry in enumerate(entries):
                found[Key(*(entry[f] for f in Key._fields))] = (path, row, entry)
        return found

    def _report(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)
            warnings.warn(problem, stacklevel=3)

    def __len__(self) -> int:
        return len(self._index)

    def entries(self, *, verified: bool = False) -> dict[Key, dict[str, Any]]:
        """Every record's index entry, without any signal; `verified`: only where the data agree with their checksum."""
        bad = dict(self._damage()) if verified else {}
        for problem in bad.values():
            self._report(problem)
        return {key: entry for key, (path, _, entry) in self._index.items() if path not in bad}

    def records(self, signals: Sequence[str] = (), keys: Iterable[Key] | None = None) -> Iterator[Record]:
        """Records one shard at a time, with the signals asked for (none by default), for all keys or the given ones."""
        wanted = self._index if keys is None else {k: self._index[k] for k in keys if k in self._index}
        by_shard: dict[Path, list[tuple[int, dict[str, Any]]]] = {}
        for path, row, entry in wanted.values():
            by_shard.setdefault(path, []).append((row, entry))
        for path, rows in by_shard.items():
            try:
                values = shard.read(path, [row for row, _ in rows], signals) if signals else [{} for _ in rows]
            except shard.DamagedShard as damage:
                self._report(str(damage))
                continue
            for (_, entry), found in zip(rows, values):
                yield Record.from_entry(entry, found)

    def scores(
        self,
        metrics: str | Iterable[str] = "standard",
        *,
        labels: str | Path | Mapping[str, Any] | None = None,
        span: str = "answer",
        norm: str = "none",
        filter: str | None = None,
    ) -> pd.DataFrame:
        """One row a document (a sample of it, with `repeats`), one column a metric, and the labels that are found.

        Args:
            metrics: names, ids or presets.
            labels: lm-eval's output folder or result file, what `simple_evaluate` returned, or a jsonl or csv file; by
                default the result files that the manifest points at, and no labels when there is none.
            span: ``answer`` (the scored text), ``generation`` (with the stop string or end of sequence), ``thought``
                (with the end-of-thinking marker), ``exact`` (what the task's filter takes out of the answer) or
                ``reasoning`` (what stands before it).
            norm: how the model's own choice among options is taken, as lm-eval's acc (``none``), acc_norm (``chars``)
                or acc_bytes (``bytes``) does; token metrics of multiple choice describe that option.
            filter: lm-eval's filter that reads the answers, where samples are compared by them and for the spans
                ``exact`` and ``reasoning``; by default the first of each task.

        Returns:
            A frame with columns task, doc_id, sample, option, kind, ``unmapped`` (why a document has no span
            ``exact`` or ``reasoning``, where one of these is asked for), the metric ids, and one column
            ``label:METRIC@FILTER`` for each label. `frame.attrs["unscored"]` counts NaN scores by metric and reason.
        """
        from metrics.frame import score_frame

        return score_frame(self, metrics, labels=labels, span=span, norm=norm, filter=filter)

    def features(
        self,
        names: str | Iterable[str] = "all",
        *,
        labels: str | Path | Mapping[str, Any] | None = None,
        span: str = "answer",
        norm: str = "none",
        filter: str | None = None,
    ) -> FeatureArrays:
        """Vectors for a classifier: by feature id a float64 array ``[unit, feature]``, its rows those of `scores`.

        Args:
            names: names or ids, as ``eval-ext list features`` shows them, or ``all``.
            labels: as for `scores`, with which the rows agree when it and `norm` are the same.
            span: as for `scores`.
            norm: as for `scores`.
            filter: as for `scores`.

        Returns:
            A mapping; a unit that has no features is a row of NaN, and `unscored` counts why, by id and reason.
        """
        from metrics.frame import feature_arrays

        return feature_arrays(self, names, labels=labels, span=span, norm=norm, filter=filter)

    def spanned(
        self, span: str, *, labels: str | Path | Mapping[str, Any] | None = None, filter: str | None = None
    ) -> Store:
        """The same store, whose records have this span too where a task's filter gives it; arguments as of `scores`."""
        from metrics.frame import filter_spans

        found = filter_spans(self, span, labels=labels, filter=filter)
        if not found:
            return self
        made = Store(self.path)
        made._index = {
            key: (path, row, {**entry, "spans": {**entry["spans"], **found.get(key, {})}})
            for key, (path, row, entry) in self._index.items()
        }
        return made

    def link(self, results: Path, run_id: str) -> None:
        """Note in the manifest which lm-eval result file belongs to a run."""
        before = next((run.get("results", []) for run in self.manifest["runs"] if run["run_id"] == run_id), [])
        update_run(self.path, run_id, results=[*before, str(results)])
        self.manifest = read_manifest(self.path)

    def damaged(self) -> list[str]:
        """Compare every shard with its checksum; returns one line for each that differs or cannot be read."""
        return [problem for _, problem in self._damage()]

    def _damage(self) -> Iterator[tuple[Path, str]]:
        for path in _shards(self.path):
            try:
                if not shard.checksum(path):
                    yield path, f"{path.with_suffix('.safetensors')}: contents differ from their checksum"
            except shard.DamagedShard as damage:
                yield path, str(damage)


def _shards(path: Path) -> list[Path]:
    """The indices of a store's shards in the order in which they were written, rank by rank."""
    return sorted((path / "shards").glob("*.jsonl"), key=lambda p: (len(p.name), p.name))


def open_store(path: str | Path) -> Store:
    """Open a store for reading.

    Raises:
        FileNotFoundError: no manifest there.
        ValueError: not a store, or written by a newer version.
    """
    return Store(path)
