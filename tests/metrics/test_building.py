"""A folder that is whole or not there."""

import pytest

from metrics.building import building


def test_it_appears_at_the_end(tmp_path):
    with building(tmp_path / "deep" / "new") as folder:
        (folder / "a").write_text("1")
        assert not (tmp_path / "deep" / "new").exists() and folder.parent == tmp_path / "deep"
    assert (tmp_path / "deep" / "new" / "a").read_text() == "1"
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["new"]


def test_an_empty_folder_may_be_there(tmp_path):
    (tmp_path / "new").mkdir()
    with building(tmp_path / "new") as folder:
        (folder / "a").write_text("1")
    assert (tmp_path / "new" / "a").exists()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_it_is_gone_after_an_error(tmp_path, error):
    with pytest.raises(error), building(tmp_path / "new") as folder:
        (folder / "a").write_text("1")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_kept(tmp_path):
    (tmp_path / "new").write_text("thesis")
    with pytest.raises(FileExistsError, match="new exists and is not an empty folder"), building(tmp_path / "new"):
        pytest.fail("entered")
    assert (tmp_path / "new").read_text() == "thesis"
