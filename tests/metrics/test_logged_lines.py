"""Lines of sample files: one at a time, whole or broken off, and the same to all who read them."""

import pytest
from judging import logged, write_log

from lm_eval_ext.replay_log import read, scan
from metrics.logged import read_logged
from metrics.logged_lines import is_broken, lines_of
from metrics.verdicts import read_samples


def test_lines_are_read_one_at_a_time(tmp_path):
    path = tmp_path / "samples_t_1.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n{"a": "\xe2\x80\xa8"}\n{]\n')
    lines = lines_of(path)
    assert [next(lines), next(lines)] == [
        (f"{path}, line 1", {"a": 1}, False),
        (f"{path}, line 3", {"a": "\u2028"}, False),
    ]
    with pytest.raises(ValueError, match=r"samples_t_1\.jsonl, line 4: not a logged sample of lm-eval"):
        next(lines)


@pytest.mark.parametrize(
    ("line", "broken"),
    [(b'{"a"', True), (b'{"a": 1}', False), (b'{"a"\n', False), (b'"\xe4\xb8', True), (b"  ", False), (b"", False)],
)
def test_what_is_broken_off(tmp_path, line, broken):
    assert is_broken(line) is broken
    if not line.endswith(b"\n"):
        (tmp_path / "f").write_bytes(b"null\n" + line)
        assert [one.broken for one in lines_of(tmp_path / "f")] == [False, broken][: 1 + bool(line.strip())]


@pytest.mark.parametrize("lost", [1, 20])
@pytest.mark.filterwarnings("ignore:.*broken off")
def test_all_readers_find_the_same_documents(tmp_path, lost):
    """A last line that only lacks its end is whole; of one that is cut, all leave out the document."""
    results = write_log(tmp_path, [line for i in range(3) for line in logged(i, "4")])
    (path,) = tmp_path.glob("samples_*")
    path.write_bytes(path.read_bytes()[:-lost])
    expected = [0, 1, 2] if lost == 1 else [0, 1]
    assert [one.doc_id for one in read_logged([results])] == expected
    assert [verdict.doc_id for verdict in read_samples([path])] == expected
    assert [asked[0].request.doc_id for asked in read("sums", path)] == expected
    assert scan("sums", path).cut is (lost > 1)
