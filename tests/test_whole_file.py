"""Files that are there whole or not at all."""

from pathlib import Path

import pytest

from logtune.edges.whole_file import write_whole


def test_a_file_is_replaced_with_its_rights(tmp_path: Path) -> None:
    path = tmp_path / "new" / "keys.json"
    for text, mode in (("one", 0o600), ("two", 0o644)):
        write_whole(path, text, mode)
        assert path.read_text() == text
        assert path.stat().st_mode & 0o777 == mode
    assert list(path.parent.iterdir()) == [path]


def test_what_fails_leaves_nothing_beside_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "page").mkdir()  # nothing can take the place of a folder
    with pytest.raises(OSError, match="page"):
        write_whole(tmp_path / "page", "text")
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "other", "\ud800")
    assert [path.name for path in tmp_path.iterdir()] == ["page"]
