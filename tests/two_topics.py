"""A model of two topics, and a base model that knows neither: for whole cycles over `sample_logs`."""

from collections.abc import Callable

from logtune.ports import ChatCall
from logtune.testing import ScriptedChat


def topic(query: str) -> str:
    """The right answer to a request of the sample."""
    return "refund_status" if "refund" in query else "late_parcel"


def right(call: ChatCall) -> str:
    """The right answer to a call."""
    return topic(call.messages[-1].content)


def student(say: Callable[[ChatCall], str] = right) -> ScriptedChat:
    """What an adapter says of the two topics; the base model and probes get the same answers ever."""

    def answer(call: ChatCall) -> str:
        last = call.messages[-1].content
        if "refund" not in last and "parcel" not in last:
            return "It is as it is."
        return say(call) if call.model else "general_question"

    return ScriptedChat(answer)
