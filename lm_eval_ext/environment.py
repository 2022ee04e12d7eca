"""What the manifest says of a run: the model, the settings and the software, so that it can be judged and repeated."""

# pyright: reportAttributeAccessIssue=false
# (lm-eval's class decorator hides the type of HFLM)
from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import subprocess
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lm_eval_ext.arguments import Options
from lm_eval_ext.capture import describe

if TYPE_CHECKING:
    from lm_eval_ext.model import HFStoreLM

LIBRARIES = ("eval-ext", "lm-eval", "torch", "transformers", "tokenizers", "accelerate", "safetensors", "numpy")


PLACEMENT = (
    *("device", "batch_size", "max_batch_size", "parallelize", "max_memory_per_gpu", "max_cpu_memory"),
    *("device_map", "offload_folder", "low_cpu_mem_usage", "trust_remote_code", "use_fast_tokenizer"),
)
"""Arguments of the host that say where a model lies and runs and how it is read, not what it computes."""


BLOCK, BLOCKS = 4096, 256
"""Bytes that are read of a weight file at a time, and how many such blocks at most (numbers, of a tensor)."""


def manifest(
    lm: HFStoreLM, options: Options, layers: Sequence[int], host: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Everything the manifest holds but the schema and the list of runs.

    Args:
        lm: the model, loaded.
        options: what is recorded.
        layers: layers that are recorded.
        host: the arguments that hf-store handed on to the harness's model.
    """
    simple = {k: v for k, v in (host or {}).items() if isinstance(v, (str, int, float, bool))}
    config = lm.config
    model = lm.model
    return {
        "run_id": uuid.uuid4().hex,
        "model": lm.pretrained if isinstance(lm.pretrained, str) else config.name_or_path or type(model).__name__,
        "revision": str(lm.revision),
        "weights": _weights(lm),
        "peft": lm.peft,
        "architecture": type(model).__name__,
        "dtype": str(model.dtype).removeprefix("torch."),
        "quantization": _quantization(config),
        "attention": model.config._attn_implementation,
        "device": str(lm.device),
        "batch_size": lm.batch_size,
        "max_length": lm.max_length,
        "add_bos_token": lm.add_bos_token,
        "prefix_token": lm.prefix_token_id,
        "think_end_token": lm.think_end_token,
        "generation": model.generation_config.to_diff_dict() if model.can_generate() else {},
        "host_arguments": {k: str(v) for k, v in sorted(simple.items()) if k not in PLACEMENT},
        "tokenizer_hash": tokenizer_hash(lm.tokenizer),
        "chat_template_hash": _digest(str(lm.tokenizer.chat_template)) if lm.tokenizer.chat_template else None,
        "metrics": list(options.plan.metrics),
        "signals": describe(options.plan),
        "layers": list(layers),
        "norm": "raw",
        "raw_dtype": options.raw_dtype,
        **({"lens": lm.translators.describe()} if lm.translators is not None else {}),
        "store_text": options.store_text,
        "extra_pass": options.plan.extra_pass,
        "libraries": versions(),
        "python": platform.python_version(),
        "git": git_state(),
    }


def _weights(lm: HFStoreLM) -> str:
    """What tells other weights under the same name, wherever they lie once loaded.

    The commit, where a hub gave the model; else a digest of its weight files, and the adapter's: names, sizes and some
    blocks of each; of a model handed over as an object, of some numbers of each tensor.
    """
    if commit := getattr(lm.config, "_commit_hash", None):
        return str(commit)
    if isinstance(lm.pretrained, str):
        return digest_of_weights(filter(None, (lm.pretrained, lm.peft)))
    digest = hashlib.sha256()
    for name, tensor in sorted(lm.model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        if not tensor.is_meta and tensor.numel():
            some = tensor.detach().reshape(-1)[:: max(1, tensor.numel() // BLOCKS)]
            digest.update(some.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def digest_of_weights(folders: Iterable[str]) -> str:
    """A digest of the weight files in these folders: names, sizes and some blocks of each."""
    digest = hashlib.sha256()
    for folder in folders:
        files = [p for p in Path(folder).glob("*") if p.suffix in (".safetensors", ".bin", ".gguf")]
        for file in sorted(files):
            size = file.stat().st_size
            digest.update(f"{file.name} {size}".encode())
            with file.open("rb") as data:
                for start in range(0, size, max(BLOCK, size // BLOCKS)):
                    data.seek(start)
                    digest.update(data.read(BLOCK))
    return digest.hexdigest()[:16]


def versions() -> dict[str, str | None]:
    """The versions of the libraries that numbers depend on."""
    return {name: _version(name) for name in LIBRARIES}


def _quantization(config: Any) -> dict[str, Any] | None:
    """How the weights are quantised, as the checkpoint's configuration says; None when they are not."""
    found = getattr(config, "quantization_config", None)
    if found is None:
        return None
    return {k: str(v) for k, v in (found if isinstance(found, dict) else found.to_dict()).items() if v is not None}


def git_state() -> dict[str, Any] | None:
    """Commit of the working folder and whether it has uncommitted changes; None outside a repository."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "dirty": bool(_git("status", "--porcelain", "--untracked-files=no"))}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def tokenizer_hash(tokenizer: Any) -> str:
    """What tells another tokenizer: a digest of all it is made of, but for the chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return _digest(backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items())))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
