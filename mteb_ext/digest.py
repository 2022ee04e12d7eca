"""Short content hashes: of texts, of options, of a model's files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

LARGE = 64 << 20
"""Bytes from which a file's hash is remembered between runs."""

TEXTUAL = {".json", ".txt", ".model", ".jinja", ".py", ".vocab", ".bpe", ".tiktoken"}

FIRST = {"model.safetensors", "model.safetensors.index.json"}
"""Where one of these is, PyTorch's own files of weights are not loaded."""

IDLE = {"readme.txt", "license.txt", "notice.txt", "requirements.txt", "training_args.bin", "optimizer.bin"} | {
    f"{name}.json" for name in ("trainer_state", "train_results", "eval_results", "all_results", "model_meta")
}
"""Files beside a model that change nothing it computes."""


def short(content: Any) -> str:
    """12 hex digits of the SHA-256 of a text, or of anything JSON holds in its canonical form."""
    text = content if isinstance(content, str) else json.dumps(content, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _plain(content: Any) -> Any:
    return sorted(map(str, content)) if isinstance(content, (set, frozenset)) else str(content)


def model_files(folder: Path) -> list[Path]:
    """The files that decide what the model in `folder` computes: weights, configuration, tokenizer, code.

    Those that lie in the folder itself, or in a folder that its modules.json names. Weights in other formats than the
    one that is loaded (PyTorch's beside model.safetensors, ONNX, TensorFlow), training state and results do not count.
    """
    named = _module_folders(folder / "modules.json")
    children = [p for p in folder.iterdir() if not p.name.startswith(".")]
    found = [p for p in children if p.is_file()]
    found += [p for child in children if child.is_dir() and child.name in named for p in child.rglob("*")]
    safe = {p.parent for p in found if p.name in FIRST}
    return sorted(p for p in found if p.name.lower() not in IDLE and _counts(p, p.parent in safe) and p.is_file())


def _counts(path: Path, safe: bool) -> bool:
    return path.suffix in TEXTUAL or path.suffix == ".safetensors" or (path.suffix == ".bin" and not safe)


def _module_folders(listed: Path) -> set[str]:
    try:
        modules = json.loads(listed.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # no sentence-transformers folder; one that cannot be read is refused elsewhere
        return set()
    paths = [m.get("path") for m in modules if isinstance(m, dict)] if isinstance(modules, list) else []
    return {Path(path).parts[0] for path in paths if path}


def folder_digest(folder: Path) -> str:
    """16 hex digits over the names and contents of a model's files; the place of the folder does not matter."""
    remembered = _Remembered()
    digest = hashlib.sha256()
    for path in model_files(folder):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{remembered.of(path)}\0".encode())
    return digest.hexdigest()[:16]


def cache_folder() -> Path:
    """Where this package may keep what can be made anew: `$XDG_CACHE_HOME/eval-ext` or `~/.cache/eval-ext`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eval-ext"


class _Remembered:
    """Hashes of large files, kept by path, size and times of change, so that a 70B model is read once."""

    def __init__(self) -> None:
        self._path = cache_folder() / "hashes.json"
        try:
            known = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # none yet, or not readable: only time is lost
            known = None
        self._known: Mapping[str, str] = known if isinstance(known, dict) else {}

    def of(self, path: Path) -> str:
        stat = path.stat()
        if stat.st_size < LARGE:
            return hashlib.sha256(path.read_bytes()).hexdigest()
        key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}|{stat.st_ino}"
        if key not in self._known:
            self._known = {**self._known, key: _sha256(path)}
            self._save()
        return self._known[key]

    def _save(self) -> None:
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(self._known), encoding="utf-8")
            temporary.replace(self._path)
        except OSError:  # a home that cannot be written: hash again next time
            with suppress(OSError):
                temporary.unlink()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def text_digest(text: str, prompt: str = "") -> bytes:
    """16 bytes that stand for a text behind its prompt."""
    head = f"{len(prompt)}:{prompt}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(head + text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def text_digests(texts: Iterable[str], prompt: str = "") -> list[bytes]:
    """`text_digest` of each."""
    return [text_digest(text, prompt) for text in texts]
