"""Settings: what a file may hold, what wins, what an error names."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from logtune.config import PRESETS, Config, Settings, build, load
from logtune.errors import ConfigError
from logtune.records import Json

SECTIONS = {
    name: type(field.default) for name, field in Config.model_fields.items() if isinstance(field.default, Settings)
}
KEYS = [(section, key) for section, kind in SECTIONS.items() for key in kind.model_fields]


def written(text: str, name: str = "logtune.toml") -> Path:
    path = Path(name)
    path.write_text(text, encoding="utf-8")
    return path


def test_without_a_file_the_defaults_hold() -> None:
    assert load() == Config()


def test_the_file_of_the_working_folder_is_read() -> None:
    written("[train]\nepochs = 5\n")
    assert load().train.epochs == 5


@pytest.mark.parametrize(("section", "key"), KEYS, ids=lambda part: part)
def test_every_setting_is_described(section: str, key: str) -> None:
    assert SECTIONS[section].model_fields[key].description, "a docstring below the field"


@pytest.mark.parametrize("section", SECTIONS)
def test_every_section_is_described(section: str) -> None:
    assert SECTIONS[section].__doc__


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Config().train.epochs = 4


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.7, 0.4)])
def test_shares_that_leave_nobody_to_train_on_are_refused_as_they_were_given(shares: tuple[float, float]) -> None:
    said = rf"selection_share {shares[0]} and confirmation_share {shares[1]} leave nobody to train on"
    with pytest.raises(ConfigError, match=said):
        load(written("[evaluate]\nselection_share = {}\nconfirmation_share = {}\n".format(*shares)))


def test_a_table_where_a_value_belongs_is_refused_by_its_name() -> None:
    with pytest.raises(ConfigError, match=r"evaluate.min_cases = \{'a': 1\} is not allowed"):
        load(written("[evaluate]\nmin_cases = {a = 1}\n"))


# what wins


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGTUNE_TRAIN__EPOCHS", "7")
    assert load(written("[train]\nepochs = 5\nbatch = 4\n")).train == Config().train.model_copy(
        update={"epochs": 7, "batch": 4}
    )


def test_an_argument_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGTUNE_TRAIN__EPOCHS", "7")
    assert load(overrides={"train.epochs": 9}).train.epochs == 9


def test_a_variable_without_a_section_is_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGTUNE_VERSION", "7")
    assert load() == Config()


def test_a_refused_value_is_told_with_where_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "logtune.toml"
    file.write_text("[train]\nepochs = 0\nbatch = 8\n")
    with pytest.raises(ConfigError, match=r"^.*logtune.toml: train.epochs = 0 is not allowed"):
        load(file)
    with pytest.raises(ConfigError, match=r"^--set: train.epochs = -1 is not allowed"):
        load(file, {"train.epochs": -1})
    with pytest.raises(ConfigError, match=r"^--set: unknown key 'train.bacth'"):
        load(file, {"train.epochs": 3, "train.bacth": 4})
    monkeypatch.setenv("LOGTUNE_TRAIN__EPOCHS", "-7")
    with pytest.raises(ConfigError, match=r"^the environment: train.epochs = '-7' is not allowed"):
        load(file)


@pytest.mark.parametrize("preset", [name for name, sections in PRESETS.items() if sections])
def test_a_preset_changes_defaults(preset: str) -> None:
    made = build({"preset": preset})
    for section, values in PRESETS[preset].items():
        for key, value in values.items():
            assert made.model_dump(mode="json")[section][key] == value


def test_a_key_of_the_file_wins_over_its_preset() -> None:
    made = load(written('preset = "uno"\n[train]\nepochs = 2\n'))
    assert (made.train.epochs, made.train.max_rank) == (2, 64)


# what an error names


def refused(tree: dict[str, Json]) -> str:
    with pytest.raises(ConfigError) as caught:
        build(tree, "logtune.toml")
    return str(caught.value)


def test_an_unknown_key_is_named_with_the_closest_one() -> None:
    told = refused({"train": {"epoch": 5}})
    assert "unknown key 'train.epoch' (value 5)" in told
    assert "did you mean 'epochs'?" in told
    assert "learning_rate" in told, "the allowed keys"


def test_an_unknown_section_is_named() -> None:
    told = refused({"trian": {"epochs": 5}})
    assert "unknown key 'trian'" in told
    assert "did you mean 'train'?" in told


def test_a_wrong_type_names_key_and_value() -> None:
    assert "train.epochs = 'many' is not allowed" in refused({"train": {"epochs": "many"}})


@pytest.mark.parametrize(
    ("key", "value", "limit"),
    [
        ("train.budget", 0, "greater than 0"),
        ("train.epochs", 0, "greater than or equal to 1"),
        ("serve.port", 70000, "less than or equal to 65535"),
        ("evaluate.confidence", 1.0, "less than 1"),
        ("cluster.method", "kmeans", "'stable' or 'ward'"),
        ("preset", "fast", "'default', 'uno' or 'uno-single'"),
    ],
)
def test_an_impossible_value_names_key_value_and_what_is_allowed(key: str, value: Json, limit: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(overrides={key: value})
    assert f"{key} = {value!r} is not allowed" in str(caught.value)
    assert limit in str(caught.value)


@pytest.mark.parametrize("preset", ["uno", "uno-single"])
def test_the_papers_presets_train_whatever_there_is_and_the_better_one_serves(preset: str) -> None:
    made = build({"preset": preset})
    assert (made.train.min_pairs, made.ladder.worth) == (1, 0.0)


@pytest.mark.parametrize("key", ["spend.max_cost", "schedule.max_cost_30d"])
def test_a_limit_of_the_cost_needs_a_price(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"{key} = 0\.01 limits nothing") as caught:
        load(overrides={key: 0.01})
    assert "--max-calls" in caught.value.hint
    assert load(overrides={key: 0.01, "spend.completion_price": 2.0}).spend.completion_price == 2.0


def test_a_section_that_is_no_table_is_refused() -> None:
    assert "train = 3 is not allowed" in refused({"train": 3})


def test_a_missing_file_is_named_with_the_command_that_writes_one() -> None:
    with pytest.raises(ConfigError, match=r"there is no config file nowhere\.toml") as caught:
        load(Path("nowhere.toml"))
    assert "logtune init" in caught.value.hint


@pytest.mark.parametrize("content", [b"[train\nepochs = 5", b"\xff\xfe\x00", b"a = 1\na = 2"])
def test_a_file_that_is_no_toml_is_named(content: bytes) -> None:
    Path("broken.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"broken\.toml is not valid TOML"):
        load(Path("broken.toml"))


KEY = st.sampled_from(sorted({key for _, key in KEYS}))
VALUE = st.none() | st.integers() | st.text(max_size=5)
TREE = st.dictionaries(
    st.sampled_from([*SECTIONS, "preset", "other"]),
    VALUE | st.lists(st.integers(), max_size=2) | st.dictionaries(KEY, VALUE),
    max_size=4,
)


@given(TREE)
def test_any_tree_is_either_settings_or_a_config_error(tree: dict[str, Json]) -> None:
    try:
        made = build(tree)
    except ConfigError:
        return
    assert isinstance(made, Config)


# the hash that is stored beside every record


def test_what_changes_learning_changes_the_hash() -> None:
    assert build({"train": {"epochs": 5}}).config_hash != Config().config_hash


@pytest.mark.parametrize("tree", [{"store": {"url": "sqlite:///other.db"}}, {"serve": {"port": 1}}], ids=str)
def test_where_it_is_kept_and_served_does_not(tree: dict[str, Json]) -> None:
    assert build(tree).config_hash == Config().config_hash
