"""Whether several answers to one prompt are draws: from the generation settings that a run noted in the manifest.

Each run notes under ``generation`` one entry for each setting: ``{"tasks": [...], "repeats": K, "settings": {...}}``,
the settings as lm-eval gave them. Runs of older versions noted the settings alone, without their tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

GREEDY = (
    "generated greedily, so all samples of a document are one answer; "
    "record with --gen_kwargs do_sample=True,temperature=1"
)
"""Why the samples of a task say nothing, and what to do."""


def draws(settings: Mapping[str, Any]) -> bool:
    """Whether lm-eval samples with these settings, so that asking again may give another answer.

    As lm-eval reads them: ``do_sample: false`` is greedy whatever the temperature; without ``do_sample`` a temperature
    above 0 decides; without a temperature it is 0. A sampler that leaves one token to choose from (``top_k: 1``,
    ``top_p: 0``) is greedy too.
    """
    warm = float(settings.get("temperature") or 0) > 0
    choice = settings.get("top_k") != 1 and settings.get("top_p") != 0
    return settings.get("do_sample") is not False and warm and choice


def generation(manifest: Mapping[str, Any], task: str) -> Mapping[str, Any] | None:
    """The settings with which a task's answers were generated, by the last run that says; None where none does.

    They are lm-eval's, with the model's own ``top_k`` and ``top_p`` where it gave none. Of a run with several settings
    for one task (a task may set them by document) the last are given.
    """
    own = {name: value for name, value in (manifest.get("generation") or {}).items() if name in ("top_k", "top_p")}
    for run in reversed(manifest.get("runs", [])):
        entries = run.get("generation", [])
        for entry in reversed(entries):
            if "settings" not in entry and len(entries) == 1:
                return {**own, **entry}
            if task in entry.get("tasks", ()):
                return {**own, **entry["settings"]}
    return None


def greedy(manifest: Mapping[str, Any], task: str) -> bool:
    """Whether the manifest says that a task's answers were generated greedily; False where it does not say."""
    settings = generation(manifest, task)
    return settings is not None and not draws(settings)
