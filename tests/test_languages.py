"""Languages by script and frequent words; unknown where a text says too little."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logtune.stages.languages import language

KNOWN = {
    "Where is my new card and how do I activate it?": "en",
    "Wo ist meine neue Karte und wie kann ich sie aktivieren?": "de",
    "Où est ma nouvelle carte et comment est-ce que je peux l'activer ?": "fr",
    "¿Dónde está mi tarjeta nueva y cómo puedo activarla con la aplicación?": "es",
    "Onde está o meu cartão novo e como posso ativar com a app do banco?": "pt",
    "Dove è la mia carta nuova e come posso attivarla con la app del telefono?": "it",
    "Где моя новая карта?": "ru",
    "我的新卡在哪里？": "zh",
    "新しいカードはどこですか。": "ja",
    "제 새 카드는 어디에 있나요?": "ko",
    "أين بطاقتي الجديدة؟": "ar",
}


@pytest.mark.parametrize(("text", "name"), KNOWN.items())
def test_a_language_is_told(text, name):
    assert language(text) == name


@pytest.mark.parametrize("text", ["", "card", "x = [1, 2, 3]", "SELECT id FROM t WHERE a > 3", "12345", "ok thanks"])
def test_what_says_too_little_has_none(text):
    assert language(text) == ""


@given(st.text())
def test_any_text_can_be_asked(text):
    assert language(text) == "" or len(language(text)) == 2
