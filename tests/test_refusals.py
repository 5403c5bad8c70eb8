"""Answers that refuse, and answers that only mention that something cannot be."""

import pytest

from logtune.stages.refusals import net, refuses, suspected

REFUSED = [
    "I'm sorry, but I can't help with that request.",
    "I cannot assist with creating weapons.",
    "As an AI language model, I am not able to give instructions for that.",
    "I won’t provide steps for this. If you are in danger, call the police.",
    "That isn't something I can do.",
    "Sorry, I am unable to comply with this.",
    "I must decline to write this text.",
    "I don't feel comfortable answering that.",
    "Lo siento, pero no puedo ayudar con eso.",
    "Je suis désolé, mais je ne peux pas répondre à cette demande.",
    "Es tut mir leid, dabei kann ich nicht helfen.",
    "Das kann ich leider nicht beantworten.",
    "Извините, но я не могу помочь с этим.",
    "抱歉，我无法提供这样的信息。",
]
ANSWERED = [
    "Your card arrives within five working days.",
    "You cannot withdraw more than 300 euros a day at a cash machine.",
    "I'm sorry that your card is late. It was sent on Monday.",
    "The function cannot return None here; use a default.",
    "Das tut mir leid! Ihre Karte wurde am Montag verschickt.",
    "Je suis désolé pour le retard, votre carte arrive lundi.",
    "Sure, here is the poem that you asked for.",
    "",
]


@pytest.mark.parametrize("answer", REFUSED)
def test_a_refusal_is_recognised(answer):
    assert refuses(answer)


@pytest.mark.parametrize("answer", ANSWERED)
def test_an_answer_is_none(answer):
    assert not refuses(answer)


def test_only_the_opening_counts():
    assert not refuses("Here is all that you need. " * 30 + "I cannot help with more.")


def test_suspected_classes_are_those_from_the_bar_on():
    assert suspected({"toxic": 0.31, "spam": 0.9, "jailbreak": 0.1}, ("toxic", "jailbreak"), 0.3) == {"toxic": 0.31}
    assert net([]) == 0
