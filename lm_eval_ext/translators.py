"""A tuned lens: an affine map of each layer's states, learnt elsewhere and read from a file.

Two layouts are read: a safetensors file with ``K.weight`` ``[dim, dim]`` and ``K.bias`` ``[dim]`` for the layers
K = 0, 1, ... up to L - 1, layer 0 being the embedding output; and a folder of the tuned-lens package, whose
``params.pt`` holds the same names (read without unpickling objects) beside a ``config.json``.
"""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn


class Translators:
    """Adds each layer's learnt correction to its states: h_k + A_k h_k + b_k, before the final norm.

    The correction is computed in its own precision or float32, whichever is the finer, and cast to the states'. The
    last layer has none. Source: arXiv:2303.08112; the residual form is that of the tuned-lens package (`TunedLens`).

    Args:
        path: a safetensors file, or a folder of the tuned-lens package.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: neither layout, or no such tensors in it; the message names the file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.file = self.path / "params.pt" if self.path.is_dir() else self.path
        if not self.file.is_file():
            raise FileNotFoundError(
                f"lens={path}: {self.file} does not exist; "
                "give a safetensors file or a folder of the tuned-lens package"
            )
        self._tensors = _read(self.file)
        self._ready: dict[tuple[str, torch.device, torch.dtype], Tensor] = {}

    def describe(self) -> dict[str, str]:
        """File name and SHA-256 of what was read, for the manifest."""
        digest = hashlib.sha256()
        with self.file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
        return {"file": self.file.name, "sha256": digest.hexdigest()}

    def check(self, blocks: int, dim: int, layers: tuple[int, ...]) -> None:
        """Refuse translators of another model.

        Args:
            blocks: the number L of blocks.
            dim: width of the states.
            layers: layers that are to be recorded.

        Raises:
            ValueError: one line that names the file, the tensor, its shape and what is needed.
        """
        if beyond := sorted({name for name in self._tensors if int(name.split(".")[0]) >= blocks}):
            raise ValueError(
                f"lens={self.path}: '{beyond[0]}' is beyond layer {blocks - 1}, the last that has one here"
            )
        for layer in layers:
            if layer < blocks and f"{layer}.weight" not in self._tensors:
                raise ValueError(
                    f"lens={self.path}: no '{layer}.weight' for layer {layer}; "
                    f"give translators of all recorded layers, or choose others (layers=)"
                )
        for name, tensor in self._tensors.items():
            goal = (dim, dim) if name.endswith("weight") else (dim,)
            if tuple(tensor.shape) != goal:
                raise ValueError(
                    f"lens={self.path}: '{name}' has shape {list(tensor.shape)}, not {list(goal)}; "
                    "give translators of this model"
                )

    def __call__(self, layer: int, states: Tensor) -> Tensor:
        """The states ``[..., dim]`` of a layer, corrected; those of the last layer as they are."""
        weight, bias = f"{layer}.weight", f"{layer}.bias"
        if weight not in self._tensors:
            return states
        precise = torch.promote_types(torch.promote_types(states.dtype, self._tensors[weight].dtype), torch.float32)
        a = self._on(weight, states.device, precise)
        b = self._on(bias, states.device, precise) if bias in self._tensors else None
        with torch.autocast(states.device.type, enabled=False):
            h = states.to(precise)
            return (h + nn.functional.linear(h, a, b)).to(states.dtype)

    def _on(self, name: str, device: torch.device, dtype: torch.dtype) -> Tensor:
        """A tensor where and as it is needed, moved once."""
        key = (name, device, dtype)
        if key not in self._ready:
            self._ready[key] = self._tensors[name].to(device, dtype)
        return self._ready[key]


def _read(file: Path) -> dict[str, Tensor]:
    try:
        found: Any
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as stream:
                found = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        else:
            found = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as problem:
        reason = " ".join(str(problem).split())[:200]
        raise ValueError(f"lens={file}: neither safetensors nor plain tensors saved by PyTorch ({reason})") from None
    names = found if isinstance(found, dict) else {}
    good = {n: t for n, t in names.items() if isinstance(t, Tensor) and _is_name(n)}
    if not good or len(good) < len(names):
        odd = next((str(n) for n in names if n not in good), "nothing")
        raise ValueError(f"lens={file}: holds {odd}, where 'K.weight' and 'K.bias' of layers K are expected")
    return good


def _is_name(name: Any) -> bool:
    layer, _, kind = str(name).partition(".")
    return layer.isdecimal() and kind in ("weight", "bias")
