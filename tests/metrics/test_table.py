import csv
import io
import json
import math

import numpy as np
import pytest

from metrics.table import FORMATS, render

ROWS = [
    {"metric": "a|b", "value": 0.123456789012345, "n": 3},
    {"metric": "c_d & 50 %", "value": math.nan, "n": 4},
]


def test_markdown_keeps_its_columns_whatever_a_cell_holds():
    lines = render([{"a": "l_t = p(y | x)\nnext", "b": 1}], "md").splitlines()
    assert len(lines) == 3
    assert {line.replace(r"\|", "").count("|") for line in lines} == {3}
    assert r"p(y \| x) next" in lines[2]


def test_markdown_rounds_and_aligns_numbers_to_the_right():
    head, rule, first, second = render(ROWS, "md").splitlines()
    assert len({len(line) for line in (head, rule, first, second)}) == 1
    assert rule.split("|")[2].endswith(":") and not rule.split("|")[1].endswith(":")
    assert " 0.123 |" in first and " – |" in second


def test_csv_and_json_hold_whole_numbers_and_say_what_is_missing():
    read = list(csv.DictReader(io.StringIO(render(ROWS, "csv"))))
    assert float(read[0]["value"]) == ROWS[0]["value"]
    assert read[1]["value"] == ""
    loaded = json.loads(render(ROWS, "json"))
    assert loaded[0] == ROWS[0]
    assert loaded[1]["value"] is None


def test_json_is_strict_with_infinities_and_numpy_floats():
    loaded = json.loads(render([{"x": -math.inf, "y": np.float64(0.5)}], "json"), parse_constant=pytest.fail)
    assert loaded == [{"x": "-inf", "y": 0.5}]


def test_latex_escapes_what_would_not_compile():
    text = render([{"a_b": "50 % & {x} ^ ~ # $ \\"}], "latex")
    body = text.splitlines()[4]
    plain = r"50 \% \& \{x\} \textasciicircum{} \textasciitilde{} \# \$ \textbackslash{} \\"
    assert body == plain
    assert r"a\_b \\" in text


def test_a_row_may_lack_a_column_of_another():
    rows = [{"a": 1}, {"a": 2, "b": "x"}]
    assert render(rows, "csv").splitlines() == ["a,b", "1,", "2,x"]
    assert "–" in render(rows, "md")


@pytest.mark.parametrize("format_", FORMATS)
def test_no_rows_is_no_error(format_):
    assert render([], format_) == ("[]" if format_ == "json" else "")


def test_an_unknown_format_is_refused_by_name():
    with pytest.raises(ValueError, match="format 'xml' is not known; choose md, csv, json, latex"):
        render(ROWS, "xml")
