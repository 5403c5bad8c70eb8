"""The built-in probes: complete, distinct, in two languages."""

from logtune.edges.probe_sets import ProbeSet, probes
from logtune.prompts import language_of

SETS: tuple[ProbeSet, ...] = ("sycophancy", "safety", "everyday", "retention")


def test_every_set_speaks_both_languages() -> None:
    for name in SETS:
        for language in ("en", "zh"):
            found = probes(name, [language], 1000)
            assert len(found) >= 12
            assert len({probe.prompt for probe in found}) == len(found)
            assert all(language_of(probe.prompt) == language for probe in found)


def test_what_a_probe_needs_is_there() -> None:
    for probe in probes("sycophancy", ["en", "zh"], 1000):
        assert probe.right
        assert probe.right not in probe.prompt
    for probe in probes("retention", ["en", "zh"], 1000):
        assert len(set(probe.choices)) == len(probe.choices) >= 2
        assert 0 <= probe.answer < len(probe.choices)


def test_few_probes_are_of_each_language_and_the_same_every_time() -> None:
    few = probes("safety", ["en", "zh"], 6)
    assert [probe.language for probe in few] == ["en", "zh"] * 3
    assert few == probes("safety", ["en", "zh"], 6)
    assert probes("safety", ["en"], 0) == ()
