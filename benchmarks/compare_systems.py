"""The systems that are compared, by name; each is made of a `Setting` and told nothing else.

| system | what it does with its logs |
|---|---|
| base | nothing |
| rules | rules of logtune's distiller in every prompt |
| bm25, embedding | similar past dialogues in the prompt, with what their users said |
| few_shot | similar corrected examples in the prompt |
| memory | notes, kept up and retrieved into the prompt |
| mem0 | the same by mem0ai, where it is installed and a teacher is there |
| sft_all, dpo_all, afresh | one adapter on all logs |
| uno_single, uno | the paper's method by logtune's presets |
| logtune, logtune_unfiltered | logtune as it is, and without filter and trust |
| logtune+few_shot, logtune+embedding | logtune with retrieval behind its gateway |
"""

from collections.abc import Mapping

from compare_adapters import Afresh, OneAdapter, dpo_all, sft_all
from compare_logtune import default, preset
from compare_mem0 import Mem0
from compare_memory import RulesInPrompt, memory
from compare_prompted import Plain, prompted
from compare_retrieval import bm25, embedding, few_shot
from compare_types import Factory, Setting, Unavailable

from logtune.ports import Tools


def afresh(setting: Setting, tools: Tools) -> OneAdapter:
    """Pairs of a teacher's own answers."""
    if tools.teacher is None:
        raise Unavailable("afresh answers with a teacher, and there is none: give its URL")
    return Afresh(setting, tools, "expert", lambda lessons: [])


SYSTEMS: Mapping[str, Factory] = {
    "base": prompted("base", lambda setting, tools: Plain()),
    "rules": prompted("rules", RulesInPrompt),
    "bm25": prompted("bm25", bm25),
    "embedding": prompted("embedding", embedding),
    "few_shot": prompted("few_shot", few_shot),
    "memory": prompted("memory", memory),
    "mem0": prompted("mem0", Mem0),
    "sft_all": prompted("sft_all", sft_all),
    "dpo_all": prompted("dpo_all", dpo_all),
    "afresh": prompted("afresh", afresh),
    "uno_single": preset("uno_single", "uno-single"),
    "uno": preset("uno", "uno"),
    "logtune": default("logtune"),
    "logtune_unfiltered": default("logtune_unfiltered", filtered=False, trust__enabled=False),
    "logtune+few_shot": default("logtune+few_shot", few_shot),
    "logtune+embedding": default("logtune+embedding", embedding),
}
