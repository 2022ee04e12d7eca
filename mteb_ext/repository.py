"""Files of a model's repository: a folder, or the hub at one commit."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import RemoteEntryNotFoundError
from transformers.utils.hub import cached_file, extract_commit_hash

MODULES = "modules.json"
"""What makes a repository one of sentence-transformers."""

WHOLE = ".gitattributes"
"""A file of every repository that nobody reads: where it is in the cache, the repository was downloaded as a whole."""


def commit_of(source: str, revision: str | None) -> str | None:
    """The commit that a revision of the hub is now, or was when it was last seen; None if it cannot be found."""
    for name in ("config.json", "modules.json"):  # a transformer in a subfolder has its config.json there
        try:
            path = cached_file(
                source,
                name,
                revision=revision,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
                _raise_exceptions_for_gated_repo=False,
            )
        except OSError:  # no such repository or revision: reading its configuration will say so
            return None
        if commit := extract_commit_hash(path, None):
            return commit
    return None


def reader(source: str, commit: str | None) -> Callable[[str], Any]:
    """A function that reads a JSON file of a folder, or of the hub at a commit; None for one that is not there.

    The function raises ValueError for a file that is no JSON, and where the hub cannot be reached and the cache does
    not say whether there is such a file; for `modules.json` that is a warning, for most models have none.
    """

    def read(name: str) -> Any:
        path = Path(source) / name if commit is None else _from_hub(source, name, commit)
        if path is None or not path.is_file():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as problem:
            raise ValueError(f"model {source}: {name} is not JSON: {problem}") from None

    return read


def _from_hub(source: str, name: str, commit: str) -> Path | None:
    known = try_to_load_from_cache(source, name, revision=commit)
    if known is not None:  # a path, or an object that stands for a file known to be absent
        return Path(known) if isinstance(known, str) else None
    if isinstance(try_to_load_from_cache(source, WHOLE, revision=commit), str):
        return None
    try:
        return Path(hf_hub_download(source, name, revision=commit))
    except RemoteEntryNotFoundError:
        return None
    except OSError:  # offline, or the hub refuses
        if name == MODULES:
            warnings.warn(
                f"model {source}: the hub cannot be reached, and its cache does not say whether this is a "
                "sentence-transformers model; it is taken for none (mean pooling, no prompts); connect once to be sure",
                stacklevel=4,
            )
            return None
        raise ValueError(
            f"model {source}: the hub cannot be reached, and its cache does not say whether there is a {name}, which "
            "decides the embedding; connect once, or give a folder that holds the whole model"
        ) from None
