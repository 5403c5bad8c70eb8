"""Thanks and praise, in many languages: never a complaint; and what only looks like it is never praise."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logtune.config import SignalSettings
from logtune.ports import Detection
from logtune.records import Feedback, FollowUp, Interaction
from logtune.stages.courtesy import courtesy
from logtune.stages.detector import KINDS
from logtune.stages.filter import BALANCE
from logtune.stages.refusals import net
from logtune.stages.signals import comment, detected_turn, next_turn, read

THANKS = [
    "thx", "thanks!", "thank you so much", "ok thank you bye", "cheers mate", "Vielen Dank für die schnelle Hilfe!",
    "merci beaucoup", "Muchas gracias", "obrigado pela ajuda", "Grazie mille", "Bedankt!", "Dziękuję bardzo",
    "Большое спасибо за помощь", "谢谢", "ありがとうございます", "감사합니다",
]  # fmt: skip
PRAISE = [
    "thanks, perfect!", "great answer", "correct", "that's right", "Yes, that’s correct!", "good", "I love it",
    "awesome, exactly what I needed", "works now, thanks", "Perfect, that solved it. Thank you!", "not bad!", "👍👍",
    "You're right, my mistake.", "That was really helpful, thank you.", "thank you, this is exactly what I meant",
    "Danke, super", "Das stimmt", "sehr gut", "c'est parfait", "très bien, merci", "gracias, perfecto", "¡Muy bien!",
    "isso mesmo, obrigada", "Ótimo!", "Perfetto, grazie", "esatto", "Dank je wel, werkt perfect", "klopt, bedankt",
    "Dzięki, świetnie", "zgadza się", "спасибо, отлично", "верно", "谢谢,很好", "太好了", "没错，谢谢",
    "ありがとうございます、助かりました", "これで解決しました",
]  # fmt: skip
LOOKS_LIKE = [
    "great, but it's still wrong", "thanks for nothing", "perfect, now make it shorter", "Yeah right, as if",
    "oh great, another wrong answer. brilliant.", "that is correct, but please add VAT", "not good", "stimmt nicht",
    "no funciona", "merci, mais c'est faux", "não funciona", "non funziona", "werkt niet", "nie działa",
    "не работает",
    "不太好", "没有用", "良くない", "is that right?", "is this correct", "nice try", "thanks 👎",
    "Great, now it crashes",
    "thank you for your wrong answer", "right, it's 12.50 now", "Great. Now what's the yearly plan?", "12.50", "nope",
    "thanks, that's the old price", "no, thanks", "that's not right", "good morning", "ok", "",
]  # fmt: skip


def complaint(text: str) -> Detection:
    """What a detector says that takes everything for a complaint, as the shipped one does with thanks."""
    shares = dict.fromkeys(KINDS, 0.0) | {"complaint": 1.0}
    return Detection(feedback=0.9, is_feedback=True, kind="complaint", kinds=shares, detector="small-t")


def asked(text: str) -> Interaction:
    return Interaction(
        id="int-1", log_id="log-1", context=(), query="What does it cost?", answer="It costs 10.50.",
        follow_ups=(FollowUp(text=text, answer=None, log_id="log-2", edited=None),), feedback_ids=(), user="ada",
        session="s", adapter=None, at=1.0,
    )  # fmt: skip


@pytest.mark.parametrize("text", [*THANKS, *PRAISE])
def test_thanks_and_praise_are_never_complaints(text):
    for reading in (
        detected_turn(text, "It costs 10.50.", complaint(text)), next_turn(text, "What?", "It costs 10.50."),
        comment(text, "It costs 10.50."), comment(text, "It costs 10.50.", 1.0),
    ):  # fmt: skip
        assert reading is not None
        assert (reading.kind, reading.correction, reading.evidence) == ("praise", None, text.strip())
        assert reading.polarity > 0


@pytest.mark.parametrize(("texts", "alone"), [(THANKS, False), (PRAISE, True)])
def test_praise_teaches_and_mere_thanks_do_only_beside_more(texts, alone):
    for text in texts:
        found = {text: complaint(text)}
        assert (net(read(asked(text), [], SignalSettings(), found)) >= BALANCE) == alone
        thumb = Feedback(id="f", target="log-1", at=2.0, value=1.0)
        assert net(read(asked(text), [thumb], SignalSettings(), found)) >= 0.9


@pytest.mark.parametrize("text", LOOKS_LIKE)
def test_what_only_looks_like_praise_is_none(text):
    assert courtesy(text).kind not in ("praise", "thanks")
    reading = detected_turn(text, "It costs 10.50.", complaint(text))
    assert reading is None or reading.polarity < 0


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Great. Now what's the yearly plan?", None),
        ("thanks! and where is the log?", None),
        ("Danke, und was kostet der Jahresplan?", None),
        ("perfect, now make it shorter", "constraint"),
        ("thanks, that's the old price", "complaint"),
        ("no, thanks", None),
        ("No, that's fine", None),
    ],
)
def test_a_request_after_praise_is_no_complaint_about_the_answer(text, kind):
    reading = detected_turn(text, "It costs 10.50.", complaint(text))
    assert (reading.kind if reading else None) == kind


@pytest.mark.parametrize(
    "text",
    ["thanks, this is garbage", "thanks for wasting my time", "amazing how bad this is",
     "great, now all my tests crash", "super slow"],
)  # fmt: skip
def test_a_complaint_in_the_words_of_praise_stays_one(text):
    reading = detected_turn(text, "It costs 10.50.", complaint(text))
    assert reading is not None
    assert reading.kind == "complaint"
    by_words = next_turn(text, "What?", "It costs 10.50.")
    assert by_words is None or by_words.polarity < 0


def test_agreement_with_a_question_of_the_assistant_answers_it():
    assert detected_turn("that's right", "Do you mean your card?", complaint("that's right")) is None
    assert next_turn("correct", "Block it", "Do you mean your card?") is None
    assert courtesy("perfect, thanks", "It costs 10.50. Anything else?").kind == "praise"


def test_a_thumbs_down_is_not_outvoted_by_a_word():
    for text in ("great", "thx"):
        item = Feedback(id="f", target="log-1", at=2.0, value=-1.0, comment=text)
        assert net(read(asked("hm"), [item], SignalSettings(), {"hm": complaint("hm")})) <= 0


@given(st.text(max_size=500))
def test_any_text_can_be_asked(text):
    assert courtesy(text, text).kind in ("praise", "thanks", "reply", "more", "")


@pytest.mark.parametrize("part", ["thanks ", "that ", "works like ", "ok ", " ", "👍", "谢", "no, "])
def test_long_repetitions_are_read_quickly(part):
    began = time.perf_counter()
    courtesy(part * 400)
    courtesy((part * 400)[:400])
    assert time.perf_counter() - began < 1.0
