"""Records that lie on the disk before the store has them: two files in turn, emptied, and adopted after a crash."""

import os
from pathlib import Path

import pytest

from logtune.edges import ahead as module
from logtune.edges.ahead import Ahead
from logtune.edges.intake import Entry, entry
from logtune.edges.spool import Limits, Spool
from logtune.edges.spool_files import waiting
from logtune.testing import sample_log


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def ahead(folder: Path) -> Ahead:
    found = Ahead(folder)
    found.open()
    return found


def made(name: str, size: int = 1) -> Entry:
    return entry(sample_log(name, "q" * size, "a", at=1.0))


def adopted(folder: Path) -> list[object]:
    spool, found = Spool(folder, Limits()), list[object]()
    spool.adopt()
    while chunk := spool.chunk():
        found += [item.row[0] for item in chunk.entries]
        spool.done(chunk)
    spool.close()
    return found


def test_what_is_kept_is_there_for_the_next_process(ahead: Ahead, folder: Path) -> None:
    assert [ahead.keep(made(name)) for name in "abc"] == [0, 0, 0]
    ahead.turn()
    assert ahead.keep(made("d")) == 1
    assert ahead.close() == 4
    assert adopted(folder) == ["a", "b", "c", "d"]
    assert not list(folder.iterdir())


def test_a_living_process_is_not_taken_over(ahead: Ahead, folder: Path) -> None:
    ahead.keep(made("a"))
    assert adopted(folder) == []
    assert waiting(folder).records == 1


def test_a_file_is_emptied_when_all_of_it_has_found_its_place(ahead: Ahead, folder: Path) -> None:
    first, second = ahead.keep(made("a")), ahead.keep(made("b"))
    assert ahead.spent([first, second]) is None  # it takes what comes yet
    ahead.turn()
    third = ahead.keep(made("c"))
    assert third != first
    assert ahead.spent([first]) is None
    assert ahead.spent([first, second, None]) == first
    ahead.clear(0)
    ahead.settled(0)
    ahead.settled(0)
    assert waiting(folder).records == 1
    ahead.turn()
    assert ahead.keep(made("d")) == 0
    assert ahead.close() == 2
    assert adopted(folder) == ["d", "c"]


def test_files_turn_only_when_the_other_is_empty(ahead: Ahead) -> None:
    ahead.turn()
    assert ahead.keep(made("a")) == 0  # nothing was in it, so it stays
    ahead.turn()
    assert ahead.keep(made("b")) == 1
    ahead.turn()
    assert ahead.keep(made("c")) == 1


def test_nothing_is_left_when_all_is_stored(ahead: Ahead, folder: Path) -> None:
    number = ahead.keep(made("a"))
    assert number is not None
    ahead.settled(number)
    assert ahead.spent() is None
    ahead.turn()
    assert ahead.spent() == number
    assert ahead.close() == 0
    assert not list(folder.iterdir())


def test_a_record_too_long_waits_for_the_store(ahead: Ahead) -> None:
    assert ahead.keep(made("a", module.LARGEST + 1)) is None
    assert ahead.problem == ""


def test_a_file_takes_no_more_than_its_size(ahead: Ahead, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 100)
    assert ahead.keep(made("a")) == 0
    assert ahead.keep(made("b")) is None


def test_a_full_disk_leaves_no_half_record(ahead: Ahead, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ahead.keep(made("a"))
    write, calls = os.write, []

    def half(descriptor: int, line: bytes) -> int:
        calls.append(line)
        if len(calls) > 1:
            raise OSError("no space left")
        return write(descriptor, line[: len(line) // 2])

    monkeypatch.setattr(os, "write", half)
    assert ahead.keep(made("b")) is None
    assert ahead.problem == "no space left"
    monkeypatch.undo()
    assert ahead.keep(made("c")) is None  # the disk is left alone for a while
    monkeypatch.setattr(module, "PAUSE_S", 0.0)
    monkeypatch.setattr(ahead, "_not_before", 0.0)
    assert ahead.keep(made("d")) == 0
    ahead.close()
    assert adopted(folder) == ["a", "d"]


def test_what_is_emptied_late_is_nobody_elses_file(ahead: Ahead, tmp_path: Path) -> None:
    ahead.keep(made("a"))
    ahead.turn()
    ahead.close()
    others = [(tmp_path / name).open("w+") for name in "abcd"]  # they may have the numbers of our descriptors now
    for file in others:
        print("text", file=file, flush=True)
    ahead.clear(0)
    ahead.clear(1)
    for file in others:
        assert file.seek(0) == 0
        assert file.read() == "text\n"
        file.close()


def test_a_slow_disk_is_left_alone_for_a_while(ahead: Ahead, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLOW_S", 0.0)
    assert ahead.keep(made("a")) == 0
    assert ahead.keep(made("b")) is None


def test_without_its_files_it_keeps_nothing(folder: Path) -> None:
    ahead = Ahead(folder)
    assert ahead.keep(made("a")) is None
    assert ahead.close() == 0
    folder.write_text("no folder")
    with pytest.raises(OSError, match="spool"):
        ahead.open()
