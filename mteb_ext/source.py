"""A checkpoint as a source of rows: from the bank where they are held, from a forward pass where they are not."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from mteb_ext.bank import Bank, BankError, Reduce, make_folder
from mteb_ext.checkpoint import Checkpoint
from mteb_ext.digest import short, text_digests
from mteb_ext.forward import Runner, embed, load
from mteb_ext.shards import View

LIMITS = {"EVAL_EXT_BANK_MEMORY": 2 << 30, "EVAL_EXT_BANK_DISK": 20 << 30}
"""Environment variables that hold a bank's limits in bytes, and what they are without."""


class Unusable(ValueError):
    """A checkpoint whose weights cannot be loaded or whose layers cannot be told apart."""


class NotHeld(LookupError):
    """A text without rows, in a process that only reads the bank."""


@dataclass
class Counters:
    """What serving texts has cost.

    Attributes:
        asked: texts asked for, with repetitions.
        passes: texts that went through the model, each once.
        again: texts that went through it again, because their rows had been evicted or damaged, or lacked a pooling.
        seconds: time spent in forward passes, tokenising and storing included.
        loads: how often weights were loaded.
    """

    asked: int = 0
    passes: int = 0
    again: int = 0
    seconds: float = 0.0
    loads: int = 0

    def plus(self, other: Counters) -> Counters:
        """Both together."""
        return Counters(**{k: v + getattr(other, k) for k, v in asdict(self).items()})


@dataclass(frozen=True)
class Request:
    """What decides the rows of a text, but for the pooling, the norm and the prompt."""

    checkpoint: Checkpoint
    dtype: str
    max_length: int

    def __hash__(self) -> int:
        return hash(tuple(self.key().values()))  # a checkpoint's prompts are a dictionary

    def key(self) -> dict[str, Any]:
        """The identity under which rows are kept, in JSON scalars.

        The device and the batch size are not part of it; in half precision rows differ by them (docs/layers.md).
        """
        held = self.checkpoint
        return {
            "rows": 1,  # raised when rows of the same request are computed otherwise
            "model": held.name,
            "revision": held.revision,
            "config": held.digest,
            "dtype": self.dtype,
            "max_length": self.max_length,
            "trust_remote_code": held.trust_remote_code,
            "transformers": transformers.__version__,
            "torch": str(torch.__version__),
        }


@dataclass(eq=False)
class Source:
    """Rows of texts of one checkpoint. The weights are loaded when a text is not in the bank.

    Attributes:
        devices: where the model runs; none for a process that only reads the bank.
    """

    request: Request
    bank: Bank
    devices: tuple[str, ...]
    views: dict[View, None] = field(default_factory=dict)
    counters: Counters = field(default_factory=Counters)
    _runner: Runner | None = None
    _passed: set[bytes] = field(default_factory=set)

    def rows(
        self,
        texts: Sequence[str],
        view: View,
        layers: Sequence[int],
        reduce: Reduce,
        *,
        prompt: str = "",
        task: str = "",
        batch_size: int = 32,
        progress: bool = True,
    ) -> NDArray[np.float32]:
        """`reduce` of the texts' rows, in their order. A forward pass serves all views this source was asked for.

        Raises:
            ValueError: the weights cannot be loaded or do not show their layers, or a layer is not finite.
            BankError: the bank cannot be written.
            NotHeld: a text is not in the bank, and this source only reads it.
        """
        self.views.setdefault(view)
        self.counters.asked += len(texts)
        digests = text_digests(texts, prompt)
        place = {digest: i for i, digest in enumerate(dict.fromkeys(digests))}
        distinct, text_of = list(place), dict(zip(reversed(digests), reversed(texts)))
        wanted = [distinct[i] for i in self.bank.missing(view, layers, distinct)]
        absent = set(wanted)
        out: NDArray[np.float32] | None = None

        def put(names: Sequence[bytes], embeddings: NDArray[np.float32]) -> None:
            nonlocal out
            if out is None:
                out = np.empty((len(distinct), embeddings.shape[1]), np.float32)
            out[[place[name] for name in names]] = embeddings

        if held := [digest for digest in distinct if digest not in absent]:
            put(held, self.bank.read(view, layers, held, reduce))
        if wanted:
            new = [text_of[digest] for digest in wanted]
            views = [v for v in self.views if v == view or self.bank.missing(v, (), wanted)]
            started = time.perf_counter()
            try:
                for positions, rows in embed(
                    self.runner(), new, views, prompt=prompt, batch_size=batch_size, progress=progress
                ):
                    names = [wanted[p] for p in positions]
                    self._count(names)
                    put(names, reduce(rows[view][list(layers)]))
                    self.bank.add(names, rows, task)
            finally:
                self.counters.seconds += time.perf_counter() - started
        if out is None:
            return np.empty((0, 0), np.float32)
        return out if len(distinct) == len(digests) else out[[place[digest] for digest in digests]]

    def runner(self) -> Runner:
        """The loaded model.

        Raises:
            NotHeld: this source has no device to load it on.
        """
        if self._runner is None:
            if not self.devices:
                raise NotHeld(f"texts of {self.request.checkpoint.name} are not in the bank, and only it may be read")
            self.counters.loads += 1
            try:
                self._runner = load(self.request.checkpoint, self.request.dtype, self.request.max_length, self.devices)
            except ValueError as problem:
                raise Unusable(str(problem)) from None
        return self._runner

    def _count(self, digests: Sequence[bytes]) -> None:
        again = sum(d in self._passed or d in self.bank.evicted for d in digests)
        self._passed.update(digests)
        self.counters.again += again
        self.counters.passes += len(digests) - again


def bank_folder(root: Path, request: Request) -> Path:
    """Where under `root` the rows of a request lie; made, with a file that says whose they are.

    Raises:
        BankError: it cannot be made.
    """
    key = request.key()
    safe = "".join(c if c.isalnum() or c in "._-" else "_" for c in request.checkpoint.name)
    folder = root / f"{safe[:80]}-{short(key)}"
    make_folder(folder)
    described = folder / "key.json"
    if not described.exists():
        temporary = folder / f".key.{os.getpid()}.tmp"
        try:
            temporary.write_text(json.dumps(key, indent=2) + "\n", encoding="utf-8")
            temporary.replace(described)
        except OSError as problem:
            raise BankError(
                f"the bank {folder} cannot be written: {problem.strerror}; give it another folder"
            ) from None
    return folder


@lru_cache(maxsize=1)
def shared_source(request: Request, devices: tuple[str, ...], root: Path | None) -> Source:
    """The source of a request in this process; the last one used stays loaded, so that layers share its passes."""
    memory, disk = (_bytes(name, default) for name, default in LIMITS.items())
    folder = bank_folder(root, request) if root is not None else None
    return Source(request, Bank(folder, memory=memory, disk=disk, root=root), devices)


def default_root() -> Path | None:
    """The folder of banks that the environment variable `EVAL_EXT_BANK` names; None keeps rows in memory."""
    named = os.environ.get("EVAL_EXT_BANK")
    return Path(named).expanduser() if named else None


def devices_of(device: str | int | Sequence[str] | None) -> tuple[str, ...]:
    """Devices as torch names them: all GPUs when none or ``cuda`` is named, else the CPU or what is named.

    Raises:
        ValueError: a GPU is named where there is none.
    """
    if device is None and not torch.cuda.is_available():
        return ("mps",) if torch.backends.mps.is_available() else ("cpu",)
    if device is None or device == "cuda":
        named = tuple(f"cuda:{i}" for i in range(torch.cuda.device_count()))
    elif isinstance(device, int):
        named = (f"cuda:{device}",)
    else:
        named = tuple(device.split(",")) if isinstance(device, str) else tuple(device)
    if not torch.cuda.is_available() and (not named or any(one.startswith("cuda") for one in named)):
        raise ValueError(f"device {device!r}: this machine has no CUDA GPU; leave the device out, or take cpu")
    return named


def _bytes(name: str, default: int) -> int:
    text = os.environ.get(name)
    if text is None:
        return default
    if not text.isdecimal():
        raise ValueError(f"environment variable {name}={text} is not a number of bytes, such as {default}")
    return int(text)
