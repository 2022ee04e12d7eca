"""A folder that is either whole or not there."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def building(out: Path) -> Iterator[Path]:
    """A new folder to fill, which becomes `out` when the block ends and is removed when it fails.

    It lies beside `out` as ``.NAME.XXXXXXXX.partial``, on the same disk, so that one rename makes it whole; a process
    killed at any moment leaves no `out`, and that folder to delete.

    Raises:
        FileExistsError: `out` is there and not an empty folder.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists and is not an empty folder; give another --out, or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.absolute().with_name(f".{out.absolute().name}.{uuid.uuid4().hex[:8]}.partial")
    partial.mkdir()
    try:
        yield partial
        if out.is_dir():
            out.rmdir()
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
