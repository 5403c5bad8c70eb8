"""One key of a settings file changed, and nothing else."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logtune.app.commands.project import example_settings
from logtune.edges.settings_file import set_values, with_value
from logtune.errors import ConfigError

OURS = '# mine\n[model]\nengine = "embedded"  # here\nbase = "old" # the small one\n\n[serve]\nport = 1\n'


def changed(tmp_path: Path, text: str, **values: str) -> str:
    path = tmp_path / "logtune.toml"
    path.write_text(text)
    set_values(path, "model", values)
    return path.read_text()


def test_the_line_of_the_key_changes_and_its_comment_stays(tmp_path: Path) -> None:
    assert changed(tmp_path, OURS, base="new") == OURS.replace('"old"', '"new"')


def test_a_key_that_is_not_there_is_put_at_the_head_of_its_section(tmp_path: Path) -> None:
    text = changed(tmp_path, OURS, url="http://x/v1")
    assert tomllib.loads(text)["model"] == {"engine": "embedded", "base": "old", "url": "http://x/v1"}
    assert text.replace('url = "http://x/v1"\n', "") == OURS


def test_a_commented_key_is_followed_by_the_real_one(tmp_path: Path) -> None:
    text = changed(tmp_path, example_settings(), base="new")
    assert tomllib.loads(text)["model"] == {"base": "new"}
    assert '# base = "smollm2-135m-instruct"\nbase = "new"\n' in text


def test_a_section_that_is_not_there_is_added(tmp_path: Path) -> None:
    assert tomllib.loads(changed(tmp_path, "[serve]\nport = 1\n", base="new")) == {
        "serve": {"port": 1}, "model": {"base": "new"},
    }  # fmt: skip
    assert changed(tmp_path, "", base="new") == '[model]\nbase = "new"\n'


@pytest.mark.parametrize("text", ['model = {base = "old"}\n', 'model.base = "old"\n', '[model]\nbase = """\nold"""\n'])
def test_what_would_touch_more_is_refused_and_nothing_is_written(tmp_path: Path, text: str) -> None:
    path = tmp_path / "logtune.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"model\.base = .new. cannot be put into it"):
        set_values(path, "model", {"base": "new"})
    assert path.read_text() == text
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        set_values(tmp_path / "none.toml", "model", {"base": "new"})


@given(st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=40))
def test_any_value_comes_back(value: str) -> None:
    assert tomllib.loads(with_value(OURS, "model", "base", value))["model"]["base"] == value
