"""Verdicts as logged samples and tables of labels say them; what is neither is named."""

import json

import pytest

from metrics.verdicts import read_samples, read_table


def test_samples_of_several_filters_and_metrics(tmp_path):
    rows = [
        {"doc_id": 3, "filter": "strict", "metrics": ["acc", "bleu"], "acc": 1.0, "bleu": [1, 2], "doc_hash": "h"},
        {"doc_id": 3, "filter": "flexible", "metrics": ["acc"], "acc": False, "doc": {"q": "x", "n": 3, "l": [1]}},
    ]
    path = tmp_path / "samples_my_task_2_2026-01-02T03-04-05.678901.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    a, skipped, b = read_samples([path])
    assert (a.task, a.doc_id, str(a.name), a.value, a.doc_hash) == ("my_task_2", 3, "acc@strict", 1.0, "h")
    assert str(skipped) == "bleu@strict"
    assert (str(b.name), b.value, dict(b.fields)) == ("acc@flexible", 0.0, {"q": "x", "n": 3})


def test_line_ends_inside_a_logged_text(tmp_path):
    path = tmp_path / "samples_t_1.jsonl"
    row = {"doc_id": 0, "metrics": ["acc"], "acc": 1, "resps": "a\u2028b\x85c"}
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert [v.value for v in read_samples([path])] == [1.0]


@pytest.mark.parametrize("line", ["not json", '{"metrics": []}', '{"doc_id": "x"}', "[1]"])
def test_a_foreign_line_is_named(line, tmp_path):
    path = tmp_path / "samples_t_1.jsonl"
    path.write_text('{"doc_id": 0}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"samples_t_1\.jsonl, line 2: not a logged sample"):
        list(read_samples([path]))


def test_a_last_line_that_is_broken_off_is_left_out(tmp_path):
    rows = [json.dumps({"doc_id": i, "metrics": ["acc"], "acc": i}) for i in range(3)]
    path, whole = tmp_path / "samples_t_1.jsonl", tmp_path / "samples_u_1.jsonl"
    path.write_text("\n".join(rows)[:-5])
    whole.write_text("\n".join(rows))
    with pytest.warns(UserWarning, match=r"samples_t_1\.jsonl: the last line is broken off and left out"):
        found = list(read_samples([path, whole]))
    assert [(v.task, v.value) for v in found] == [("t", 0.0), ("t", 1.0), ("u", 0.0), ("u", 1.0), ("u", 2.0)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.csv", "doc_id,correct\n0,true\n1,0\n2,0.5\n"),
        ("l.csv", "doc_id,label\n0,1\n1,False\n2,.5\n"),
        ("l.jsonl", '{"doc_id": 0, "correct": true}\n{"doc_id": 1, "correct": 0}\n\n{"doc_id": "2", "correct": 0.5}\n'),
    ],
)
def test_tables(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    assert [(v.doc_id, v.value) for v in read_table(tmp_path / name)] == [(0, 1.0), (1, 0.0), (2, 0.5)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,correct\n0,1\n", "row 1: columns doc_id and correct are needed; found id, correct"),
        ("doc_id,correct\n0,1\n1,maybe\n", "row 2: doc_id='1', correct='maybe': not numbers"),
        ("doc_id,correct\n0,nan\n", "row 1: correct is nan; leave the row out"),
    ],
)
def test_a_bad_table_is_named(text, said, tmp_path):
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(ValueError, match=said):
        list(read_table(tmp_path / "l.csv"))
