"""Identity, canonical form and shape of the records."""

import dataclasses
import re
import time
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logtune import records
from logtune.ids import PREFIX, canonical, digest, field_names, identified, new_id
from logtune.records import Cluster, Decision, Deployment, FollowUp, Interaction, Json, Message

DERIVED = typing.get_args(records.Derived)
ALL = (*typing.get_args(records.Record), Message, FollowUp)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def an_interaction(**changed: object) -> Interaction:
    whole = Interaction(
        id="", log_id="log-1", context=(Message(role="system", content="Be brief."),), query="Where is my parcel?",
        answer="It is on its way.", follow_ups=(FollowUp(text="No, it is not.", answer=None, log_id="log-2"),),
        feedback_ids=("fb-1",), user="user-1", session="s-1", adapter=None, at=1_750_000_000.0,
    )  # fmt: skip
    return dataclasses.replace(whole, **changed)  # type: ignore[arg-type]


def a_decision(scores: dict[str, float]) -> Decision:
    return Decision(id="", interaction_id="int-1", teaches="rule", reason="unsatisfied", scores=scores)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_records_are_frozen_slotted_and_made_by_keyword(kind: type) -> None:
    assert dataclasses.is_dataclass(kind)
    assert "__slots__" in vars(kind)
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert all(item.kw_only for item in dataclasses.fields(kind))
    assert kind.__doc__


@pytest.mark.parametrize("kind", DERIVED, ids=lambda kind: kind.__name__)
def test_every_derived_kind_has_a_prefix_of_its_own(kind: type) -> None:
    assert list(PREFIX.values()).count(PREFIX[kind.__name__]) == 1
    assert field_names(kind)[0] == "id"


def test_the_same_content_has_the_same_id() -> None:
    first, second = identified(an_interaction()), identified(an_interaction())
    assert first == second
    assert re.fullmatch(r"int-[0-9a-f]{16}", first.id)


def test_time_and_an_old_id_do_not_count() -> None:
    assert identified(an_interaction()).id == identified(an_interaction(id="int-old", at=0.0)).id


@pytest.mark.parametrize(
    "changed",
    [
        {"query": "Where is it?"},
        {"user": None},
        {"context": ()},
        {"follow_ups": ()},
        {"feedback_ids": ("fb-1", "fb-2")},
    ],
    ids=str,
)
def test_any_other_change_is_another_record(changed: dict[str, object]) -> None:
    assert identified(an_interaction(**changed)).id != identified(an_interaction()).id


def test_the_order_of_a_mapping_does_not_count() -> None:
    assert identified(a_decision({"a": 1.0, "b": 2.0})).id == identified(a_decision({"b": 2.0, "a": 1.0})).id


def test_the_order_of_a_tuple_counts() -> None:
    cluster = Cluster(id="", interaction_ids=("a", "b"), centroids=((1.0, 0.0),), radius=0.5, label="parcels")
    turned = dataclasses.replace(cluster, interaction_ids=("b", "a"))
    assert identified(cluster).id != identified(turned).id


def test_a_kind_is_part_of_its_id() -> None:
    made = identified(
        Deployment(
            id="", cluster_id="clu-1", cluster_name="parcels", candidate="base", adapter_id=None, verdict_id=None,
            previous_id=None, action="keep", reason="by hand", at=1.0,
        )
    )  # fmt: skip
    assert made.id.startswith("dep-")


@given(JSON)
def test_canonical_text_is_stable_and_hashable(value: Json) -> None:
    assert canonical(value) == canonical(value)
    assert re.fullmatch("[0-9a-f]{16}", digest(value))


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=6))
def test_canonical_text_ignores_the_order_of_keys(value: dict[str, Json]) -> None:
    assert canonical(value) == canonical(dict(reversed(value.items())))


def test_a_lone_surrogate_can_be_hashed() -> None:
    assert digest("\ud800") != digest("\ud801")


def test_digest_is_as_long_as_asked() -> None:
    assert len(digest("text", 64)) == 64
    assert digest("text", 64).startswith(digest("text"))


def test_new_ids_are_version_7_and_hold_the_time() -> None:
    before = int(time.time() * 1000)
    made = new_id()
    after = int(time.time() * 1000)
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", made)
    assert before <= int(made.replace("-", "")[:12], 16) <= after


def test_new_ids_differ() -> None:
    assert len({new_id() for _ in range(1000)}) == 1000
