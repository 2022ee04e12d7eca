"""Lack of memory: how it is recognised, and how work goes on in smaller parts."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

FAULTS = (RuntimeError, ValueError, TypeError, LookupError, OSError, MemoryError)
"""What can go wrong in looking at tensors, an accelerator's lack of memory included."""

SIGNS = ("out of memory", "can't allocate memory", "CUDNN_STATUS_NOT_SUPPORTED", "CUBLAS_STATUS_ALLOC_FAILED")
"""What backends say when memory runs out and they raise a plain RuntimeError."""


def out_of_memory(problem: BaseException) -> bool:
    """Whether an error is lack of memory, on an accelerator or not."""
    if isinstance(problem, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(problem, RuntimeError) and any(sign in str(problem) for sign in SIGNS)


def in_parts(
    work: Callable[[Sequence[T]], R], items: Sequence[T], most: int, halved: Callable[[int], None] | None = None
) -> list[R]:
    """Do `work` on at most `most` items at a time, on half as many after each lack of memory.

    Args:
        work: called with consecutive items; their order is kept.
        items: what is to be done.
        most: how many at first, at least 1.
        halved: called with the new number when memory ran out.

    Raises:
        RuntimeError: a single item does not fit (the error itself, OutOfMemoryError in general).
    """
    done: list[R] = []
    start = 0
    while start < len(items):
        part = items[start : start + most]
        try:
            done.append(work(part))
            start += len(part)
            continue
        except (RuntimeError, MemoryError) as problem:
            if not out_of_memory(problem) or len(part) == 1:
                raise
        most = (len(part) + 1) // 2  # behind the handler, where the failed tensors are let go
        release()
        if halved is not None:
            halved(most)
    return done


def release() -> None:
    """Give freed memory back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
