"""Redaction where records are made: ids and their pseudonyms, imports, names, and what is learned of the gaps."""

import importlib.util
import json
import stat
from pathlib import Path

import pytest
from gateway_kit import gateway, post, settings

from logtune.app.cli import main
from logtune.app.redaction import LARGE, Redaction
from logtune.config import FilterSettings, build
from logtune.edges.names import PIECE, pieces, recogniser
from logtune.edges.pseudonyms import FILE, load_key, pseudonym
from logtune.edges.store import Store
from logtune.errors import ConfigError
from logtune.records import Interaction, Json
from logtune.stages.filter import decide
from logtune.stages.pairs import build as pair
from logtune.stages.redact import KINDS, Redactor
from logtune.stages.textchecks import check_text
from logtune.testing import WordEmbedder

CHAT = "/v1/chat/completions"
EMAIL, PHONE = "zelda@example.org", "4915112345678"


def body(**more: Json) -> bytes:
    return json.dumps({"model": "base", "messages": [{"role": "user", "content": f"I am {EMAIL}"}], **more}).encode()


# ids


def test_a_user_named_by_an_address_has_one_pseudonym_everywhere(tmp_path: Path) -> None:
    with gateway(tmp_path) as kit:
        post(kit.url, CHAT, body(user=EMAIL))
        post(kit.url, CHAT, body(metadata={"user_id": EMAIL.upper(), "session_id": PHONE}))
        post(kit.url, CHAT, body(), **{"x-user-id": EMAIL, "x-session-id": f"+{PHONE}"})
        status, _, answer = post(kit.url, "/v1/feedback", json.dumps({"user": EMAIL, "rating": "up"}).encode())
        records, said = kit.store.wait(3), list(kit.store.feedback())
    own = pseudonym(load_key(tmp_path), EMAIL)
    assert [record.user for record in records] == [own] * 3
    assert [record.user_source for record in records] == ["body.user", "metadata.user_id", "x-user-id"]
    assert records[0].request["user"] == own
    assert records[1].request["metadata"] == {"user_id": own, "session_id": records[1].session}
    assert str(records[1].session).startswith("pseudonym-")
    assert (status, json.loads(answer)["status"]) == (200, "stored")
    assert [(item.target_kind, item.target) for item in said] == [("user", own)]


def test_other_ids_stay_and_feedback_finds_them(tmp_path: Path) -> None:
    with gateway(tmp_path) as kit:
        post(kit.url, CHAT, body(user="u-17", metadata={"session_id": "s:2024-05-12"}))
        (record,) = kit.store.wait()
    assert (record.user, record.session) == ("u-17", "s:2024-05-12")


def test_a_conversation_without_an_id_is_the_same_in_every_turn_and_cannot_be_guessed(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "my pin is 1234"}, {"role": "assistant", "content": "a"},
             {"role": "user", "content": "b"}]  # fmt: skip
    sessions = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        with gateway(tmp_path / name) as kit:
            for count in (1, 3):
                post(kit.url, CHAT, json.dumps({"messages": turns[:count]}).encode())
            sessions.append({record.session for record in kit.store.wait(2)})
    assert all(len(found) == 1 and found.pop().startswith("prefix-") for found in map(set, sessions))  # type: ignore[union-attr]
    assert sessions[0] != sessions[1]  # another key, another hash


def test_feedback_of_a_trace_that_is_an_address_is_joined(tmp_path: Path) -> None:
    with gateway(tmp_path) as kit:
        post(kit.url, CHAT, body(), **{"x-portkey-trace-id": EMAIL})
        (record,) = kit.store.wait()
        given = {"trace_id": EMAIL, "rating": "up", "id": EMAIL, "supersedes": PHONE, "comment": f"no, {EMAIL}"}
        assert post(kit.url, "/v1/feedback", json.dumps(given).encode())[0] == 200
        (said,) = kit.store.feedback()
    assert said.target == record.id
    assert said.comment == "no, [email]"
    assert EMAIL not in repr(said)
    assert PHONE not in repr(said)


def test_the_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    home = tmp_path / "new" / "home"
    key = load_key(home)
    assert load_key(home) == key
    assert stat.S_IMODE((home / FILE).stat().st_mode) == 0o600
    assert [path.name for path in home.iterdir()] == [FILE]
    assert pseudonym(key, " Zelda@Example.org") == pseudonym(key, EMAIL) != pseudonym(load_key(tmp_path), EMAIL)


def test_a_damaged_key_is_an_error_with_the_next_step(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"short")
    with pytest.raises(ConfigError, match="has 5 bytes") as error:
        load_key(tmp_path)
    assert "backup" in str(error.value.hint)
    with pytest.raises(ConfigError, match="cannot be used"):
        load_key(tmp_path / FILE)


# what is kept


def test_redaction_can_be_switched_off(tmp_path: Path) -> None:
    config = build({"store": {"home": str(tmp_path)}, "redact": {"kinds": [], "files": "keep"}})
    assert Redaction.of(config).text(EMAIL) == EMAIL
    assert Redaction.of(config).name(EMAIL) == EMAIL
    assert not (tmp_path / FILE).exists()


def test_a_record_that_cannot_be_read_is_kept_without_its_text() -> None:
    def fails(text: str) -> list[tuple[int, int]]:
        raise ValueError(text)

    redaction = Redaction(Redactor(kinds=KINDS, names=fails), b"k" * 32)
    assert redaction.request({"messages": [EMAIL], "user": "u"}) == {"not_redacted": "ValueError", "user": "u"}
    assert redaction.response({"choices": []}) == {"choices": []}


def test_of_an_error_no_half_of_an_address_stays(tmp_path: Path) -> None:
    redaction = Redaction.of(settings(tmp_path))
    for length in range(280, 310):
        told = redaction.error("x" * length + " " + EMAIL)
        assert told is not None
        assert "zel" not in told


async def test_large_records_are_made_in_a_thread(tmp_path: Path) -> None:
    import threading

    redaction = Redaction.of(settings(tmp_path))
    assert await redaction.made(LARGE, threading.get_ident) == threading.get_ident()
    assert await redaction.made(LARGE + 1, threading.get_ident) != threading.get_ident()


# of files


def test_an_import_redacts_records_feedback_and_rejected_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = {"id": "l1", "request": {"messages": [{"role": "user", "content": f"I am {EMAIL}"}]}, "user": EMAIL,
           "answer": f"hello {EMAIL}", "feedback": [{"rating": "down", "correction": f"hi {EMAIL}"}]}  # fmt: skip
    bad = {"request": {"messages": []}, "note": f"{'x' * 180} {EMAIL}"}
    wrong = {"log_id": "l1", "rating": EMAIL}
    lines = [
        json.dumps(log),
        json.dumps(bad),
        json.dumps(wrong),
        f"{{{EMAIL}",
        json.dumps({"user": EMAIL, "rating": 1}),
    ]
    (tmp_path / "logs.jsonl").write_text("\n".join(lines))
    store = [f"--set=store.home={tmp_path}", f"--set=store.url=sqlite:///{tmp_path}/l.db"]
    for _ in range(2):
        assert main(["import", str(tmp_path / "logs.jsonl"), "--json", *store]) == 0
    opened = Store(f"sqlite:///{tmp_path}/l.db")
    (record,), said = list(opened.logs()), list(opened.feedback())
    opened.close()
    assert record.user == pseudonym(load_key(tmp_path), EMAIL)
    assert {item.correction for item in said} == {"hi [email]", None}
    assert {item.target for item in said} == {"l1", record.user}
    assert "zelda" not in capsys.readouterr().out
    assert not [path for path in tmp_path.glob("l.db*") if b"zelda" in path.read_bytes()]


# names


@pytest.mark.skipif(importlib.util.find_spec("presidio_analyzer") is not None, reason="Presidio is installed here")
def test_without_presidio_the_gateway_does_not_start_and_says_why(tmp_path: Path) -> None:
    config = build({"store": {"home": str(tmp_path)}, "redact": {"names": "presidio"}})
    with pytest.raises(ConfigError, match="Presidio is not installed") as error:
        Redaction.of(config)
    assert "pip install 'logtune[presidio]'" in str(error.value.hint)


def test_names_are_found_by_presidio_with_a_pipeline(tmp_path: Path) -> None:
    pytest.importorskip("presidio_analyzer", reason="Presidio is not installed here (extra presidio)")
    spacy = pytest.importorskip("spacy")
    pipeline = spacy.blank("en")
    pipeline.add_pipe("entity_ruler").add_patterns([{"label": "PERSON", "pattern": "Zelda Quux"}])
    pipeline.to_disk(tmp_path / "pipeline")
    config = build({
        "store": {"home": str(tmp_path)}, "redact": {"names": "presidio", "names_model": str(tmp_path / "pipeline")}
    })  # fmt: skip
    assert Redaction.of(config).text(f"Zelda Quux, {EMAIL}") == "[name], [email]"
    with pytest.raises(ConfigError, match="there is no such spaCy pipeline"):
        recogniser("en_core_web_nowhere")


def test_a_long_text_is_read_for_names_in_overlapping_pieces() -> None:
    text = "a" * (2 * PIECE)
    read = list(pieces(text))
    assert all(text[start : start + len(piece)] == piece and len(piece) <= PIECE for start, piece in read)
    assert read[-1][0] + len(read[-1][1]) == len(text)
    assert list(pieces("short")) == [(0, "short")]
    assert list(pieces("12:30")) == []


# learning


@pytest.mark.parametrize(("query", "answer"), [
    ("what does [file: image/png, 3000 characters] show", "done"), ("what is my balance", "your card [card] has 5"),
    ("what does the picture show", "[file: image/png, 3000 characters]"), ("who am I", "you are [name]"),
])  # fmt: skip
def test_what_was_cut_out_teaches_nothing_as_what_stood_there_would(query: str, answer: str) -> None:
    found = check_text(query, answer, FilterSettings())
    assert found is not None
    assert found.reason == "personal_data"
    assert check_text(query, answer, FilterSettings(personal_data="keep")) is None


@pytest.mark.parametrize("query", ["send it to [email] please", "card [card] was declined, call [phone]"])
def test_a_query_without_what_was_cut_out_of_it_may_teach(query: str) -> None:
    assert check_text(query, "It is on its way.", FilterSettings()) is None
    assert check_text(query, "Sent to [email].", FilterSettings()) is not None


def test_a_name_in_a_request_does_no_harm() -> None:
    assert check_text("write a letter to [name] about the late parcel", "Dear customer", FilterSettings()) is None


def interaction(query: str, answer: str) -> Interaction:
    return Interaction(
        id="i", log_id="l", context=(), query=query, answer=answer, follow_ups=(), feedback_ids=(), user=None,
        session=None, adapter=None, at=0.0,
    )  # fmt: skip


def test_a_placeholder_is_never_the_better_answer_whatever_the_filter_keeps() -> None:
    asked = interaction("who do I write to", "nobody")
    assert pair(asked, (), "write to [email]", "nobody", "edit") is None
    assert pair(asked, (), "write to us", "nobody, [email]", "edit") is not None


def test_a_correction_with_a_gap_is_personal_data() -> None:
    from logtune.records import Signal

    asked = interaction("which address do I write to", "to nobody")
    said = Signal(
        id="s", interaction_id="i", feedback_id=None, kind="edit", polarity=-1.0, confidence=1.0, evidence="no",
        correction="write to [email]", detector="t",
    )  # fmt: skip
    vectors = WordEmbedder().embed([asked.query])
    (decision,) = decide([asked], {"i": [said]}, vectors, [None], FilterSettings())
    assert (decision.teaches, decision.reason) == ("nothing", "personal_data")
    assert decision.scores == {"feedback_email": 1.0}
