import numpy as np
import pytest

from metrics.cases import Case, among


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (((), None, None), "abcd"),
        ((("t",), None, None), "abc"),
        ((("t", "u"), "f1", None), "cd"),
        (((), "exact_match", "strict"), "a"),
        (((), None, "none"), "cd"),
        (((), "exact", None), ""),
        ((("v",), None, None), ""),
    ],
)
def test_cases_are_chosen_by_task_label_and_filter(asked, found):
    held = {"a": ("t", "exact_match@strict"), "b": ("t", "exact_match@flexible"), "c": ("t", "f1@none")}
    held["d"] = ("u", "f1@none")
    made = {name: Case(task, of, {}, np.ones(1), None, verdict=of) for name, (task, of) in held.items()}
    assert "".join(name for name, case in made.items() if among(*asked)(case)) == found
