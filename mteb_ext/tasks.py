"""From what a user writes to MTEB tasks. Importing this module imports MTEB."""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import mteb
from mteb.abstasks import AbsTask, AbsTaskClassification
from mteb.get_tasks import TASK_LIST

from mteb_ext.shipped_tasks import SHIPPED_TASKS
from mteb_ext.task_size import TaskSize, describe
from tasks.presets import PRESETS, PresetTask

__all__ = ["TaskSize", "describe", "resolve"]

BENCHMARK = "benchmark:"
_BRACKETS = re.compile(r"(?P<name>.*?)\s*\[(?P<subsets>[^\[\]]*)\]")
_PINS: dict[str, PresetTask] = {task.name: task for preset in PRESETS.values() for task in preset}


def resolve(texts: Sequence[str], preset: str | None = None) -> list[AbsTask]:
    """The tasks that a preset and `texts` name, in that order, each once.

    A text is one of

    - a task of MTEB or of this package: ``STS12``, ``WordCategoryClustering``;
    - a task and the subsets wanted of it: ``STS17[en-en]``, ``STS17[en-en+es-es]``, ``STS17[*]`` for all;
    - ``benchmark:MTEB(eng, v2)``: the tasks of a benchmark, with the benchmark's own splits and subsets;
    - a class of your own: ``path/to/file.py:ClassName`` or ``package.module:ClassName``.

    Without brackets, a task of a preset has the subset the preset has it with, and any other all of its subsets. Of a
    task that offers several splits, ``test`` is scored where there is one, and otherwise all that it offers.

    Raises:
        ValueError: nothing is named; a name, subset, preset, file or class does not exist; a task reads more than
            text; a task is named twice with different subsets or splits.
    """
    named = [_pinned(task) for task in _preset(preset)] + [task for text in texts for task in _tasks(text.strip())]
    if not named:
        raise ValueError(f"no tasks are named; give some, or a preset: {', '.join(PRESETS)}")
    held: dict[str, AbsTask] = {}
    for task in named:
        _refuse_other_modalities(task)
        name = task.metadata.name
        if name in held and _scope(task) != _scope(held[name]):
            raise ValueError(
                f"task '{name}' is named twice, as {_wording(held[name])} and as {_wording(task)}; name it once, "
                f"such as {name}[SUBSET+SUBSET]"
            )
        held.setdefault(name, _read_labels_once(task))
    return list(held.values())


def _read_labels_once(task: AbsTask) -> AbsTask:
    """Spare a classification task most of its time: same scores, but labels are taken from the data set once.

    MTEB hands scikit-learn a lazy column, which its thirteen metrics read again row by row, about 40 times in all.
    """
    theirs = AbsTaskClassification._calculate_scores
    if isinstance(task, AbsTaskClassification) and type(task)._calculate_scores is theirs:
        vars(task)["_calculate_scores"] = functools.partial(_scores, task)
    return task


def _scores(task: AbsTaskClassification, y_test: Iterable[Any], y_pred: Any) -> Any:
    return AbsTaskClassification._calculate_scores(task, list(y_test), y_pred)


def _preset(name: str | None) -> Sequence[PresetTask]:
    if name is not None and name not in PRESETS:
        raise ValueError(f"there is no preset '{name}'{_near(name, PRESETS)}; known: {', '.join(PRESETS)}")
    return PRESETS[name] if name else ()


def _tasks(text: str) -> list[AbsTask]:
    if text.startswith(BENCHMARK):
        return _benchmark(text.removeprefix(BENCHMARK).strip())
    found = _BRACKETS.fullmatch(text)
    name = found["name"] if found else text
    task = _custom(name) if ":" in name or name.endswith(".py") else _named(name)
    if found:
        wanted = [subset.strip() for subset in found["subsets"].split("+")]
        return [_test_only(_narrow(task, task.metadata.hf_subsets if wanted == ["*"] else wanted))]
    pin = _PINS.get(name)
    return [_pin(task, pin) if pin else _test_only(task)]


def _named(name: str) -> AbsTask:
    """A task of MTEB's or of this package, as it comes."""
    if name in SHIPPED_TASKS:
        return SHIPPED_TASKS[name]()
    try:
        return mteb.get_task(name)
    except KeyError:
        pass
    if name in PRESETS:
        raise ValueError(f"'{name}' is a preset, not a task; give it as the preset")
    if name in {benchmark.name for benchmark in mteb.get_benchmarks()}:
        raise ValueError(f"'{name}' is a benchmark, not a task; write '{BENCHMARK}{name}'")
    names = [task.metadata.name for task in TASK_LIST] + list(SHIPPED_TASKS)
    raise ValueError(
        f"MTEB {mteb.__version__} has no task '{name}'{_near(name, names)}; a task of your own is path/to/file.py:CLASS"
    )


def _benchmark(name: str) -> list[AbsTask]:
    try:
        tasks = mteb.get_benchmark(name).tasks
    except KeyError:
        names = [benchmark.name for benchmark in mteb.get_benchmarks()]
        raise ValueError(f"MTEB {mteb.__version__} has no benchmark '{name}'{_near(name, names)}") from None
    fresh = []
    for task in tasks:  # MTEB hands out the same objects to everyone
        copy = type(task)().filter_eval_splits(list(task.eval_splits))
        copy.hf_subsets = list(task.hf_subsets)
        fresh.append(copy)
    return fresh


def _custom(text: str) -> AbsTask:
    """A task of the class that `file.py:Class` or `module:Class` names. Runs the file."""
    where, _, name = text.rpartition(":")
    if not where or not name.isidentifier():
        raise ValueError(f"task '{text}' names no class; write path/to/file.py:CLASS or package.module:CLASS")
    path = Path(where).expanduser()
    is_file = where.endswith(".py")
    if is_file and not path.is_file():
        raise ValueError(f"task '{text}': there is no file {path.absolute()}")
    try:
        module = _module_of(path) if is_file else importlib.import_module(where)
    except Exception as problem:  # a stranger's file may raise anything
        raise ValueError(f"task '{text}': {where} cannot be imported: {_short(problem)}") from problem
    made = getattr(module, name, None)
    if not (isinstance(made, type) and issubclass(made, AbsTask)):
        classes = [k for k, v in vars(module).items() if isinstance(v, type) and issubclass(v, AbsTask)]
        raise ValueError(f"task '{text}': {where} has no task class '{name}'{_near(name, classes)}")
    try:
        return made()
    except Exception as problem:
        raise ValueError(f"task '{text}': {name}() fails: {_short(problem)}") from problem


def _module_of(path: Path) -> ModuleType:
    """The module of a file, run once in this process."""
    name = f"eval_ext_task_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _pinned(pin: PresetTask) -> AbsTask:
    return _pin(_named(pin.name), pin)


def _pin(task: AbsTask, pin: PresetTask) -> AbsTask:
    return _narrow(task, pin.subsets).filter_eval_splits([pin.split])


def _narrow(task: AbsTask, subsets: Sequence[str]) -> AbsTask:
    known = task.metadata.hf_subsets
    for subset in subsets:
        if subset not in known:
            shown = ", ".join(known[:12]) + (f" and {len(known) - 12} more" if len(known) > 12 else "")
            raise ValueError(
                f"task '{task.metadata.name}' has no subset '{subset}'{_near(subset, known)}; it has {shown}"
            )
    task.hf_subsets = [subset for subset in known if subset in subsets]
    return task


def _test_only(task: AbsTask) -> AbsTask:
    splits = list(task.eval_splits)
    return task.filter_eval_splits(["test"]) if len(splits) > 1 and "test" in splits else task


def _refuse_other_modalities(task: AbsTask) -> None:
    others = [modality for modality in task.modalities if modality != "text"]
    if others:
        raise ValueError(f"task '{task.metadata.name}' reads {' and '.join(others)}, but layers are of text models")


def _scope(task: AbsTask) -> tuple[type[AbsTask], tuple[str, ...], tuple[str, ...]]:
    return type(task), tuple(task.eval_splits), tuple(task.hf_subsets)


def _wording(task: AbsTask) -> str:
    class_, splits, subsets = _scope(task)
    return f"{class_.__name__}[{'+'.join(subsets)}] on {'+'.join(splits)} (of {class_.__module__})"


def _near(name: str, names: Iterable[str]) -> str:
    """`; did you mean ...?` for the nearest name, or nothing."""
    spelled = {known.lower(): known for known in names}
    near = difflib.get_close_matches(name.lower(), spelled, n=1)
    return f"; did you mean '{spelled[near[0]]}'?" if near else ""


def _short(problem: Exception) -> str:
    return f"{type(problem).__name__}: {' '.join(str(problem).split())}"
