"""Distances from a Gaussian of hidden states: Mahalanobis, relative to a background, and averaged with perplexity."""

from __future__ import annotations

import numpy as np
from scipy.linalg import svd
from sklearn.covariance import ledoit_wolf_shrinkage

from metrics.fitted.estimators import Params, estimator, one_of

OF = ("right", "all")
COVARIANCES = ("shrunk", "plain")
DISTANCES = ("root", "squared")
HELD_OUT = 0.3
"""Share of the documents whose distances give the ranks of `mahalanobis_ppl`."""


def gaussian(x: np.ndarray, covariance: str) -> dict[str, np.ndarray]:
    """Mean and covariance of rows (n, d) as principal axes (r, d), their variances (r,) and that of all others (1,).

    ``plain``: S = X^T X / (n - 1) of centred rows. ``shrunk``: (1 - a) X^T X / n + a (tr / d) I with the a of Ledoit &
    Wolf 2004, J. Multivar. Anal. 88:365, which has full rank however few the rows; directions that the rows leave
    empty all have the variance a tr / d, so they need no axes of their own.

    Raises:
        ValueError: the plain covariance is singular, or no row differs from another.
    """
    one_of("mahalanobis", "covariance", covariance, COVARIANCES)
    n, d = x.shape
    mean = x.mean(axis=0)
    centred = x - mean
    _, size, axes = svd(centred, full_matrices=False)
    rank = int((size > size.max(initial=0.0) * max(n, d) * np.finfo(float).eps).sum())
    if rank == 0:
        raise ValueError(f"the states of the {n} answers to fit a Gaussian on are all equal")
    if covariance == "plain":
        if rank < d:
            raise ValueError(
                f"the plain covariance of {n} answers in {d} dimensions has rank {rank} and no inverse; "
                "use covariance=shrunk, or fit on more answers"
            )
        return {"mean": mean, "axes": axes, "variance": size**2 / (n - 1), "rest": np.ones(1)}
    share = ledoit_wolf_shrinkage(centred, assume_centered=True)
    floor = share * (size**2).sum() / n / d
    variance = (1 - share) * size[:rank] ** 2 / n + floor
    if rank < d and floor == 0:
        raise ValueError(f"the states of {n} answers are too alike to estimate a covariance in {d} dimensions")
    return {"mean": mean, "axes": axes[:rank], "variance": variance, "rest": np.array([floor or 1.0])}


def squared_distance(of: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """(x - m)^T S^-1 (x - m) of each row: along the axes by their variances, across them by that of the rest."""
    centred = x - of["mean"]
    along = centred @ of["axes"].T
    full = of["axes"].shape[0] == of["axes"].shape[1]
    across = 0.0 if full else np.maximum((centred**2).sum(1) - (along**2).sum(1), 0.0) / of["rest"][0]
    return (along**2 / of["variance"]).sum(1) + across


def apply_mahalanobis(params: Params, x: np.ndarray) -> np.ndarray:
    """The distance from the one Gaussian."""
    return np.sqrt(squared_distance(dict(params.arrays), x))


@estimator(apply=apply_mahalanobis, source="arXiv:1807.03888; lm-polygraph")
def mahalanobis(x: np.ndarray, y: np.ndarray, *, of: str = "right", covariance: str = "shrunk") -> Params:
    """Mahalanobis distance sqrt((h - m)^T S^-1 (h - m)) of a state from the Gaussian of the right answers' states.

    `of`: whose states, ``right`` answers or ``all`` (which uses no label, as lm-polygraph's training texts). Its code
    adds a diagonal of 1e-15 and more to S until no eigenvalue is below 0, so its inverse is noise where answers are
    fewer than dimensions; here that is refused (``covariance=plain``) or shrunk.

    Raises:
        ValueError: an unknown word, fewer than two such answers, or no covariance.
    """
    return Params(gaussian(answers_of("mahalanobis", x, y, of), covariance))


def apply_relative(params: Params, x: np.ndarray) -> np.ndarray:
    """Distance from the right answers' Gaussian less that from the background's."""
    near, far = (
        {name.removeprefix(prefix): value for name, value in params.arrays.items() if name.startswith(prefix)}
        for prefix in ("near_", "far_")
    )
    power = 0.5 if params.settings["distance"] == "root" else 1.0
    return squared_distance(near, x) ** power - squared_distance(far, x) ** power


@estimator(apply=apply_relative, source="arXiv:2209.15558; lm-polygraph")
def relative_mahalanobis(x: np.ndarray, y: np.ndarray, *, covariance: str = "shrunk", distance: str = "root") -> Params:
    """Mahalanobis distance from the right answers' states less that from the background: all answers fitted on.

    `distance`: ``root``, as lm-polygraph takes the difference, or ``squared``, as the source. The source's background
    is a general corpus; here it is what the same model answered, right or wrong.

    Raises:
        ValueError: an unknown word, fewer than two right answers, or no covariance.
    """
    one_of("relative_mahalanobis", "distance", distance, DISTANCES)
    near = gaussian(answers_of("relative_mahalanobis", x, y, "right"), covariance)
    far = gaussian(x, covariance)
    arrays = {f"{prefix}_{name}": v for prefix, of in (("near", near), ("far", far)) for name, v in of.items()}
    return Params(arrays, {"distance": distance})


def apply_mahalanobis_ppl(params: Params, x: np.ndarray) -> np.ndarray:
    """Mean of the two ranks among the fitted documents, each the share that is not above."""
    near = {name: v for name, v in params.arrays.items() if not name.startswith("ranks_")}
    distance = np.sqrt(squared_distance(near, x[:, :-1]))
    ranks = [
        np.searchsorted(params.arrays[f"ranks_{name}"], values, side="right") / len(params.arrays[f"ranks_{name}"])
        for name, values in (("distance", distance), ("nll", x[:, -1]))
    ]
    return (ranks[0] + ranks[1]) / 2


@estimator(apply=apply_mahalanobis_ppl, source="arXiv:2209.15558; lm-polygraph")
def mahalanobis_ppl(
    x: np.ndarray, y: np.ndarray, *, of: str = "right", covariance: str = "shrunk", seed: int = 0
) -> Params:
    """Mean of two ranks among the answers fitted on: of the state's Mahalanobis distance and of the mean NLL.

    The mean NLL is the last input. A rank is the share of reference values that are not above. As in lm-polygraph, the
    reference distances are those of 30 % of the answers from the Gaussian of the other 70 %, for a Gaussian is too
    near to its own points; `seed` draws them. Range [0, 1].

    Raises:
        ValueError: an unknown word, fewer than four such answers, or no covariance.
    """
    chosen = answers_of("mahalanobis_ppl", x, y, of, fewest=4)
    order = np.random.default_rng(seed).permutation(len(chosen))
    held = max(1, round(HELD_OUT * len(chosen)))
    states = chosen[:, :-1]
    partial = gaussian(states[order[held:]], covariance)
    distance = np.sqrt(squared_distance(partial, states[order[:held]]))
    ranks = {"ranks_distance": np.sort(distance), "ranks_nll": np.sort(chosen[:, -1])}
    return Params(gaussian(states, covariance) | ranks)


def answers_of(who: str, x: np.ndarray, y: np.ndarray, of: str, fewest: int = 2) -> np.ndarray:
    """The rows of the right answers, or of all.

    Raises:
        ValueError: an unknown word, or fewer rows than `fewest`.
    """
    one_of(who, "of", of, OF)
    chosen = x if of == "all" else x[~y]
    if len(chosen) < fewest:
        raise ValueError(f"{who}: {len(chosen)} {of} answers to fit on; at least {fewest} are needed")
    return chosen
