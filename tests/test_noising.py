"""Words of requests are replaced in training: which, in which pairs, and the same ones wherever a training begins."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logtune.ports import TrainingPair
from logtune.records import Message
from logtune.stages.noising import Example, Noising, last_of, noising, shared_answers

SYSTEM, END = [1, 2, 3], [90, 91]  # what stands around the words of a request
WORDS = {"card": 11, "lost": 12, "gone": 13, "rate": 14, "fees": 15, "my": 16, "please": 17, "stolen": 18}
TEXTS = ("my card lost please", "stolen card my my", "my rate please", "fees gone")
ANSWERS = ("lost_card", "lost_card", "rates", "rates")


def tokens(text: str) -> list[int]:
    return [WORDS[word] for word in text.split()]


def pair(text: str, answer: str) -> TrainingPair:
    prompt = (Message(role="system", content="sort"), Message(role="user", content=text))
    return TrainingPair(id=text, prompt=prompt, chosen=answer, rejected="?")


def example(text: str, answer: str) -> Example:
    return {"prompt_ids": [*SYSTEM, *tokens(text), *END], "chosen_ids": [len(answer)], "rejected_ids": [0]}


def made(share: float = 0.5, passed: float = 0.0, answers: Sequence[str] = ANSWERS) -> tuple[Noising, list[Example]]:
    pairs = [pair(text, answer) for text, answer in zip(TEXTS, answers, strict=True)]
    examples = [example(text, answer) for text, answer in zip(TEXTS, answers, strict=True)]
    return noising(pairs, examples, tokens, lambda batch: batch, share, 7, lambda: passed), examples


def prompts(found: object) -> list[list[int]]:
    assert isinstance(found, list)
    return [each["prompt_ids"] for each in found]


def test_words_are_replaced_by_words_of_the_requests_and_nothing_else_is() -> None:
    collate, examples = made(share=1.0)
    known = set(WORDS.values())
    for before, after in zip(prompts(examples), prompts(collate(examples)), strict=True):
        assert (after[:3], after[-2:]) == (SYSTEM, END)
        assert len(after) == len(before)
        assert set(after[3:-2]) <= known
    assert prompts(collate(examples)) != prompts(examples)
    assert prompts(examples) == prompts(made()[1])  # what the trainer holds is not touched


def test_about_the_share_is_replaced() -> None:
    collate, examples = made(share=0.2)
    changed = total = 0
    for number in range(300):
        found = Noising(collate.collate, collate.places, [99], 0.2, 7, lambda number=number: number)
        for prompt in prompts(found(examples)):
            changed, total = changed + prompt.count(99), total + len(prompt) - 5
    assert 0.17 < changed / total < 0.23


def test_each_pass_is_another_and_the_same_again() -> None:
    first, examples = made(passed=0.0)
    assert prompts(first(examples)) == prompts(made(passed=0.0)[0](examples))
    assert prompts(first(examples)) == prompts(made(passed=0.75)[0](examples[::-1]))[::-1]  # within the pass, reordered
    assert prompts(first(examples)) != prompts(made(passed=1.0)[0](examples))
    assert prompts(made(passed=2.0)[0](examples)) == prompts(made(passed=1.9999999)[0](examples))  # as floats add up


def test_a_request_whose_answer_no_other_one_has_stays_as_it_is() -> None:
    collate, examples = made(share=1.0, answers=("lost_card", "lost_card", "rates", "The fees are 2 dollars."))
    told = prompts(collate(examples))
    assert told[2:] == prompts(examples)[2:]
    assert set(collate.words) == set(tokens(" ".join(TEXTS[:2])))


def test_the_same_request_twice_shares_nothing() -> None:
    assert shared_answers([pair("my card", "a"), pair("my card", "a"), pair("fees", "b")]) == set()


@given(st.lists(st.integers(0, 3), max_size=12), st.lists(st.integers(0, 3), max_size=4))
def test_words_are_found_where_they_stand_last(prompt: list[int], words: list[int]) -> None:
    found = last_of(prompt, words)
    if found is None:
        assert not words or all(prompt[i : i + len(words)] != words for i in range(len(prompt)))
    else:
        assert prompt[found] == words
        assert all(prompt[i : i + len(words)] != words for i in range(found.start + 1, len(prompt)))


@pytest.mark.parametrize("joined", [[*SYSTEM, 55, 12, 17, *END], []])
def test_words_that_the_tokenizer_joined_with_others_are_left_alone(joined: list[int]) -> None:
    pairs = [pair(text, "lost_card") for text in TEXTS[:2]]
    examples = [{**example(TEXTS[0], "lost_card"), "prompt_ids": joined}, example(TEXTS[1], "lost_card")]
    collate = noising(pairs, examples, tokens, lambda batch: batch, 1.0, 7, lambda: 0.0)
    assert prompts(collate(examples))[0] == joined
