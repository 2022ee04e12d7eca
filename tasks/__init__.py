"""Tasks shipped with eval-ext: data, generators and lm-eval YAML; nothing here imports the other packages.

Importing `tasks` costs nothing: no torch, no transformers, no lm-eval.
"""

from pathlib import Path

__all__ = ["yaml_folder"]


def yaml_folder() -> Path:
    """Return the folder of the shipped lm-eval task files, for `lm_eval --include_path`.

    The path is absolute and lies inside the installed package, whatever the working directory.
    """
    return Path(__file__).resolve().parent / "lm_eval"
