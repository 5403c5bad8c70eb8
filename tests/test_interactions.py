"""Joining: whose words follow which answer, however sessions, clients and feedback are mixed."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logtune.records import Feedback, Interaction, Json, LogRecord, Message
from logtune.stages.interactions import SAME_TALK_S, answer_text, join, request_messages

START = 1_750_000_000.0


def response(*texts: Json) -> dict[str, Json]:
    return {"choices": [{"index": i, "message": {"role": "assistant", "content": t}} for i, t in enumerate(texts)]}


def log(log_id: str, turns: str | list[str], answer: str | None, at: float = 0.0, **fields) -> LogRecord:
    """A log whose messages are `turns`: user, assistant, user and so on; a role may be told as "system: ..."."""
    messages: list[Json] = []
    for text in [turns] if isinstance(turns, str) else turns:
        told, _, rest = text.partition(": ")
        role = told if told in ("system", "tool") else "assistant" if _is_user(messages) else "user"
        messages.append({"role": role, "content": rest if role == told else text})
    given_fields = {"user": None, "session": None, **fields}
    answered = None if answer is None else response(answer)
    return LogRecord(id=log_id, request={"messages": messages}, response=answered, at=START + at, **given_fields)


def _is_user(messages: list[Json]) -> bool:
    return bool(messages) and isinstance(messages[-1], dict) and messages[-1]["role"] == "user"


def by_log(logs: list[LogRecord], feedback: list[Feedback] | None = None) -> dict[str, Interaction]:
    return {item.log_id: item for item in join(logs, feedback or [])}


def said_after(found: dict[str, Interaction]) -> dict[str, list[str]]:
    return {log_id: [f.text for f in item.follow_ups] for log_id, item in found.items()}


def feedback(name: str, target: str, at: float = 100.0, **fields) -> Feedback:
    return Feedback(id=name, target=target, at=START + at, **{"value": -1.0, **fields})


# --- conversations that send their history ---


def test_a_turn_follows_the_answer_it_sends_back() -> None:
    found = by_log(
        [
            log("1", ["system: be kind", "q1"], "a1", 0, user="u"),
            log("2", ["system: be kind", "q1", "a1", "no, wrong"], "a2", 9, user="u"),
            log("3", ["system: be kind", "q1", "a1", "no, wrong", "a2", "thanks"], "a3", 20, user="u"),
        ]
    )
    assert said_after(found) == {"1": ["no, wrong"], "2": ["thanks"], "3": []}
    assert found["1"].follow_ups[0].answer == "a2"
    assert found["1"].follow_ups[0].log_id == "2"
    assert found["1"].follow_ups[0].edited is None
    assert found["2"].query == "no, wrong"
    assert [m.role for m in found["2"].context] == ["system", "user", "assistant"]


def test_interleaved_sessions_come_apart() -> None:
    logs = []
    for turn in range(3):
        for user in "ab":
            talk = [text for i in range(turn) for text in (f"q{i}", f"{user}{i}")]
            logs.append(log(f"{user}{turn}", [*talk, f"q{turn}"], f"{user}{turn}", len(logs), user=user, session="1"))
    found = by_log(logs)
    assert [f.log_id for item in found.values() for f in item.follow_ups] == ["a1", "b1", "a2", "b2"]
    assert all(item.follow_ups[0].log_id[0] == name[0] for name, item in found.items() if item.follow_ups)


def test_users_with_the_same_session_name_and_the_same_words_stay_apart() -> None:
    found = by_log(
        [
            log("a", "hi", "hello", 0, user="a", session="default"),
            log("b", "hi", "hello", 1, user="b", session="default"),
            log("a2", ["hi", "hello", "you are wrong"], "sorry", 2, user="a", session="default"),
        ]
    )
    assert said_after(found) == {"a": ["you are wrong"], "b": [], "a2": []}


def test_a_user_who_logs_in_during_a_session_is_still_one() -> None:
    found = by_log(
        [
            log("1", "hi", "hello", 0, session="s"),
            log("2", ["hi", "hello", "wrong"], "sorry", 1, user="a", session="s"),
        ]
    )
    assert said_after(found)["1"] == ["wrong"]


def test_each_request_with_a_session_of_its_own_is_joined_by_its_user() -> None:
    found = by_log(
        [
            log("1", "q", "a", 0, user="u", session="trace-1"),
            log("2", ["q", "a", "wrong"], "b", 1, user="u", session="trace-2"),
            log("3", ["q", "other", "wrong"], "b", 2, user="u", session="trace-3"),  # sure enough for no edit
        ]
    )
    assert said_after(found) == {"1": ["wrong"], "2": [], "3": []}


def test_anonymous_clients_are_joined_by_content_alone() -> None:
    found = by_log([log("1", "q", "a"), log("2", "p", "b", 1), log("3", ["q", "a", "why?"], "c", 2)])
    assert said_after(found) == {"1": ["why?"], "2": [], "3": []}


def test_several_answers_to_one_request_each_get_their_own_follow_up() -> None:
    found = by_log(
        [
            log("first", "q", "a1", 0, user="u", session="s"),
            log("again", "q", "a2", 5, user="u", session="s"),
            log("next", ["q", "a1", "still wrong"], "x", 9, user="u", session="s"),
        ]
    )
    assert len(found) == 3
    assert said_after(found) == {"first": ["still wrong"], "again": [], "next": []}


def test_of_equal_answers_the_last_is_the_one_on_the_users_screen() -> None:
    found = by_log(
        [log("1", "q", "a", user="u"), log("2", "q", "a", 5, user="u"), log("3", ["q", "a", "no"], "b", 9, user="u")]
    )
    assert said_after(found) == {"1": [], "2": ["no"], "3": []}


def test_an_answer_made_again_does_not_say_the_users_words_twice() -> None:
    talk = ["q", "a", "wrong"]
    found = by_log([log("1", "q", "a", user="u"), log("2", talk, "b", 1, user="u"), log("3", talk, "c", 2, user="u")])
    assert [(f.text, f.log_id) for f in found["1"].follow_ups] == [("wrong", "2")]


def test_a_conversation_with_two_branches_has_both_follow_ups() -> None:
    found = by_log(
        [
            log("1", "q", "a", user="u"),
            log("2", ["q", "a", "x"], "b", 1, user="u"),
            log("3", ["q", "a", "y"], "c", 2, user="u"),
        ]
    )
    assert said_after(found)["1"] == ["x", "y"]


def test_an_edited_history_tells_what_the_user_made_of_the_answer() -> None:
    found = by_log(
        [
            log("1", "q", "card_arrival", 0, user="u", session="s"),
            log("2", ["q", "card_not_working", "and now?"], "b", 5, user="u", session="s"),
        ]
    )
    assert found["1"].follow_ups[0].edited == "card_not_working"
    assert found["1"].answer == "card_arrival"


@pytest.mark.parametrize("sent_back", [" a long answer ", "a long\nanswer", "a long answer"])
def test_white_space_is_no_edit(sent_back: str) -> None:
    found = by_log([log("1", "q", "a long answer ", user="u"), log("2", ["q", sent_back, "x"], "b", 1, user="u")])
    assert found["1"].follow_ups[0].edited is None


def test_another_choice_of_the_same_response_is_no_edit() -> None:
    first = replace(log("1", "q", "a", user="u"), response=response("a", "b"))
    found = by_log([first, log("2", ["q", "b", "x"], "c", 1, user="u")])
    assert found["1"].answer == "a"
    assert found["1"].follow_ups[0].edited is None


@pytest.mark.parametrize(("after_s", "known"), [(60.0, True), (SAME_TALK_S + 1, False)])
def test_an_anonymous_edit_counts_only_soon_after(after_s: float, known: bool) -> None:
    prefix = {"session": "prefix-1", "session_source": "prefix"}  # equal first messages: maybe another person
    found = by_log([log("1", "q", "a", **prefix), log("2", ["q", "b", "x"], "c", after_s, **prefix)])
    assert [f.edited for f in found["1"].follow_ups] == (["b"] if known else [])


def test_an_edit_needs_an_answer_that_was_given() -> None:
    found = by_log([log("1", "q", None, user="u"), log("2", ["q", "I typed this", "x"], "b", 1, user="u")])
    assert said_after(found) == {"2": []}


def test_a_system_prompt_with_the_time_of_day_joins_all_the_same() -> None:
    found = by_log(
        [
            log("1", ["system: it is 12:00", "q"], "a", 0, user="u"),
            log("2", ["system: it is 12:01", "q", "a", "wrong"], "b", 60, user="u"),
        ]
    )
    assert said_after(found)["1"] == ["wrong"]


def test_a_client_that_sends_only_the_last_turns_is_joined_by_its_session() -> None:
    found = by_log(
        [
            log("1", ["q0", "a0", "q1"], "a1", 0, session="s"),
            log("2", ["q1", "a1", "wrong"], "b", 9, session="s"),
            log("3", ["wrong", "b", "better"], "c", 9 + SAME_TALK_S + 1, session="s"),  # too late to be sure
        ]
    )
    assert said_after(found) == {"1": ["wrong"], "2": [], "3": []}


def test_the_output_of_a_tool_is_nobodys_opinion() -> None:
    logs = [
        log("1", "what is the weather", "let me look", user="u", session="s"),
        log("2", ["what is the weather", "let me look", "tool: error: wrong"], "rain", 1, user="u", session="s"),
    ]
    assert said_after(by_log(logs)) == {"1": []}


# --- clients that send no history ---


def test_without_history_the_session_and_the_time_join() -> None:
    found = by_log(
        [
            log("1", "q", "a", 0, session="s"),
            log("other", "q", "a", 5, session="t"),
            log("2", "no, that is wrong", "b", 30, session="s"),
            log("3", "a new matter", "c", 31 + SAME_TALK_S, session="s"),
        ]
    )
    assert said_after(found) == {"1": ["no, that is wrong"], "other": [], "2": [], "3": []}
    assert found["1"].follow_ups[0].edited is None


def test_without_session_nothing_is_joined_by_time() -> None:
    assert said_after(by_log([log("1", "q", "a", user="u"), log("2", "wrong", "b", 1, user="u")])) == {"1": [], "2": []}


def test_the_same_request_again_is_no_reaction_when_the_client_sends_its_history() -> None:
    """A regenerated first answer looks like a user who repeats himself, unless the client is known to send history."""
    again = [log("1", "q", "a", 0, session="s"), log("2", "q", "b", 5, session="s")]
    assert said_after(by_log(again)) == {"1": ["q"], "2": []}
    assert said_after(by_log([*again, log("3", ["q", "b", "good"], "c", 9, session="s")])) == {
        "1": [],
        "2": ["good"],
        "3": [],
    }


def test_equal_first_messages_are_no_session() -> None:
    prefix = {"session": "prefix-1", "session_source": "prefix"}
    assert said_after(by_log([log("1", "q", "a", 0, **prefix), log("2", "q", "a", 5, **prefix)])) == {"1": [], "2": []}


def test_a_missing_answer_breaks_nothing() -> None:
    found = by_log(
        [
            log("1", "q", "a", 0, session="s"),
            log("2", "wrong", None, 5, session="s", error="timeout"),
            log("3", "wrong!", "b", 9, session="s"),
        ]
    )
    assert said_after(found) == {"1": ["wrong"], "3": []}
    assert found["1"].follow_ups[0].answer is None


# --- feedback ---


def test_feedback_on_a_record_in_the_order_of_time() -> None:
    found = by_log([log("1", "q", "a")], [feedback("late", "1", 9), feedback("early", "1", 2), feedback("x", "nobody")])
    assert found["1"].feedback_ids == ("early", "late")


def test_feedback_on_a_session_or_user_counts_for_the_last_answer_before_it() -> None:
    logs = [
        log("1", "q", "a", 0, user="u", session="s"),
        log("2", "p", "b", 10, user="u", session="s"),
        log("3", "failed", None, 11, user="u", session="s"),
        log("4", "r", "c", 50, user="u", session="t"),
    ]
    items = [
        feedback("before", "s", -1, target_kind="session"),
        feedback("between", "s", 5, target_kind="session"),
        feedback("on time", "s", 10, target_kind="session"),
        feedback("after", "s", 99, target_kind="session"),
        feedback("user", "u", 60, target_kind="user"),
        feedback("unknown", "w", 60, target_kind="user"),
    ]
    found = by_log(logs, items)
    assert {name: item.feedback_ids for name, item in found.items()} == {
        "1": ("between",),
        "2": ("on time", "after"),
        "4": ("user",),
    }


def test_feedback_on_a_session_name_that_two_users_have_goes_to_the_one_who_gave_it() -> None:
    logs = [log("1", "q", "a", 0, user="u", session="1"), log("2", "q", "a", 1, user="v", session="1")]
    found = by_log(logs, [feedback("f", "1", 9, target_kind="session", user="u")])
    assert (found["1"].feedback_ids, found["2"].feedback_ids) == (("f",), ())
    found = by_log(logs, [feedback("f", "1", 9, target_kind="session", user="a reviewer")])
    assert (found["1"].feedback_ids, found["2"].feedback_ids) == ((), ("f",))


def test_feedback_of_nobody_in_particular_goes_to_the_last_answer_whoever_got_it() -> None:
    logs = [log("1", "q", "a", 0, session="s"), log("2", "p", "b", 1, user="u", session="s")]
    found = by_log(logs, [feedback("f", "s", 9, target_kind="session")])
    assert (found["1"].feedback_ids, found["2"].feedback_ids) == ((), ("f",))


def test_logs_without_session_are_nobodys_session() -> None:
    found = by_log([log("1", "q", "a")], [feedback("f", "", 9, target_kind="session")])
    assert found["1"].feedback_ids == ()


def test_feedback_finds_its_answer_by_the_names_that_clients_know() -> None:
    def named(name: str, at: float, response_id: str, *traces: str) -> LogRecord:
        record = log(name, f"question {name}", "a", at)
        return replace(record, traces=traces, response={**(record.response or {}), "id": response_id})

    logs = [named("1", 0, "chatcmpl-1", "t1"), named("2", 10, "chatcmpl-x", "t1", "t2"), named("3", 20, "chatcmpl-x")]
    items = [
        feedback("by response", "chatcmpl-1", 99),
        feedback("first of the trace", "t1", 5),
        feedback("last of the trace", "t1", 99),
        feedback("before its answer", "t2", -5),  # a clock that is behind, or a record that came late
        feedback("an id used twice", "chatcmpl-x", 15),
        feedback("no session", "t1", 99, target_kind="session"),
    ]
    found = by_log(logs, items)
    assert {name: item.feedback_ids for name, item in found.items()} == {
        "1": ("first of the trace", "by response"),
        "2": ("before its answer", "an id used twice", "last of the trace"),
        "3": (),
    }


def test_revoked_and_replaced_feedback_does_not_count() -> None:
    items = [
        feedback("revoked", "1", 1, revoked=True),
        feedback("old", "1", 2),
        feedback("new", "1", 3, supersedes="old"),
        feedback("older", "1", 4),
        feedback("taken back", "1", 5, supersedes="older", revoked=True),
    ]
    assert by_log([log("1", "q", "a")], items)["1"].feedback_ids == ("new",)


# --- requests and responses ---


def test_of_multi_part_contents_the_text_parts() -> None:
    parts: list[Json] = [
        {"type": "text", "text": "what is"},
        {"type": "image_url", "image_url": {"url": "data:..."}, "text": "alt"},
        {"type": "input_text", "text": "this?"},
        {"text": "untyped"},
        "bare",
        {"type": "text", "text": None},
    ]
    assert request_messages({"messages": [{"role": "user", "content": parts}]}) == (
        Message(role="user", content="what is\nthis?\nuntyped"),
    )
    assert answer_text(response([{"type": "output_text", "text": "a card"}])) == "a card"


@pytest.mark.parametrize(
    "given_response",
    [
        None,
        {},
        {"choices": []},
        {"choices": "none"},
        {"choices": [None]},
        {"choices": [{"text": "legacy"}]},
        {"choices": [{"message": "hi"}]},
        response(None),
        response(""),
        response({"a": 1}),
        response([]),
    ],
)
def test_no_answer(given_response: dict[str, Json] | None) -> None:
    assert answer_text(given_response) is None
    assert join([replace(log("1", "q", "a"), response=given_response)], []) == []


def test_a_log_without_a_users_message_at_the_end_is_no_interaction() -> None:
    logs = [
        replace(log("1", "q", "a"), request={}),
        replace(log("2", "q", "a"), request={"messages": [{"content": "no role"}]}),
        log("3", ["q", "an assistant's"], "a"),
        log("4", "system: only", "a"),
    ]
    assert join(logs, []) == []


def test_the_order_is_that_of_the_logs_and_ids_are_stable() -> None:
    logs = [log(str(number), f"q{number}", "a", number) for number in range(5)]
    once, twice = join(logs, []), join(list(logs), iter(()))
    assert [item.log_id for item in once] == ["0", "1", "2", "3", "4"]
    assert once == twice
    assert len({item.id for item in once}) == 5


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
MESSAGE = st.fixed_dictionaries(
    {}, optional={"role": st.sampled_from(["user", "assistant", "tool"]) | JSON, "content": JSON}
)
REQUEST = st.fixed_dictionaries({}, optional={"messages": st.lists(MESSAGE | JSON, max_size=4) | JSON, "model": JSON})
RESPONSE = st.none() | st.fixed_dictionaries(
    {},
    optional={"choices": JSON | st.lists(st.fixed_dictionaries({}, optional={"message": MESSAGE | JSON}), max_size=3)},
)
NAME = st.sampled_from([None, "", "a", "b"])
LOG = st.builds(
    LogRecord, id=st.text(max_size=3), request=REQUEST, response=RESPONSE, at=st.floats(), user=NAME, session=NAME,
    session_source=st.sampled_from(["", "prefix"]),
)  # fmt: skip
FEEDBACK = st.builds(
    Feedback, id=st.text(max_size=3), target=st.sampled_from(["", "a", "b"]), at=st.floats(), user=NAME,
    supersedes=NAME, target_kind=st.sampled_from(["record", "session", "user"]), revoked=st.booleans(),
)  # fmt: skip


@given(st.lists(LOG, max_size=5), st.lists(FEEDBACK, max_size=4))
def test_junk_is_never_an_exception(logs: list[LogRecord], items: list[Feedback]) -> None:
    found = join(logs, items)
    assert all(item.answer and item.id.startswith("int-") for item in found)
    known = {one.id for one in logs}
    assert all(item.log_id in known and {f.log_id for f in item.follow_ups} <= known for item in found)
    ids = {item.id for item in items if not item.revoked}
    assert all(set(item.feedback_ids) <= ids for item in found)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans()), min_size=1, max_size=8))
def test_however_two_conversations_are_interleaved_each_word_follows_its_own_answer(
    order: list[tuple[str, bool]],
) -> None:
    """The first turns are equal for both users; `bool`: the client trims the answer it sends back."""
    talks: dict[str, list[str]] = {"a": [], "b": []}
    logs: list[LogRecord] = []
    for number, (user, trimmed) in enumerate(order):
        talk = talks[user]
        answer = f" answer {len(talk)} "
        logs.append(log(f"{user}{len(talk)}", [*talk, f"turn {len(talk)}"], answer, number, user=user, session=user))
        talk += [f"turn {len(talk)}", answer.strip() if trimmed else answer]
    found = by_log(logs)
    for name, item in found.items():
        after = f"{name[0]}{int(name[1:]) + 2}"
        assert [f.log_id for f in item.follow_ups] == ([after] if after in found else [])
        assert all(f.edited is None for f in item.follow_ups)
