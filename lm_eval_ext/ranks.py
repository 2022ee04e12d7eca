"""Several processes of one evaluation, as `accelerate launch` starts them: who is who, and what they agree on.

The first process owns the store's manifest; the others learn from it where the store is, or why there is none.
"""

# pyright: reportAttributeAccessIssue=false
# (lm-eval's class decorator hides the type of HFLM)
from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed

if TYPE_CHECKING:
    from lm_eval_ext.model import HFStoreLM

T = TypeVar("T")


def first_here() -> bool:
    """Whether this is the only process of its launch, or the first on this machine; known before any model is."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0


def settle(lm: HFStoreLM) -> None:
    """Give the model its place among the processes where the harness did not.

    lm-eval shares out the work of several processes only where it sees several accelerators; elsewhere (on CPUs, or
    with one accelerator) each would evaluate everything.

    Raises:
        ValueError: the processes run on several machines, where lm-eval numbers them from 0 on each.
    """
    accelerator = getattr(lm, "accelerator", None)
    if accelerator is None or accelerator.num_processes == 1 or not isinstance(lm.pretrained, str):
        return
    places = shared([(accelerator.process_index, accelerator.local_process_index)], accelerator.num_processes)
    if any(place != local for part in places for place, local in part):
        raise ValueError(
            f"{accelerator.num_processes} processes on several machines: lm-eval numbers those of each machine from 0, "
            "so they would evaluate the same documents; give each machine its own tasks and its own store"
        )
    lm._rank, lm._world_size = accelerator.local_process_index, accelerator.num_processes


def shared(mine: T, ranks: int) -> list[T]:
    """What each process has, in order of rank; every process has to call it."""
    if ranks == 1:
        return [mine]
    found: list[Any] = [None] * ranks
    torch.distributed.all_gather_object(found, mine)
    return found


def from_first(value: T, ranks: int) -> T:
    """The first process's value, in all; every process has to call it."""
    return shared(value, ranks)[0]
