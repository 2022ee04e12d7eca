"""docs/peers.md says of every estimator of lm-polygraph under which name it is here, or what it needs."""

import re
from collections import Counter
from pathlib import Path

import frozen_peers as frozen

from metrics.core import metrics, signals

PAGE = Path(__file__).resolve().parents[2] / "docs" / "peers.md"


def tables():
    """The rows of the page's tables on lm-polygraph: what is here, of one answer or of samples; what the rest needs."""
    section = PAGE.read_text().split("## lm-polygraph's estimators")[1].split("\n## ")[0]
    blocks = [b for b in section.split("\n\n") if b.startswith("|")]
    one, samples, rest = (
        [[c.strip() for c in line.strip("|").split("|")] for line in b.splitlines()[2:]] for b in blocks
    )
    return one + samples, rest


def test_every_estimator_of_lm_polygraph_is_named_once():
    here, rest = tables()
    named = Counter([row[0] for row in here] + [name for row in rest for name in row[1].split(", ")])
    names = frozen.values()[frozen.POLYGRAPH]["names"]
    assert len(names) == 83
    assert named == Counter(names)


def test_what_the_page_says_is_here_is_here():
    here, _ = tables()
    assert len(here) >= 17
    for estimator, ours, _ in here:
        known = signals() if ours.startswith("signal") else metrics()
        names = set(re.findall(r"`(\w+)`", ours))
        assert names, estimator
        assert names <= set(known), estimator
