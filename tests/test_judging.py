"""Which corrections try the judge of the gate: those that are believed, of many users."""

from logtune.config import Config
from logtune.judging import CALIBRATED_ON, _spread
from logtune.records import Interaction, Message, PreferencePair, Standing
from logtune.runner import Board, Cycle
from logtune.testing import ScriptedChat, tools


def cycle(owners: list[str], held: tuple[str, ...] = ()) -> Cycle:
    """One correction of each of the users, in that order."""
    board = Board()
    for number, user in enumerate(owners):
        item = Interaction(
            id=f"int-{number}", log_id=f"log-{number}", query="q", answer="bad", context=(), follow_ups=(),
            feedback_ids=(), at=float(number), user=user, session=None, adapter=None,
        )  # fmt: skip
        pair = PreferencePair(
            id=f"pair-{number}", interaction_id=item.id, rule_ids=(), prompt=(Message(role="user", content="q"),),
            chosen="good", rejected="bad", margin=None, origin="edit",
        )  # fmt: skip
        board.add([item, pair])
    for name in held:
        board.add([Standing(id=f"std-{name}", lesson_id=name, state="held", reason="unbelieved", users=1, scores={})])
    return Cycle(
        id="c", config=Config(), tools=tools(ScriptedChat()), board=board, logs={}, feedback={}, serving={}, before={},
        progress=lambda line: None,
    )  # fmt: skip


def test_every_user_is_heard_before_anybody_is_heard_twice() -> None:
    loud, others = ["loud"] * 60, [f"user-{number % 12}" for number in range(36)]
    chosen = _spread(cycle([*loud, *others]))
    users = [([*loud, *others])[int(pair.id.removeprefix("pair-"))] for pair in chosen]
    assert set(users[:13]) == {"loud", *others}
    assert users.count("loud") <= 9  # as many as may train: three times what the typical user gives
    assert len(chosen) == CALIBRATED_ON


def test_one_user_alone_is_all_that_there_is() -> None:
    assert len(_spread(cycle(["only"] * 50))) == CALIBRATED_ON


def test_what_is_not_believed_tries_nobody() -> None:
    chosen = _spread(cycle(["a", "b", "c", "d"], held=("pair-1", "int-2")))
    assert [pair.id for pair in chosen] == ["pair-0", "pair-3"]
