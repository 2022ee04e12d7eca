"""Made-up states of answers and what lm-polygraph's own density estimators say of them.

    python freeze_densities.py DIR

writes densities.json into the folder of this file. DIR is the unpacked wheel of lm-polygraph 0.7.0; of it the modules
of these estimators are run as they are, without what `lm_polygraph` imports besides (data sets, services, hosts). It is
run by hand, outside the tests: they read the file only.
"""

from __future__ import annotations

import importlib
import json
import sys
import types
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
TRAIN, NEW, DIM = 600, 12, 6
ROUND = 6


def make_states(seed: int = 0) -> dict[str, list]:
    """States of answers fitted on and to score, which of the first are wrong, and mean NLLs of both."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(DIM, DIM))
    wrong = rng.random(TRAIN) < 0.3
    states = rng.normal(size=(TRAIN, DIM)) @ mixing + wrong[:, None] + 2
    new = rng.normal(size=(NEW, DIM)) @ mixing * 1.3 + 2
    return {
        "states": states.round(3).tolist(),
        "wrong": wrong.tolist(),
        "nll": rng.gamma(2.0, size=TRAIN).round(3).tolist(),
        "new": new.round(3).tolist(),
        "new_nll": rng.gamma(2.0, size=NEW).round(3).tolist(),
    }


def estimators(folder: Path) -> dict[str, type]:
    """The classes, from their own modules; the packages above them are empty."""
    for name, place in {
        "lm_polygraph": folder / "lm_polygraph",
        "lm_polygraph.estimators": folder / "lm_polygraph/estimators",
        "lm_polygraph.utils": folder / "lm_polygraph/utils",
    }.items():
        package = types.ModuleType(name)
        package.__path__ = [str(place)]
        sys.modules[name] = package
    modules = {
        "MahalanobisDistanceSeq": "mahalanobis_distance",
        "RelativeMahalanobisDistanceSeq": "relative_mahalanobis_distance",
        "RDESeq": "rde",
        "PPLMDSeq": "ppl_md",
    }
    found = {c: importlib.import_module(f"lm_polygraph.estimators.{m}") for c, m in modules.items()}
    return {name: getattr(module, name) for name, module in found.items()}


def polygraph(folder: Path, made: dict[str, list]) -> dict[str, list]:
    """Distances of the new states; fitted on the right answers, with all answers as the background."""
    states, wrong = np.array(made["states"]), np.array(made["wrong"])
    stats = {
        "embeddings_decoder": np.array(made["new"]),
        "train_embeddings_decoder": states[~wrong],
        "background_train_embeddings_decoder": states,
        "greedy_log_likelihoods": [[-v] for v in made["new_nll"]],
        "train_greedy_log_likelihoods": [[-v] for v in np.array(made["nll"])[~wrong]],
    }
    return {
        name: np.round(np.asarray(of()(stats), dtype=float), ROUND).tolist() for name, of in estimators(folder).items()
    }


def main() -> None:
    """Run the estimators and write the file."""
    made = make_states()
    text = json.dumps({"made": made, "values": {"lm-polygraph": polygraph(Path(sys.argv[1]), made)}})
    (HERE / "densities.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
