"""The store of a model that is about to be evaluated, opened by the first process and joined by the others."""

# pyright: reportAttributeAccessIssue=false
# (lm-eval's class decorator hides the type of HFLM)
from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lm_eval_ext.arguments import Options
from lm_eval_ext.environment import manifest
from lm_eval_ext.ranks import from_first, shared
from lm_eval_ext.recorder import Recorder
from metrics.manifest import is_store
from metrics.writer import Writer

if TYPE_CHECKING:
    from lm_eval_ext.model import HFStoreLM


def refuse_existing(options: Options) -> None:
    """Refuse a store that exists, where a new one is asked for; said before the model is loaded.

    Raises:
        FileExistsError: it exists.
    """
    if is_store(options.store) and options.store_mode == "new":
        raise FileExistsError(
            f"store {options.store} exists; give another store=DIR, or store_mode=resume to go on with it, "
            "or store_mode=overwrite to replace it"
        )


def open_together(lm: HFStoreLM, options: Options, host: Mapping[str, Any]) -> Recorder:
    """Open the store in every process of the run; or all fail with the same error.

    Args:
        lm: the model, loaded and placed among the processes.
        options: what is recorded and where; the same store in every process.
        host: the arguments that hf-store handed on to the harness's model.

    Raises:
        ValueError: the store was recorded with something else.
        OSError: it exists, is being written, or cannot be made.
    """
    facts = manifest(lm, options, lm.layers, host)
    facts["run_id"] = from_first(facts["run_id"], lm.world_size)
    recorder = None
    for mode in (options.store_mode, "join"):
        problem = None
        if (lm.rank == 0) is (mode != "join"):
            try:
                recorder = _open(lm, options, facts, mode)
            except (ValueError, OSError) as found:
                problem = found
        for other in filter(None, shared(problem, lm.world_size)):
            raise other
    assert recorder is not None
    return recorder


def _open(lm: HFStoreLM, options: Options, facts: Mapping[str, Any], mode: str) -> Recorder:
    most = None if options.max_store_gb is None else options.max_store_gb * 1e9
    try:
        writer = Writer(options.store, facts, mode=mode, rank=lm.rank, ranks=lm.world_size, max_bytes=most)
    except (FileExistsError, BlockingIOError):
        raise
    except OSError as problem:
        raise OSError(
            f"cannot make the store {options.store}: {problem.strerror}; give another folder as store=DIR"
        ) from None
    return Recorder(writer, options.plan, store_text=options.store_text, resume=options.store_mode == "resume")
