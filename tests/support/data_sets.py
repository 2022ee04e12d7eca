"""Cases of data sets made by hand, and the columns of the tables over them."""

import numpy as np

from metrics.cases import Case


def case(task, right, scores, label="acc@none", **more):
    """Documents of a task with these labels and scores; labels of 0 and 1 alone are verdicts, others grades."""
    quality = np.asarray(right, dtype=float)
    wrong = quality < 0.5 if set(quality) <= {0.0, 1.0} else None
    scores = {name: np.asarray(values, dtype=float) for name, values in scores.items()}
    return Case(task, label, scores, quality, wrong, verdict=label, **more)


def column(table, name, **where):
    """A column of those rows that have these values in others."""
    return [row[name] for row in table.rows if all(row[k] == v for k, v in where.items())]
