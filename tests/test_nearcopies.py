"""Near copies by MinHash: found, kept apart by owner, forgotten when the table is full."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logtune.stages import grams
from logtune.stages.nearcopies import HASHES, NONE, NearCopies, signatures

LONG = "I have been waiting for my new card for two weeks now, could you please tell me where it is and when it comes"
OTHER = "What is the exchange rate that you use when I pay in a foreign currency with the card during a holiday abroad"


def marks(*texts):
    return signatures(grams.batch(texts))


def owners(*numbers):
    return np.array(numbers, np.uint64)


def shingles(text):
    plain = f" {' '.join(text.lower().split())} "
    return {plain[at : at + 5] for at in range(len(plain) - 4)}


def test_agreement_estimates_the_share_of_common_5_grams():
    changed = LONG.replace("two weeks", "ten days")
    one, other = shingles(LONG), shingles(changed)
    found = (marks(LONG)[0] == marks(changed)[0]).mean()
    assert found == pytest.approx(len(one & other) / len(one | other), abs=0.2)
    assert (marks(LONG)[0] == marks(OTHER)[0]).mean() < 0.1


def test_a_near_copy_names_the_first_of_its_kind():
    index = NearCopies(64)
    first, _ = index.add(marks(LONG, OTHER), owners(1, 1))
    assert first.tolist() == [NONE, NONE]
    later, similar = index.add(marks(LONG + "?", "something else entirely, not seen before", OTHER), owners(1, 1, 1))
    assert later.tolist() == [0, NONE, 1]
    assert similar[0] >= 0.85
    assert similar[2] == 1.0


def test_copies_inside_a_batch_are_found():
    rows, _ = NearCopies(64).add(marks(LONG, OTHER, LONG, LONG), owners(1, 1, 1, 1))
    assert rows.tolist() == [NONE, NONE, 0, 0]


def test_another_owner_has_no_copies():
    index = NearCopies(64)
    index.add(marks(LONG), owners(1))
    rows, _ = index.add(marks(LONG, LONG), owners(2, 3))
    assert rows.tolist() == [NONE, NONE]


def test_the_oldest_are_forgotten_and_memory_stays():
    index = NearCopies(16)
    before = sum(array.nbytes for array in (index._marks, index._rows, index._known, index._owners))
    index.add(marks(LONG), owners(1))
    for number in range(8):
        index.add(marks(*(f"filler {number} {n} {OTHER[n:]}" for n in range(4))), owners(1, 1, 1, 1))
    rows, _ = index.add(marks(LONG), owners(1))
    assert rows.tolist() == [NONE]
    assert before == sum(array.nbytes for array in (index._marks, index._rows, index._known, index._owners))


@given(st.lists(st.text(max_size=40), min_size=1, max_size=6))
def test_any_text_has_a_signature_and_is_a_copy_of_itself(texts):
    found = marks(*texts)
    assert found.shape == (len(texts), HASHES)
    index = NearCopies(64)
    index.add(found, owners(*[7] * len(texts)))
    rows, similar = index.add(found, owners(*[7] * len(texts)))
    assert (rows >= 0).all()
    assert (similar >= 0.85).all()
