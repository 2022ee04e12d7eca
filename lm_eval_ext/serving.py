"""Who answers a request: the store that holds its answer already, or the model."""

# pyright: reportAttributeAccessIssue=false
# (lm-eval's class decorator hides the type of HFLM)
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lm_eval_ext.ranks import shared
from lm_eval_ext.recorder import say
from lm_eval_ext.requests import Identity, identify

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

    from lm_eval_ext.model import HFStoreLM

Ask = Callable[[list["Instance"], list[Identity | None]], list[Any]]
"""Has the model answer requests; those without an identity are not recorded."""


def answered(lm: HFStoreLM, kind: str, requests: Sequence[Instance], ask: Ask) -> list[Any]:
    """Answers from the store where it has them, and from the model for the rest.

    Of several processes each asks as often as the one with the most to ask, as the harness itself has it, since the
    model's code may wait for all of them; what is asked beyond is not recorded.
    """
    identities = identify(requests, kind)
    served = [lm.recorder.answer(identity) for identity in identities]
    todo = [i for i, answer in enumerate(served) if answer is None]
    counts = shared((len(requests) - len(todo), len(requests), len(todo)), lm.world_size)
    known, of = (sum(column) for column in list(zip(*counts))[:2])
    if known and lm.rank == 0:
        say(f"{known} of {of} requests are served from the store")
    idle = max(most for _, _, most in counts) - len(todo) if requests else 0
    if todo or idle:
        asked = [requests[i] for i in todo] + [requests[-1]] * idle
        found = ask(asked, [identities[i] for i in todo] + [None] * idle)
        for i, answer in zip(todo, found):
            served[i] = answer
    return served
