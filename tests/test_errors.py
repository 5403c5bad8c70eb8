"""The exception tree and what a message holds."""

import inspect

import pytest

from logtune import errors
from logtune.errors import KNOWN_ERROR, NOT_PASSED, ConfigError, LogtuneError, MissingExtra, NotPassed

TREE = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, LogtuneError)]


def test_a_message_says_what_happened_and_the_next_step() -> None:
    error = ConfigError("logtune.toml: train.epochs = 0 is not allowed", "write a number from 1")
    assert (error.what, error.hint) == ("logtune.toml: train.epochs = 0 is not allowed", "write a number from 1")
    assert str(error) == "logtune.toml: train.epochs = 0 is not allowed\n  write a number from 1"


def test_a_message_without_a_hint_is_one_line() -> None:
    assert str(LogtuneError("the store is gone")) == "the store is gone"


def test_a_missing_package_names_the_extra_that_brings_it() -> None:
    error = MissingExtra("trl", "train")
    assert "'trl'" in error.what
    assert error.hint == "pip install 'logtune[train]'"


def test_only_a_gate_that_was_not_passed_has_an_exit_code_of_its_own() -> None:
    assert {kind.exit_code for kind in TREE if not issubclass(kind, NotPassed)} == {KNOWN_ERROR}
    assert NotPassed.exit_code == NOT_PASSED == 3


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_every_error_stands_in_the_tree_of_the_module(kind: type[LogtuneError]) -> None:
    assert kind.__name__ in (errors.__doc__ or "")
    assert kind.__doc__, "what it means"
