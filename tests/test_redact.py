"""Redaction of texts and JSON: what is replaced, what stays, and that nothing brings it back."""

import json
import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logtune.records import Json
from logtune.stages import redact as looks
from logtune.stages.credentials import credentials
from logtune.stages.redact import ANSWER_ID, DEEPEST, KINDS, TOO_DEEP, Redactor, find, is_plain, placeholders, redact

CUT = Redactor(kinds=KINDS)
KEYS = [
    "sk-proj-Ab1" + "x" * 30, "sk-ant-api03-Ab1" + "x" * 30, "sk_live_" + "a1" * 12, "ghp_" + "a1" * 18,
    "github_pat_" + "a1" * 20, "glpat-" + "a1" * 10, "AKIAIOSFODNN7EXAMPLE", "AIza" + "a1_" * 11 + "ab",
    "xoxb-1234567890-abcdefghij", "hf_" + "a1" * 17, "npm_" + "a1" * 18, "SG." + "a1" * 11 + "." + "b2" * 20,
    "lt-0123456789ab-" + "Ab_-" * 10 + "xyz", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
    "1234567890:AA" + "a1b" * 11,
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_a_key_of_a_known_shape_is_cut_out(key: str) -> None:
    assert redact(f"use {key}, please", KINDS) == "use [key], please"
    assert redact(f'{{"k":"{key}"}}', KINDS) == '{"k":"[key]"}'


@pytest.mark.parametrize(("text", "left"), [
    ("Authorization: Bearer abcDEF123456", "Authorization: Bearer [key]"),
    ("-H 'authorization: Basic dXNlcjpwYXNz'", "-H 'authorization: Basic [key]'"),
    ('password = "hunter"', 'password = "[key]"'),
    ("DB_PASSWORD=hunter2", "DB_PASSWORD=[key]"),
    ("my password is Tr0ub4dor&3.", "my password is [key]."),
    ("https://x.y/?token=abc12345&page=2", "https://x.y/?token=[key]&page=2"),
    ("postgres://bob:s3cret@db.example.com/x", "postgres://[key]@db.example.com/x"),
    ('"api_key": "abcd1234efgh"', '"api_key": "[key]"'),
    ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----!", "[key]!"),
    ("-----BEGIN PRIVATE KEY-----\nProc-Type: 4\nMIIE cut", "[key]"),
])  # fmt: skip
def test_a_secret_is_cut_out_where_the_text_says_it_is_one(text: str, left: str) -> None:
    assert redact(text, KINDS) == left


@pytest.mark.parametrize("text", [
    "max_tokens=100000", "token = tokenizer.next()", "password: str", 'secret = os.environ["X"]',
    "password=user_password",
    '{"token": "Hello"}', "the bearer of this certificate", 'api_key="YOUR_API_KEY"', "password: <password>",
    "I forgot my password: what now?", "task-scheduler-with-a-very-long-name", "tokens: 12345678",
    "the token is invalid",
    "password: required", "sk-learn", "password = getpass.getpass()", "a key concept", "keyboard=qwertz12345",
    "-----BEGIN CERTIFICATE-----\nMIIE\n-----END CERTIFICATE-----", "http://host:8080/path",
])  # fmt: skip
def test_words_about_secrets_stay(text: str) -> None:
    assert list(credentials(text)) == []
    assert redact(text, KINDS) == text


def test_each_kind_has_its_placeholder() -> None:
    said = (
        "a@b.co, +44 20 7946 0958, 4111 1111 1111 1111, GB29 NWBK 6016 1331 9268 19, 203.0.113.7, ghp_" + "a1" * 18
    )  # fmt: skip
    assert redact(said, KINDS) == "[email], [phone], [card], [iban], [ip], [key]"
    assert [span.kind for span in find(said, KINDS)] == ["email", "phone", "card", "iban", "ip", "key"]
    assert placeholders(redact(said, KINDS)) == dict.fromkeys(KINDS, 1)


def test_a_kind_that_is_not_asked_for_stays() -> None:
    assert redact("a@b.co 4111111111111111", {"card"}) == "a@b.co [card]"
    assert redact("a@b.co 4111111111111111", ()) == "a@b.co 4111111111111111"


def test_names_are_found_by_a_recogniser_after_all_else() -> None:
    seen: list[str] = []

    def names(text: str) -> list[tuple[int, int]]:
        seen.append(text)
        return [(0, 5)] if text.startswith("Alice") else []

    assert redact("Alice, a@b.co", KINDS, names) == "[name], [email]"
    assert "a@b.co" not in seen[0]


@given(st.text(max_size=200) | st.text(alphabet="0123456789 .-+@:abGB=/\"'", max_size=200))
def test_what_was_redacted_stays_as_it_is(text: str) -> None:
    once = redact(text, KINDS)
    assert redact(once, KINDS) == once
    spans = find(text, KINDS)
    assert all(a.end <= b.start for a, b in pairwise(spans))


@pytest.mark.parametrize("unit", [
    "1 ", "@", "a.a", "a@a.", "4444 4445 ", "1.", "1:", "+1 ", "01 ", "phone 1", "token=", "token='", "password is ",
    "sk-", "eyJ", "-----BEGIN PRIVATE KEY-----", "://a:", "bearer ", "1-", "555-555-", "::", "f:", "12345678:AA",
    "İkey=",
    "{", "[1,", "\\u0040", "data:;base64,", "data:a/b;",
])  # fmt: skip
def test_a_hostile_text_takes_time_in_proportion_to_its_length(unit: str) -> None:
    """Backtracking would take hours here; the limits of the machine do not matter."""
    CUT.redacted(unit * (100_000 // len(unit)))


# JSON


def cut(value: Json) -> Json:
    return CUT.redacted(value)


def test_every_text_of_a_request_is_redacted() -> None:
    body: Json = {
        "messages": [
            {"role": "system", "content": "I am a@b.co"},
            {"role": "user", "content": [{"type": "text", "text": "mail a@b.co"}], "name": "a@b.co"},
            {"role": "assistant", "content": None, "reasoning_content": "a@b.co", "refusal": "a@b.co"},
            {"role": "tool", "tool_call_id": "call_1", "content": '{"ip": "203.0.113.7"}'},
        ],
        "metadata": {"a@b.co": "a@b.co", "c@d.co": 1}, "temperature": 0.5, "seed": 4111111111111111, "n": None,
    }  # fmt: skip
    text = json.dumps(cut(body))
    assert "@" not in text
    assert "203.0" not in text
    assert cut(body)["metadata"] == {"[email]": "[email]", "[email] 2": 1}  # type: ignore[index,call-overload]
    assert cut(body)["seed"] == 4111111111111111  # type: ignore[index,call-overload]


def test_the_arguments_of_a_tool_call_are_read_as_json_with_their_escapes() -> None:
    arguments = '{"to": "bob\\u0040example.com", "card": 4111111111111111, "phoneNumber": "5550100123", "n": 5}'
    call: Json = {"function": {"name": "send", "arguments": arguments}}
    assert cut(call) == {
        "function": {
            "name": "send",
            "arguments": '{"to": "[email]", "card": "[card]", "phoneNumber": "[phone]", "n": 5}',
        }
    }
    untouched: Json = {"arguments": '{ "n":5,"x": "\\u00e9" }'}
    assert cut(untouched) == untouched


def test_json_that_is_cut_off_or_names_a_field_twice_is_redacted_as_text() -> None:
    assert cut('{"to": "a@b.co", "x') == '{"to": "[email]", "x'
    assert cut('{"to": "a@b.co", "to": "you"}') == '{"to": "[email]", "to": "you"}'


def test_the_name_of_a_field_tells_what_its_value_is() -> None:
    given: Json = {
        "password": "hunter",
        "mobile_number": "5550104477",
        "order": "5550104477",
        "client_secret": "abcd1234",
    }
    assert cut(given) == {
        "password": "[key]", "mobile_number": "[phone]", "order": "5550104477", "client_secret": "[key]"
    }  # fmt: skip
    assert cut({"phone": 5550104477, "order": 5550104477}) == {"phone": "[phone]", "order": 5550104477}


def test_tokens_of_a_text_that_was_cut_go_too() -> None:
    tokens: Json = {"content": [{"token": "a", "bytes": [97], "logprob": -1.0}]}
    whole: Json = {
        "choices": [
            {"message": {"content": "a@b.co"}, "logprobs": tokens, "token_ids": [1, 2]},
            {"message": {"content": "fine"}, "logprobs": tokens, "token_ids": [1, 2]},
        ],
        "prompt_token_ids": [1], "prompt_logprobs": [None],
    }  # fmt: skip
    assert cut(whole) == {
        "choices": [
            {"message": {"content": "[email]"}, "logprobs": None, "token_ids": None},
            {"message": {"content": "fine"}, "logprobs": tokens, "token_ids": [1, 2]},
        ],
        "prompt_token_ids": None, "prompt_logprobs": None,
    }  # fmt: skip


def test_of_files_only_type_and_length_are_kept() -> None:
    image: Json = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 3000}}
    audio: Json = {"type": "input_audio", "input_audio": {"data": "A" * 3000, "format": "wav"}}
    said = f"look: ![x](data:image/gif;base64,{'A' * 300}) there"
    assert cut(image) == {"type": "image_url", "image_url": {"url": "[file: image/png, 3000 characters]"}}
    assert cut(audio) == {"type": "input_audio", "input_audio": {"data": "[file: 3000 characters]", "format": "wav"}}
    assert cut(said) == "look: ![x]([file: image/gif, 300 characters]) there"
    assert placeholders(str(cut(said))) == {"file": 1}
    assert Redactor(kinds=KINDS, files=False).redacted(image) == image


def test_texts_to_keep_stay() -> None:
    keeping = Redactor(kinds=KINDS, keep=frozenset({"support@example.com", "+44 20 7946 0958"}))
    assert (
        keeping.text("Support@example.com, +44 20 7946 0958, a@b.co")
        == "Support@example.com, +44 20 7946 0958, [email]"
    )


def test_without_kinds_nothing_changes() -> None:
    given: Json = {"a@b.co": ["4111111111111111", {"data": "A" * 3000}]}
    assert Redactor(kinds=frozenset(), files=False).redacted(given) is given


def test_what_lies_too_deep_is_left_out() -> None:
    deep: Json = "a@b.co"
    for _ in range(2000):
        deep = [deep]
    text = json.dumps(cut(deep))
    assert text == "[" * DEEPEST + f'"{TOO_DEEP}"' + "]" * DEEPEST
    assert cut("[" * 100_000) == "[" * 100_000


def test_odd_numbers_stay() -> None:
    odd: Json = [math.inf, -math.inf, 1e300, 4.5e15, True, -4111111111111112, 10**400]
    assert cut(odd) == odd
    assert cut([4111111111111111, 4111111111111111.0]) == ["[card]", "[card]"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20,
)  # fmt: skip


@settings(max_examples=50)
@given(json_values)
def test_any_json_stays_json_and_is_not_cut_twice(value: Json) -> None:
    once = cut(value)
    assert cut(json.loads(json.dumps(once))) == once


@settings(max_examples=50)
@given(json_values, st.sampled_from(["a@b.co", "4111 1111 1111 1111", KEYS[3]]))
def test_a_secret_anywhere_in_json_is_gone(value: Json, secret: str) -> None:
    placed: Json = {"x": [value, {"y": f"here: {secret}"}, json.dumps({"z": secret})]}
    assert secret not in json.dumps(cut(placed))


@pytest.mark.parametrize("text", [
    "The password is 'Tornado'. Tell no one.", 'The password is "Mouse"', "my password is hunter2",
])  # fmt: skip
def test_the_cheap_look_sees_a_password_between_plain_words(text: str) -> None:
    assert "[key]" in redact(text, KINDS)


@given(
    st.from_regex(r"chatcmpl-[0-9A-Za-z-]{0,40}", fullmatch=True) | st.uuids().map(lambda made: f"chatcmpl-{made.hex}")
)
@settings(max_examples=500)
def test_the_id_of_an_answer_holds_what_the_whole_search_finds_in_it(name: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(looks, "is_plain", lambda text: False)
        found = find(name, KINDS)
    assert not (ANSWER_ID.fullmatch(name) and found)


def test_only_texts_without_anything_to_find_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    known: dict[str, None] = {}
    monkeypatch.setattr(looks, "_known", known)
    monkeypatch.setattr(looks, "KNOWN", 3)
    cleaner, plain = Redactor(kinds=KINDS), "You are the assistant of a bank."
    for _ in range(2):
        assert cleaner.redacted({"content": plain, "from": "ann@example.com"}) == {"content": plain, "from": "[email]"}
    assert set(known) == {"content", plain, "from"}
    cleaner.redacted({"another": plain * 100})
    assert set(known) == {"another"}
    assert is_plain("chatcmpl-7c1d9e5f3b2a4860")
