"""One shard of a bank: a safetensors file of pooled rows, read through a memory map.

Tensors: ``digest`` (n, 16) bytes of the texts, and for every view ``pooling/norm`` an array (L + 1, n, d) of float32,
so that the rows of one layer lie together. The head holds the task and CRC-32 sums of the digests and of every layer.
A shard is written under a temporary name and renamed when it is whole; what a power cut leaves of it shows in its sums.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

SUFFIX = ".safetensors"
NAMES = f"{'[0-9]' * 20}-{'[0-9a-f]' * 8}{SUFFIX}"
"""The shards of a folder, as a glob: nanoseconds since 1970 when written, and eight random digits."""

DIGEST = 16
STALE = 24 * 3600
"""Seconds after which a half-written file is taken for a dead process's."""


class View(NamedTuple):
    """A way to pool: the pooling, and the norm before it."""

    pooling: str
    norm: str


Rows = NDArray[np.float32]
"""(L + 1, n, d)."""


@dataclass(eq=False)
class Shard:
    """Rows of n texts in one or more views.

    Attributes:
        path: where it lies; None for one that only this process can reach.
        size: bytes it takes.
        sums: CRC-32 of every layer by view, for one that was read from disk.
    """

    digests: Sequence[bytes]
    rows: Mapping[View, Rows]
    task: str
    path: Path | None = None
    size: int = 0
    sums: Mapping[View, Sequence[int]] = field(default_factory=dict)
    _sound: set[tuple[View, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.size = self.size or sum(r.nbytes for r in self.rows.values()) + DIGEST * len(self.digests)

    def damaged(self, view: View, layers: Sequence[int]) -> list[int]:
        """Those of the layers whose rows are not what was written; each is read for it once."""
        if view not in self.sums:
            return []
        new = {layer for layer in layers if (view, layer) not in self._sound}
        bad = [layer for layer in sorted(new) if zlib.crc32(self.rows[view][layer]) != self.sums[view][layer]]
        self._sound.update((view, layer) for layer in new.difference(bad))
        return bad


def write(folder: Path, shard: Shard) -> Shard:
    """Write a shard into `folder`; what comes back is read from there.

    Raises:
        OSError: the disk is full or the folder cannot be written; nothing is left there.
    """
    tensors: dict[str, NDArray[np.generic]] = {
        f"{view.pooling}/{view.norm}": np.ascontiguousarray(rows, np.float32) for view, rows in shard.rows.items()
    }
    sums = {name: [zlib.crc32(layer) for layer in rows] for name, rows in tensors.items()}
    tensors["digest"] = np.frombuffer(b"".join(shard.digests), np.uint8).reshape(-1, DIGEST)
    sums["digest"] = [zlib.crc32(tensors["digest"].data)]
    path = folder / f"{time.time_ns():020d}-{secrets.token_hex(4)}{SUFFIX}"
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(_head(tensors, {"task": shard.task, "sums": json.dumps(sums)}))
            for array in tensors.values():
                file.write(array.data)
        written = read(temporary)  # mapped before others can see it, and evict it
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    written.path = path
    return written


def read(path: Path) -> Shard:
    """Map a shard into memory; nothing but its head and the digests is read, and no file stays open.

    Raises:
        ValueError: not a whole shard.
        OSError: it cannot be opened, or another process has evicted it.
    """
    size = path.stat().st_size
    try:
        with safe_open(path, framework="pt") as file:  # the one that maps; numpy's copies
            head = file.metadata() or {}
            arrays = {name: file.get_tensor(name).numpy() for name in file.keys()}  # noqa: SIM118
        if not {"task", "sums"} <= head.keys() or "digest" not in arrays:
            raise ValueError("it is not one of ours")
        held = arrays.pop("digest").tobytes()
        digests = [held[i : i + DIGEST] for i in range(0, len(held), DIGEST)]
        sums = json.loads(head["sums"])
        if [zlib.crc32(held)] != sums.pop("digest"):
            raise ValueError("its digests are damaged")
        rows = {View(*name.split("/")): array for name, array in arrays.items()}
        for array in rows.values():
            array.flags.writeable = False
        by_view = {View(*name.split("/")): tuple(layers) for name, layers in sums.items()}
        if {v: (len(s), len(digests)) for v, s in by_view.items()} != {v: a.shape[:2] for v, a in rows.items()}:
            raise ValueError("its rows are not those its head tells of")
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise ValueError(f"{path} is not a whole shard of a bank ({problem})") from None
    except RuntimeError:  # torch's word for a file that went while it was opened
        raise FileNotFoundError(f"{path} has been evicted") from None
    return Shard(digests, rows, head["task"], path, size, by_view)


def paths(folder: Path) -> list[Path]:
    """The shards in a folder, oldest first; leftovers of dead processes are removed."""
    for stale in folder.glob(f".*{SUFFIX}.tmp"):
        with contextlib.suppress(OSError):  # its writer has just renamed it, or the folder may only be read
            if time.time() - stale.stat().st_mtime > STALE:
                stale.unlink()
    return sorted(folder.glob(f"[!.]*{SUFFIX}"))


def _head(tensors: Mapping[str, NDArray[np.generic]], metadata: Mapping[str, str]) -> bytes:
    """The head of a safetensors file; its own writer copies the tensors three times."""
    head: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for name, array in tensors.items():
        start, end = end, end + array.nbytes
        kind = "U8" if array.dtype == np.uint8 else "F32"
        head[name] = {"dtype": kind, "shape": array.shape, "data_offsets": (start, end)}
    encoded = json.dumps(head).encode()
    encoded += b" " * (-len(encoded) % 8)
    return len(encoded).to_bytes(8, "little") + encoded
