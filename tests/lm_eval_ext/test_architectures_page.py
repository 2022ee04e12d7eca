"""docs/architectures.md says of each tiny model what the checks say of it."""

import re
from pathlib import Path

import pytest
from families import CONFIGS, tiny

from lm_eval_ext.preflight import check_config, check_model, probe, skeleton
from metrics.plan import make_plan

PAGE = (Path(__file__).parents[2] / "docs" / "architectures.md").read_text(encoding="utf-8")
PLANS = {
    "logits": make_plan("standard"),
    "hidden": make_plan("standard", "hidden_norm"),
    "attention": make_plan("standard", "attention_diagonal"),
}


def status(family, plan):
    """What happens to a plan: recorded, or refused, when, and with which line."""
    config = CONFIGS[family]()
    try:
        check_config(config, plan)
    except ValueError as problem:
        return "refused at once", str(problem)
    try:
        model = tiny(family)
        check_model(model, plan)
        probe(model, plan, range(4))
    except ValueError as problem:
        return "refused once loaded", str(problem)
    return "recorded", ""


@pytest.mark.parametrize("family", CONFIGS)
def test_the_page_says_what_is_recorded(family):
    config = CONFIGS[family]()
    cells = [f"`{config.model_type}`", f"`{type(skeleton(config)).__name__}`"]
    found = {name: status(family, plan) for name, plan in PLANS.items()}
    row = "| " + " | ".join([*cells, *(what for what, _ in found.values())]) + " |"
    assert row in PAGE, f"docs/architectures.md lacks\n{row}"
    for _, line in found.values():
        general = re.sub(r"in \d of \d blocks", "in N of M blocks", line.replace(type(skeleton(config)).__name__, "X"))
        assert general in PAGE, f"docs/architectures.md lacks the line\n{general}"


def test_the_page_says_nothing_of_others():
    listed = re.findall(r"^\| `([a-z0-9_]+)` \|", PAGE, re.M)
    assert sorted(listed) == sorted(make().model_type for make in CONFIGS.values())
