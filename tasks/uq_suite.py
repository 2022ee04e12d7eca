"""The suite `uq_suite` of lm-eval tasks, and its variants on files of one's own, for machines without a hub."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tasks import yaml_folder

__all__ = ["local", "published", "suite"]

Row = dict[str, Any]


def suite() -> dict[str, Path]:
    """Each task of the suite with its YAML file, by name; groups are not tasks."""
    files = sorted((yaml_folder() / "uq_suite").glob("uq_*.yaml"))
    return {file.stem: file for file in files if re.search("^task: uq_", file.read_text(encoding="utf-8"), re.M)}


def local(data: Path, out: Path) -> list[str]:
    """Write variants of the suite's tasks that read files below `data`; returns their names, ``TASK_local``.

    A task is written where `data` holds ``TASK.jsonl``, rows with the columns of its hub data set, or the published
    file of the set (`published`); the former goes first. `out` gets a YAML file a task, which includes the shipped
    one, the rows beside it, and the group ``uq_suite_local``; pass it as ``--include_path``. Prompts, extraction and
    scores are the suite's own. Variants of an earlier call are replaced.

    Raises:
        FileNotFoundError: `data` holds no set of the suite.
        ValueError: a file is not what its name says.
    """
    found: dict[str, list[Row]] = {}
    for task in suite():
        rows = data / f"{task}.jsonl"
        if rows.is_file():
            found[task] = list(_read(rows, _json_lines))
        elif task in published() and (data / published()[task][0]).is_file():
            found[task] = list(_read(data / published()[task][0], published()[task][1]))
    if not found:
        known = ", ".join([f"{task}.jsonl" for task in suite()] + [file for file, _ in published().values()])
        raise FileNotFoundError(f"{data} holds no file of the suite; put one of these there: {known}")
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("uq_*_local.*"):
        old.unlink()
    for task, rows in found.items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (out / f"{task}_local.jsonl").write_text(lines, encoding="utf-8")
        (out / f"{task}_local.yaml").write_text(_variant(task, out), encoding="utf-8")
    names = [f"{task}_local" for task in found]
    (out / "uq_suite_local.yaml").write_text(_group(names), encoding="utf-8")
    return names


def published() -> dict[str, tuple[str, Callable[[Path], Iterable[Row]]]]:
    """Tasks whose set is published as a file: its place below a folder of data, and what reads it as the hub's rows."""
    return {
        "uq_gsm8k": ("gsm8k/test.jsonl", _json_lines),
        "uq_piqa": ("piqa/valid.jsonl", _piqa),
        "uq_strategyqa": ("strategyqa/dev.json", _strategyqa),
        "uq_bbh_object_counting": ("bbh/object_counting.json", _bbh),
        "uq_bbh_date_understanding": ("bbh/date_understanding.json", _bbh),
    }


def _variant(task: str, out: Path) -> str:
    shipped = suite()[task]
    split = _split(shipped)
    settings = {
        "include": str(shipped),
        "task": f"{task}_local",
        "tag": [],  # a tag of the suite means its own tasks
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {split: str((out / f"{task}_local.jsonl").resolve())}},
    }
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in settings.items())


def _split(file: Path) -> str:
    """The split that a task evaluates, from its file or the one that it includes."""
    text = file.read_text(encoding="utf-8")
    found = re.search(r"^(?:test|validation)_split: (\w+)$", text, re.M)
    if found is not None:
        return found[1]
    included = re.search(r"^include: (\S+)$", text, re.M)
    if included is None:
        raise ValueError(f"{file} names no test_split or validation_split; name one")
    return _split(file.parent / included[1])


def _group(names: list[str]) -> str:
    """The suite's own group, with these tasks."""
    text = (yaml_folder() / "uq_suite" / "uq_suite.yaml").read_text(encoding="utf-8")
    text = "group: uq_suite_local\n" + text.partition("group: uq_suite\n")[2]
    return re.sub(r"(?<=^task:\n)(?:  - \w+\n)+", "".join(f"  - {name}\n" for name in names), text, flags=re.M)


def _read(file: Path, reader: Callable[[Path], Iterable[Row]]) -> Iterator[Row]:
    try:
        yield from reader(file)
    except (KeyError, TypeError, ValueError) as problem:
        raise ValueError(f"{file} is not in the form of its data set ({problem!r}); download it again") from None


def _json_lines(file: Path) -> Iterator[Row]:
    for line in file.read_text(encoding="utf-8").split("\n"):  # not splitlines: JSON text may hold other line ends
        if line.strip():
            yield json.loads(line)


def _piqa(file: Path) -> Iterator[Row]:
    labels = file.with_name("valid-labels.lst").read_text(encoding="ascii").split()
    rows = list(_json_lines(file))
    if len(labels) != len(rows):
        raise ValueError(f"{len(rows)} questions, but {len(labels)} labels in valid-labels.lst")
    for row, label in zip(rows, labels):
        yield {**row, "label": int(label)}


def _strategyqa(file: Path) -> Iterator[Row]:
    for row in json.loads(file.read_text(encoding="utf-8")):
        right = bool(row["answer"])
        yield {
            "inputs": f"Q: {row['question']}\nA:",
            "targets": ["Yes" if right else "No"],
            "multiple_choice_targets": ["Yes", "No"],
            "multiple_choice_scores": [int(right), int(not right)],
        }


def _bbh(file: Path) -> Iterator[Row]:
    for row in json.loads(file.read_text(encoding="utf-8"))["examples"]:
        yield {"input": row["input"], "target": row["target"]}
