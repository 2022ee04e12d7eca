"""Replies are on disk when they are kept, and a damaged file costs only what is damaged."""

import json

import pytest

from metrics.judge_cache import Cache


def test_kept_and_found_again(tmp_path):
    path = tmp_path / "new" / "cache.jsonl"
    with Cache(path) as cache:
        cache.add("k", "yes\nindeed", {"model": "m"})
        assert json.loads(path.read_text()) == {"key": "k", "reply": "yes\nindeed", "model": "m"}  # before it is closed
        cache.add("l", "", {})
    again = Cache(path)
    assert ("k" in again, again["k"], again["l"], "m" in again, len(again)) == (True, "yes\nindeed", "", False, 2)


def test_nothing_is_made_before_the_first_reply(tmp_path):
    with Cache(tmp_path / "cache.jsonl"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_half_written_line(tmp_path):
    path = tmp_path / "cache.jsonl"
    with Cache(path) as cache:
        cache.add("k", "yes", {})
        cache.add("l", "no", {})
    path.write_text(path.read_text()[:-9])
    with pytest.warns(UserWarning, match="1 lines cannot be read; their questions are asked again"):
        cache = Cache(path)
    with cache:
        assert "l" not in cache
        cache.add("l", "yes", {})
    with pytest.warns(UserWarning, match="1 lines"):
        again = Cache(path)
    assert (again["k"], again["l"]) == ("yes", "yes")


@pytest.mark.parametrize(
    "line", ["{}", "[]", "3", '{"key": "k"}', '{"key": "k", "reply": null}', '{"key": [], "reply": "yes"}']
)
def test_lines_of_another_kind(tmp_path, line):
    path = tmp_path / "cache.jsonl"
    path.write_text(line + '\n{"key": "l", "reply": "no"}\n\n')
    with pytest.warns(UserWarning, match="1 lines"):
        cache = Cache(path)
    assert (len(cache), cache["l"]) == (1, "no")


def test_the_later_line_counts(tmp_path):
    path = tmp_path / "cache.jsonl"
    path.write_text('{"key": "k", "reply": "no"}\n{"key": "k", "reply": "yes"}\n')
    assert Cache(path)["k"] == "yes"
