"""Every named influence in float64 and the plainest words: whole squares of all positions, one element at a time.

The text's parts are full NumPy arrays, prompt included: attention ``[layer, head, N, N]``, before, output and after
``[layer, N, dim]``, carried ``[layer, head, N, dim]``, what each head carries over from each position.
"""

import itertools

import numpy as np


def influences(parts, prompt, changes):
    """name -> the weights of the positions from `prompt` on; `changes` of the lens by each block."""
    blocks = [{key: np.asarray(value[k], float) for key, value in parts.items()} for k in range(len(parts["before"]))]
    n = blocks[0]["before"].shape[0]

    def rollout(residual=0.5, field="none", what="attention"):
        joined = np.eye(n)
        for block in blocks:
            joined = mixed(normed(fielded(matrix(block, what), field)), block, residual) @ joined
        return joined

    def mean(what="attention", weight=lambda block, i: 1.0):
        top, bottom = np.zeros((n, n)), np.zeros((n, 1))
        for block in blocks:
            w = np.array([[weight(block, i)] for i in range(n)])
            top, bottom = top + w * normed(matrix(block, what)), bottom + w
        return top / bottom

    def product(floor, what, root):
        joined = np.tril(np.ones((n, n)))
        for block in blocks:
            joined *= floor + (1 - floor) * matrix(block, what)
        return np.tril(joined) ** (1 / len(blocks) if root else 1)

    def turned(block, i):
        return 1 - cosine(block["before"][i], block["after"][i])

    found = {
        "rollout": last(rollout()),
        "rollout_mean": visible_mean(rollout()),
        "rollout_max": largest(rollout()),
        "rollout_residual": visible_mean(rollout(0.9)),
        "rollout_column": visible_mean(rollout(field="column")),
        "rollout_element": visible_mean(rollout(field="element")),
        "rollout_norm": visible_mean(rollout("norm")),
        "rollout_norm_element": visible_mean(rollout("norm", "element")),
        "rollout_projection": visible_mean(rollout("projection")),
        "rollout_cosine": visible_mean(rollout("cosine")),
        "influence_guide": last(rollout("norm1")),
        "value_norms": visible_mean(mean("norms")),
        "value_norms_rollout": visible_mean(rollout(what="norms")),
        "additive_mean": visible_mean(mean()),
        "additive_max": largest(mean()),
        "additive_state": visible_mean(mean(weight=turned)),
        "additive_lens": sum(c * visible_mean(normed(matrix(b, "attention"))) for c, b in zip(changes, blocks))
        / sum(changes),
        "geometric_max": largest(product(0.01, "attention", True)),
        "macs": last(product(0.8, "greatest", False)),
        "macs_max": largest(product(0.8, "greatest", False)),
    }
    return {name: value[prompt:] for name, value in found.items()}


def matrix(block, what):
    heads, n, _ = block["attention"].shape
    out = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            weights = block["attention"][:, i, j]
            if what == "norms":
                out[i, j] = np.linalg.norm(sum(weights[h] * block["carried"][h, j] for h in range(heads)))
            else:
                out[i, j] = max(weights) if what == "greatest" else sum(weights) / heads
    return out


def fielded(a, field):
    n = len(a)
    out = a.copy()
    for i in range(n):
        for j in range(i + 1):
            out[i, j] /= {"none": 1, "column": n - j, "element": i - j + 1}[field]
    return out


def normed(a):
    return np.array([row / row.sum() for row in a])


def mixed(a, block, residual):
    out = np.zeros_like(a)
    for i, row in enumerate(a):
        x, y = block["before"][i], block["output"][i]
        total = x + y
        if residual == "norm":
            stream, attended = np.sqrt(x @ x), np.sqrt(y @ y)
        elif residual == "norm1":
            stream, attended = abs(x).sum(), abs(y).sum()
        elif residual == "projection":
            stream, attended = abs(x @ total), abs(y @ total)
        elif residual == "cosine":
            stream, attended = 1.0, 1 - cosine(x, total)
        else:
            stream, attended = residual, 1 - residual
        out[i] = attended / (stream + attended) * row
        out[i, i] += stream / (stream + attended)
    return out


def cosine(x, y):
    return x @ y / np.sqrt((x @ x) * (y @ y))


def last(a):
    return a[-1]


def largest(a):
    return np.array([max(a[i, j] for i in range(j, len(a))) for j in range(len(a))])


def visible_mean(a):
    return np.array([sum(a[i, j] for i in range(j, len(a))) / (len(a) - j) for j in range(len(a))])


def smallest_cut(capacities, to):
    """The least capacity of all cuts between the last position on top and `to` at the bottom: every subset tried."""
    depth, n = len(capacities), len(capacities[0])
    source, sink = (depth, n - 1), (0, to)
    others = [(k, i) for k in range(depth + 1) for i in range(n) if (k, i) not in (source, sink)]
    best = np.inf
    for chosen in itertools.product((False, True), repeat=len(others)):
        side = {source, *(node for node, here in zip(others, chosen) if here)}
        cut = sum(
            capacities[k][i][j]
            for k in range(depth)
            for i in range(n)
            for j in range(n)
            if (k + 1, i) in side and (k, j) not in side
        )
        best = min(best, cut)
    return best
