"""Personal data by format: what is found, what only looks like it, and how well on public test texts."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logtune.stages.personal import cards, emails, ibans, ips, number_runs, personal_data, phones, strong_identifiers

PRESIDIO = Path(__file__).parents[2] / "shared" / "data" / "presidio_pii" / "samples.jsonl"


def found(finder: object, text: str) -> list[str]:
    places = finder(text) if finder is emails else finder(text, number_runs(text))  # type: ignore[operator]
    return [text[start:end] for start, end in sorted(set(places))]


@pytest.mark.parametrize(("text", "address"), [
    ("mail bob.o'hara+x@mail.example.co.uk, please", "bob.o'hara+x@mail.example.co.uk"),
    ("<jörg@müller.de>", "jörg@müller.de"),
    ("请联系bob@example.com谢谢", "bob@example.com"),
    ("to=bob%40example.com&x=1", "bob%40example.com"),
    ("'bob@example.com'.", "bob@example.com"),
    ("x" * 200 + "@example.com", "x" * 200 + "@example.com"),
])  # fmt: skip
def test_an_email_address_is_found_as_far_as_it_goes(text: str, address: str) -> None:
    assert found(emails, text) == [address]


@pytest.mark.parametrize("text", [
    "git clone git@github.com:a/b.git", "@app.route", "npm i react@18.2.0", "user@localhost", "a @ b", "@@@@",
])  # fmt: skip
def test_what_only_has_an_at_sign_is_no_address(text: str) -> None:
    assert found(emails, text) == []


@pytest.mark.parametrize(("text", "card"), [
    ("card 4111111111111111.", "4111111111111111"),
    ("4111 1111 1111 1111 12/27 123", "4111 1111 1111 1111"),
    ("3782-822463-10005", "3782-822463-10005"),
    ("it is 4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1", "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1"),
    ("order 1234 4111111111111111", "4111111111111111"),
    ("{'n':5555555555554444}", "5555555555554444"),
])  # fmt: skip
def test_a_card_is_found_by_issuer_length_and_check_digit(text: str, card: str) -> None:
    assert found(cards, text) == [card]


@pytest.mark.parametrize("text", [
    "4111111111111112", "order 1000000000000008", "at 1700000000000 ms", "0.4111111111111111", "0000000000000000",
    "a4111111111111111", "4111111111111111f", "4111111111111111.5",
])  # fmt: skip
def test_other_long_numbers_are_no_cards(text: str) -> None:
    assert found(cards, text) == []


def test_a_number_that_is_called_a_card_needs_no_known_issuer() -> None:
    assert found(cards, "my card 060426070011 is lost") == ["060426070011"]
    assert found(cards, "my order 060426070011 is lost") == []


@pytest.mark.parametrize("account", [
    "GB29 NWBK 6016 1331 9268 19", "gb29nwbk60161331926819", "DE89370400440532013000", "NO93 8601 1117 947",
    "MT84MALT011000012345MTLCAST001S",
])  # fmt: skip
def test_an_iban_is_found_where_its_check_digits_are_right(account: str) -> None:
    assert found(ibans, f"pay to {account}, today") == [account]
    wrong = account[:2] + f"{(int(account[2:4]) + 1) % 97:02d}" + account[4:]
    assert found(ibans, f"pay to {wrong}, today") == []


@pytest.mark.parametrize("text", [
    "8.8.4.4 is down: ip 8.8.4.4", "203.0.113.7", "client 10.20.30.40:8080", "2001:db8::8a2e:370:7334",
    "http://192.0.2.9/",
])  # fmt: skip
def test_an_ip_address_is_found(text: str) -> None:
    assert found(ips, text)


@pytest.mark.parametrize("text", [
    "127.0.0.1", "0.0.0.0", "version 4.2.0.1", "v1.2.3.4", "Chrome/120.0.0.0", "pip install x==1.22.3.4",
    "192.168.0.1", "see 2.1.3.4", "10.0.19041.1", "999.1.1.1", "12:34:56", "std::vector<int>::size", "::1",
    "::1:3306", "a::b", "x[1::2]",
    "2024-05-12T10:00:00", "00:1A:2B:3C:4D:5E", "255.255.255.0",
])  # fmt: skip
def test_versions_times_and_loopback_are_no_addresses(text: str) -> None:
    assert found(ips, text) == []


@pytest.mark.parametrize(("text", "number"), [
    ("+44 20 7946 0958", "+44 20 7946 0958"), ("+46 (0)8 928 571 38", "+46 (0)8 928 571 38"),
    ("001-518-640-0854", "001-518-640-0854"), ("(555) 010-4477 or so", "(555) 010-4477"),
    ("905-674-3793x4587", "905-674-3793x4587"), ("07700 900 123", "07700 900 123"),
    ("03.93.92.16.85", "03.93.92.16.85"),
    ("call me at 416 60 039 please", "416 60 039"), ("Tel.: 5550104477", "5550104477"),
    ("手机 13812345678", "13812345678"),
    ("416 60 039-Office", "416 60 039"), ("+447700900123", "+447700900123"),
])  # fmt: skip
def test_a_phone_number_is_found_by_its_form_or_by_the_words_beside_it(text: str, number: str) -> None:
    assert found(phones, text) == [number]


@pytest.mark.parametrize("text", [
    "order 12345678", "2024-05-12 10:30:00", "05.12.2023 14.30", "1700000000", "00123456789", "460-89-9847",
    "0.25 0.50 0.75", "100 200 3000", "order 112-3456789-1234567", "call f(1234567)", "call me on 2024-05-12 10:00",
    "x = 3.14159265358979", "commit 1234567890abcdef", "page 123-456", "1.00 2680 5132",
])  # fmt: skip
def test_other_numbers_are_no_phone_numbers(text: str) -> None:
    assert found(phones, text) == []


@given(st.text(alphabet="0123456789 .-+()/@:abGB\u00a0", max_size=80))
def test_places_lie_inside_the_text_whatever_it_is(text: str) -> None:
    runs = number_runs(text)
    for finder in (cards, ibans, ips, phones):
        for start, end in finder(text, runs):
            assert 0 <= start < end <= len(text)
            assert not text[start:end].isspace()
    for start, end in emails(text):
        assert "@" in text[start:end]


@given(st.integers(0, 10**15 - 1))
def test_every_card_number_of_an_issuer_is_found(number: int) -> None:
    digits = f"4{number % 10**14:014d}"
    total = sum(int(d) * 2 - (9 if int(d) > 4 else 0) if i % 2 == 0 else int(d) for i, d in enumerate(digits))
    card = f"{digits}{-total % 10}"
    assert found(cards, f"x {card} y") == [card]


def test_the_filter_reads_more_than_is_cut_out() -> None:
    said = "I live at 12 Green Lane, my ssn is 123-45-6789, mail a@b.co"
    assert set(personal_data(said)) == {"address", "ssn", "identifier", "email"}
    assert set(strong_identifiers(said)) == {"ssn", "identifier"}
    assert personal_data("my router 192.168.7.9 is down") == {}


@pytest.mark.skipif(not PRESIDIO.exists(), reason="the test texts of Presidio are not on this machine")
def test_nearly_everything_in_public_test_texts_is_found_and_nothing_else() -> None:
    kinds = {
        "EMAIL_ADDRESS": emails,
        "PHONE_NUMBER": phones,
        "CREDIT_CARD": cards,
        "IBAN_CODE": ibans,
        "IP_ADDRESS": ips,
    }
    rows = [json.loads(line) for line in PRESIDIO.read_text(encoding="utf-8").splitlines()]
    for kind, finder in kinds.items():
        right = wrong = missed = 0
        for row in rows:
            gold = {(span["start"], span["end"]) for span in row["spans"] if span["type"] == kind}
            got = set(finder(row["text"]) if finder is emails else finder(row["text"], number_runs(row["text"])))
            right, wrong, missed = right + len(gold & got), wrong + len(got - gold), missed + len(gold - got)
        assert wrong + missed == 0 or 2 * right / (2 * right + wrong + missed) >= 0.95, kind
