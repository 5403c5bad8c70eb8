"""The spool: records on disk while the store is down; order, bounds, torn tails, processes that die at any point."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logtune.edges.intake import Entry, entry
from logtune.edges.spool import Kept, Limits, Spool
from logtune.edges.spool_files import Owner, Waiting, frame, owners, unframe, waiting
from logtune.edges.store import Store
from logtune.records import Feedback, LogRecord
from logtune.testing import sample_log

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = {**os.environ, "PYTHONPATH": str(ROOT)}


def entries(*names: str, size: int = 1) -> list[Entry]:
    return [entry(sample_log(name, "q" * size, "a")) for name in names]


def many(number: int, start: int = 0, size: int = 1) -> list[Entry]:
    return entries(*(f"l{number:05d}" for number in range(start, start + number)), size=size)


def ids(found: Sequence[Entry]) -> list[object]:
    return [item.row[0] for item in found]


def drained(spool: Spool) -> list[object]:
    found = []
    while (chunk := spool.chunk()) is not None:
        found += ids(chunk.entries)
        spool.done(chunk)
    return found


class NoDisk:
    """A folder that cannot be made until `mended`: its parent is a file."""

    def __init__(self, folder: Path) -> None:
        self.blocker = folder / "blocked"
        self.blocker.write_text("")
        self.folder = self.blocker / "spool"

    def mend(self) -> None:
        self.blocker.unlink()


@given(st.text(st.characters(codec=None)), st.text(st.characters(codec=None), max_size=5), st.floats(0, 2e9))
def test_a_record_comes_back_from_its_line_exactly(text: str, name: str, at: float) -> None:
    record = LogRecord(id=name, request={"x": text}, response={"id": text}, at=at, user=text, traces=(text,))
    line = frame(entry(record))
    assert line.count(b"\n") == 1
    assert unframe(line) == entry(record)
    feedback = Feedback(id=name, target=text, at=at, comment=text)
    assert unframe(frame(entry(feedback))) == entry(feedback)


@given(st.binary())
def test_any_other_line_is_told_from_a_record(line: bytes) -> None:
    assert unframe(line) is None
    assert unframe(line + b"\n") is None


@given(st.integers(0, 300), st.integers(1, 255))
def test_a_changed_byte_is_noticed(place: int, change: int) -> None:
    line = bytearray(frame(entries("a")[0]))
    line[place % len(line)] ^= change
    assert unframe(bytes(line)) is None


def test_a_line_of_another_version_is_read_by_its_record(tmp_path: Path) -> None:
    item = entries("a")[0]
    assert unframe(frame(replace(item, row=("a", 1.0, item.body)))) == item
    assert unframe(frame(replace(item, row=("a", 1.0, '{"id": "a"}')))) is None


def test_records_come_out_in_the_order_they_went_in(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", Limits())
    assert spool.empty
    assert spool.chunk() is None
    assert spool.append(many(150)) == [Kept.SPOOLED] * 150
    spool.append(many(350, 150))
    assert (spool.records, spool.empty) == (500, False)
    assert spool.bytes == sum(path.stat().st_size for path in (tmp_path / "spool").glob("*.spool"))
    chunk = spool.chunk()
    assert chunk is not None
    spool.append(many(10, 500))  # while a chunk is on its way
    assert ids(chunk.entries) == ids(many(200))
    spool.done(chunk)
    assert drained(spool) == ids(many(310, 200))
    assert (spool.records, spool.bytes, spool.empty, spool.dropped) == (0, 0, True, 0)
    assert not list((tmp_path / "spool").glob("*.spool"))
    assert spool.close() == 0
    assert not list((tmp_path / "spool").iterdir())


def test_what_was_not_stored_is_found_again(tmp_path: Path) -> None:
    first = Spool(tmp_path, Limits(disk_bytes=4 << 20))
    for start in range(0, 2000, 100):  # several files
        first.append(many(100, start, size=100))
    chunk = first.chunk()
    assert chunk is not None
    first.done(chunk)
    first.close()
    second = Spool(tmp_path, Limits())
    assert len(list(tmp_path.glob("*.spool"))) > 3
    assert second.adopt() == 2000  # of a file that was stored in part everything is stored again
    second.append(entries("new"))
    assert drained(second) == [*ids(many(2000)), "new"]
    second.close()
    assert not list(tmp_path.iterdir())


def test_the_spool_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    first, second = Spool(tmp_path, Limits()), Spool(tmp_path, Limits())
    first.append(entries("a"))
    assert second.adopt() == 0
    second.append(entries("b"))
    assert (drained(first), drained(second)) == (["a"], ["b"])
    first.append(entries("c"))
    first.close()
    second.append(entries("d"))
    assert second.adopt() == 1
    assert second.adopt() == 0
    assert drained(second) == ["d", "c"]
    second.close()


def test_a_file_without_its_lock_and_a_lock_without_its_files_are_taken_too(tmp_path: Path) -> None:
    (tmp_path / "00000000000000000001-aa.000001.spool").write_bytes(frame(entries("a")[0]))
    (tmp_path / "00000000000000000002-bb.lock").write_bytes(b"")
    spool = Spool(tmp_path, Limits())
    assert spool.adopt() == 1
    assert owners(tmp_path) == ["00000000000000000001-aa"]
    assert drained(spool) == ["a"]
    spool.close()
    assert not list(tmp_path.iterdir())


def test_a_lock_is_had_by_one(tmp_path: Path) -> None:
    first = Owner.new(tmp_path)
    assert Owner.claim(tmp_path, first.name) is None
    first.release(done=False)
    again = Owner.claim(tmp_path, first.name)
    assert again is not None
    again.release(done=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("cut", [1, 20, 150])
def test_a_line_that_was_cut_short_is_no_record_and_hides_none(tmp_path: Path, cut: int) -> None:
    first = Spool(tmp_path, Limits())
    first.append(entries("a", "b"))
    first.close()
    (path,) = tmp_path.glob("*.spool")
    path.write_bytes(path.read_bytes()[:-cut])
    second = Spool(tmp_path, Limits())
    second.adopt()
    second.append(entries("c"))
    assert drained(second) == ["a", "c"]
    assert second.dropped == 0  # nobody was told that it is kept
    second.close()


def test_a_damaged_line_is_counted_and_the_others_live(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = Spool(tmp_path, Limits())
    first.append(entries("a", "b", "c"))
    first.close()
    (path,) = tmp_path.glob("*.spool")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"0" + lines[1][1:-2] + b"\n" + lines[2])
    second = Spool(tmp_path, Limits())
    second.adopt()
    assert drained(second) == ["a", "c"]
    assert (second.dropped, second.records) == (1, 0)
    assert "1 lines are damaged" in caplog.text
    second.close()


def test_a_file_of_nothing_but_damage_is_gone_through(tmp_path: Path) -> None:
    (tmp_path / "00000000000000000001-aa.000001.spool").write_bytes(b"\n" * 1000)
    spool = Spool(tmp_path, Limits())
    spool.adopt()
    assert spool.chunk() is None
    assert spool.empty
    spool.close()


def test_a_file_that_vanishes_holds_up_nobody(tmp_path: Path) -> None:
    spool = Spool(tmp_path, Limits())
    spool.append(entries("a"))
    for path in tmp_path.glob("*.spool"):
        path.unlink()
    spool.append(entries("b"))
    assert drained(spool) == []
    spool.append(entries("c"))
    assert drained(spool) == ["c"]
    assert spool.dropped == 2
    spool.close()


# full


def lines_of(names: int) -> int:
    return sum(len(frame(item)) for item in many(names))


@pytest.mark.parametrize("full", ["drop_new", "refuse"])
def test_a_full_spool_takes_nothing_new(tmp_path: Path, full: str) -> None:
    spool = Spool(tmp_path, Limits(disk_bytes=lines_of(50), full=full))  # type: ignore[arg-type]
    assert not spool.nearly_full
    assert spool.append(many(60)) == [Kept.SPOOLED] * 50 + [Kept.DROPPED] * 10
    assert (spool.records, spool.dropped, spool.bytes) == (50, 10, lines_of(50))
    assert spool.nearly_full
    assert drained(spool) == ids(many(50))
    assert spool.append(entries("x")) == [Kept.SPOOLED]
    spool.close()


def test_the_oldest_file_gives_way(tmp_path: Path) -> None:
    spool = Spool(tmp_path, Limits(disk_bytes=lines_of(160), full="drop_old"))
    for start in range(0, 400, 10):
        assert spool.append(many(10, start)) == [Kept.SPOOLED] * 10
    assert spool.bytes <= lines_of(160)
    kept = drained(spool)
    assert kept == ids(many(400))[-len(kept) :]
    assert len(kept) >= 140
    assert spool.dropped == 400 - len(kept)
    assert spool.append(entries("x", size=lines_of(200))) == [Kept.DROPPED]
    spool.close()


def test_a_chunk_under_way_may_be_dropped(tmp_path: Path) -> None:
    spool = Spool(tmp_path, Limits(disk_bytes=lines_of(16), full="drop_old"))
    for start in range(16):
        spool.append(many(1, start))
    chunk = spool.chunk()
    assert chunk is not None
    spool.append(many(16, 16))
    spool.done(chunk)
    assert drained(spool) == ids(many(16, 16))
    spool.close()


def test_a_disk_that_fails_leaves_records_in_memory_in_order(tmp_path: Path) -> None:
    disk = NoDisk(tmp_path)
    spool = Spool(disk.folder, Limits())
    assert spool.append(entries("a", "b")) == [Kept.HELD] * 2
    assert spool.append(entries("c")) == [Kept.HELD]
    assert spool.problem
    assert (spool.records, spool.held, spool.bytes) == (3, 3, 0)
    disk.mend()
    chunk = spool.chunk()
    assert chunk is not None
    assert ids(chunk.entries) == ["a", "b", "c"]
    assert spool.close() == 0  # what is in memory goes to the disk
    spool.done(chunk)
    assert waiting(disk.folder).records == 3


def test_memory_goes_to_the_disk_as_soon_as_that_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logtune.edges.spool.RETRY_S", 0.0)
    disk = NoDisk(tmp_path)
    spool = Spool(disk.folder, Limits())
    spool.append(many(500))
    chunk = spool.chunk()
    disk.mend()
    assert spool.append(many(2, 500)) == [Kept.SPOOLED] * 2
    assert (spool.held, spool.held_bytes, spool.records, spool.problem) == (0, 0, 502, "")
    assert chunk is not None
    spool.done(chunk)  # these are on the disk too by now
    assert drained(spool) == ids(many(502))
    spool.close()


def test_memory_is_bounded_too(tmp_path: Path) -> None:
    disk = NoDisk(tmp_path)
    spool = Spool(disk.folder, Limits(records=3))
    assert spool.append(many(5)) == [Kept.HELD] * 3 + [Kept.DROPPED] * 2
    assert (spool.records, spool.dropped, spool.nearly_full) == (3, 2, True)
    size = many(1)[0].size
    old = Spool(disk.folder, Limits(bytes=3 * size + 10, full="drop_old"))
    old.append(many(5))
    assert (drained(old), old.dropped) == (ids(many(3, 2)), 2)
    assert spool.close() == 3
    assert spool.dropped == 5


def test_a_write_that_ends_in_the_middle_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path, Limits())
    spool.append(entries("a"))
    write, left = os.write, [50]

    def full_disk(descriptor: int, data: bytes) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[: left.pop()]) + (left.append(0) or 0)

    with monkeypatch.context() as patched:
        patched.setattr("logtune.edges.spool.os.write", full_disk)
        assert spool.append(entries("b")) == [Kept.HELD]
    assert "No space left" in spool.problem
    assert drained(spool) == ["a", "b"]
    spool.append(entries("c"))
    assert drained(spool) == ["c"]
    spool.close()


def test_what_the_store_refuses_is_kept_for_people(tmp_path: Path) -> None:
    odd = entries("\ud800")[0]
    spool = Spool(tmp_path, Limits(disk_bytes=8 * 2 * len(odd.body)))
    assert spool.reject(odd, 'a "bad" value') is Kept.REJECTED
    assert '"reason":"a \\"bad\\" value","kind":"log","record":{"id":' in (tmp_path / "rejected.jsonl").read_text(
        encoding="utf-8", errors="surrogatepass"
    )
    assert spool.reject(entries("b")[0], "bad") is Kept.DROPPED  # the file has a limit too
    assert (spool.rejected, spool.dropped) == (2, 1)
    assert Spool(None, Limits()).reject(entries("c")[0], "bad") is Kept.DROPPED
    spool.close()
    assert waiting(tmp_path) == Waiting(rejected=1)


def test_no_folder_is_memory_alone() -> None:
    spool = Spool(None, Limits())
    assert spool.adopt() == 0
    assert spool.append(entries("a")) == [Kept.HELD]
    assert drained(spool) == ["a"]
    spool.append(entries("b"))
    assert spool.close() == 1


def test_only_what_is_in_the_store_counts_as_true() -> None:
    assert [kept for kept in Kept if kept] == [Kept.STORED]


def test_what_waits_is_told_without_a_lock(tmp_path: Path) -> None:
    assert waiting(tmp_path / "none") == Waiting()
    spool = Spool(tmp_path, Limits())
    spool.append(many(3))
    assert waiting(tmp_path) == Waiting(records=3, bytes=spool.bytes)
    spool.close()


# processes that die

WRITER = """
import sys
from pathlib import Path
from logtune.edges.intake import entry
from logtune.edges.spool import Limits, Spool
from logtune.edges.store import Store
from logtune.testing import sample_log
folder, name = Path(sys.argv[1]), sys.argv[2]
spool, store = Spool(folder / "spool", Limits(disk_bytes=1 << 20)), Store(f"sqlite:///{folder / 'logtune.db'}")
spool.adopt()
for number in range(100_000):
    batch = [f"{name}-{number}-{part}" for part in range(5)]
    kept = spool.append([entry(sample_log(record, "q" * 200, "a")) for record in batch])
    print(*(record for record, where in zip(batch, kept) if where.value == "spooled"), flush=True)
    if number % 3 == 0 and (chunk := spool.chunk()):
        store.put(chunk.entries)
        spool.done(chunk)
"""


def test_killed_at_any_point_of_spooling_and_draining_nothing_is_lost(tmp_path: Path) -> None:
    told: set[str] = set()
    for life in range(3):  # each takes over what the one before left
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(life)], stdout=subprocess.PIPE, text=True, env=OUTSIDE
        )
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(40 + 7 * life)]
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate()
        told |= {name for line in [*lines, *rest.splitlines()[:-1]] for name in line.split()}
    spool, store = Spool(tmp_path / "spool", Limits()), Store(f"sqlite:///{tmp_path / 'logtune.db'}")
    spool.adopt()
    while chunk := spool.chunk():
        store.put(chunk.entries)
        spool.done(chunk)
    stored = {record.id for record in store.logs()}
    spool.close()
    store.close()
    assert len(told) > 600
    assert told <= stored
    assert not list((tmp_path / "spool").iterdir())
