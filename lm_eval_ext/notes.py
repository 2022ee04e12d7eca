"""What a run notes of itself in the manifest as it goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval_ext.recorder import Recorder


class Notes:
    """How answers were generated and in which batches; of several processes the first notes it.

    Args:
        recorder: the open store.
        rank: which of the processes this is.
    """

    def __init__(self, recorder: Recorder, rank: int) -> None:
        self._recorder, self._rank = recorder, rank
        self._generations: list[Mapping[str, Any]] = []
        self._sizes: list[int] = []

    def generations(self, asked: Sequence[Mapping[str, Any]], *, together: bool) -> None:
        """More settings of `lm_eval_ext.repeats.generations`, and whether repeats are generated together."""
        self._generations += [entry for entry in asked if entry not in self._generations]
        self._note(generation=self._generations, **({"repeats_together": True} if together else {}))

    def batch_size(self, found: int) -> None:
        """A batch size that the harness has found by trying."""
        self._sizes = [*self._sizes, found]
        self._note(batch_sizes=self._sizes)

    def _note(self, **facts: Any) -> None:
        if self._rank == 0:
            self._recorder.note(**facts)
