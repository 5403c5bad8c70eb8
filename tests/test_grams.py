"""Hashed n-grams: the same whoever stands beside a text, and no feature crosses into a neighbour."""

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from logtune.stages import grams

TEXTS = st.lists(st.text(max_size=60), min_size=1, max_size=8)


def features(texts, row):
    """Sorted features of one text of a batch, by kind."""
    return [sorted(run.hashes[run.begins[row] : run.stops[row]].tolist()) for run in grams.runs(grams.batch(texts))]


@given(TEXTS)
def test_a_text_has_the_same_features_alone_and_in_company(texts):
    for row, text in enumerate(texts):
        assert features(texts, row) == features([text], 0)


def test_case_digits_and_white_space_do_not_count():
    assert features(["Call  0800\n12 NOW"], 0) == features(["call 0900 34 now"], 0)
    assert features(["call me now"], 0) != features(["call me not"], 0)


def test_words_and_pairs_are_counted():
    *_, words, next_to, one_between = grams.runs(grams.batch(["one two three", "", "four"]))
    assert (words.stops - words.begins).tolist() == [3, 0, 1]
    assert (next_to.stops - next_to.begins).tolist() == [2, 0, 0]
    assert (one_between.stops - one_between.begins).tolist() == [1, 0, 0]


def test_a_word_has_one_hash_wherever_it_stands():
    *_, words, _, _ = grams.runs(grams.batch(["alpha beta gamma", "gamma alpha"]))
    first, second = words.hashes[:3].tolist(), words.hashes[3:].tolist()
    assert second == [first[2], first[0]]


def test_of_a_long_text_head_and_tail_are_read():
    long = "a" * grams.HEAD + "x" * 10_000 + "b" * grams.TAIL
    (read,) = [bytes(grams.batch([long]).data)]
    assert read == b" " + b"a" * grams.HEAD + b" " + b"b" * grams.TAIL + b" "


def test_the_shape_tells_kinds_of_characters():
    loud, calm = grams.shape(["WIN £1000 NOW!!!", "where is my card?"])
    names = grams.KINDS
    assert loud[names.index("upper")] > calm[names.index("upper")]
    assert loud[names.index("!")] > 0 == calm[names.index("!")]
    assert (loud[-1], calm[-1]) == (0.0, 1.0)
    assert np.isfinite(grams.shape(["", "\ud800", "\x00"])).all()


def test_word_keys_see_words_alone():
    same = grams.word_keys(["Two days.", "two  DAYS", "- two days!", "two days"])
    assert len(set(same.tolist())) == 1
    others = grams.word_keys(["two days", "twodays", "days two", "two", "", "two days 1", "two days 2", "zwei Täge"])
    assert len(set(others.tolist())) == len(others)
    assert others[0] == same[0]
    assert len(grams.word_keys([])) == 0


@given(TEXTS)
@example(["two days", "?!"])
@example(["?"])
@example(["long ago " * 60_000, "two days", "long ago " * 60_000, "long ago"])
def test_a_text_has_the_same_word_key_alone_and_in_company(texts):
    assert grams.word_keys(texts).tolist() == [grams.word_keys([text]).tolist()[0] for text in texts]
