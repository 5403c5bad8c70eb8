"""Rules that contradict each other, by their words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logtune.stages.opposed import opposed


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Keep answers short.", "Give longer answers."),
        ("be more concise please", "please explain in detail"),
        ("too long, shorter please", "this is too short"),
        ("Don't use emojis.", "Use emojis"),
        ("never mention prices", "mention prices"),
        ("Answer in German.", "Please answer in English"),
        ("use bullet points", "write in full sentences"),
        ("use a formal tone", "use a casual tone"),
        ("code only, no explanations", "explain the code"),
        ("请简短一点", "请更详细"),
        ("bitte kürzer", "bitte ausführlicher"),
    ],
)
def test_opposed(first: str, second: str) -> None:
    assert opposed(first, second)
    assert opposed(second, first)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Keep answers short.", "Be brief."),
        ("not too long", "shorter please"),
        ("Don't use emojis.", "Do not use emojis, please"),
        ("Answer in German.", "Quote prices in euros"),
        ("use bullet points", "keep it short"),
        ("Name the delivery date.", "Don't use emojis."),
        ("no emojis", "no tables"),
        ("", "anything"),
    ],
)
def test_not_opposed(first: str, second: str) -> None:
    assert not opposed(first, second)
    assert not opposed(second, first)


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text_is_taken_and_the_order_makes_no_difference(first: str, second: str) -> None:
    assert opposed(first, second) == opposed(second, first)
    assert not opposed(first, first)
