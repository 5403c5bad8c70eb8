"""Languages by script and frequent words; unknown where a text says too little."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logtune.config import FilterSettings
from logtune.stages.languages import language
from logtune.stages.textchecks import check_form

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
    "Як закрити рахунок і скільки це коштує?": "uk",
    "Як закрыць мой рахунак, калі ён ўжо пусты?": "be",
    "چطور حسابم را ببندم؟": "fa",
    "میں اپنا اکاؤنٹ کیسے بند کروں؟": "ur",
    "Com puc tancar el meu compte i què em costa": "ca",
    "Como posso encerrar a minha conta e quanto é que isso me custa?": "pt",
    "Jak mogę zamknąć moje konto i co to jest za opłata?": "pl",
    "Jak zrušit můj účet a co je to za poplatek?": "cs",
    "Hur kan jag stänga mitt konto och vad är det för en avgift?": "sv",
}


@pytest.mark.parametrize(("text", "name"), KNOWN.items())
def test_a_language_is_told(text, name):
    assert language(text) == name


@pytest.mark.parametrize(
    "text",
    ["Как мога да закрия сметката си?", "Како да затворим мој рачун?", "Hvordan lukker jeg min konto, og er det en"],
)
def test_what_may_be_one_of_several_has_none(text):
    assert language(text) == ""


@pytest.mark.parametrize(("served", "text"), [("uk", "Де моя нова картка, її ще немає"), ("fa", "کارت جدید من کجاست؟")])
def test_a_served_language_is_not_taken_for_its_neighbour(served, text):
    assert check_form(text, "", FilterSettings(languages=(served,))) is None


@pytest.mark.parametrize("text", ["", "card", "x = [1, 2, 3]", "SELECT id FROM t WHERE a > 3", "12345", "ok thanks"])
def test_what_says_too_little_has_none(text):
    assert language(text) == ""


@given(st.text())
def test_any_text_can_be_asked(text):
    assert language(text) == "" or len(language(text)) == 2
