import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import sample_cycle
from hypothesis import example, given, settings
from hypothesis import strategies as st

from logtune.app import plots, report
from logtune.app.findings import gather
from logtune.config import Config, build
from logtune.edges.store import CycleRow, Store
from logtune.errors import InputError

VOID = {"meta", "br", "img", "hr", "link", "input"}


class Page(HTMLParser):
    """Tags, ids and text of a page; unbalanced tags fail."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "xlink:href")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


@pytest.fixture
def store(tmp_path: Path) -> Store:
    opened = Store(f"sqlite:///{tmp_path}/s.db")
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A base model of a known size that is not loaded; the sums of its files go to a cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return build({"model": {"base": str(sample_cycle.base_model(tmp_path / "base"))}})


def written(store: Store, tmp_path: Path) -> str:
    settings = build({"model": {"base": str(tmp_path / "base")}})
    return report.write(store, tmp_path / "out" / "report.html", settings).read_text(encoding="utf-8")


def test_the_page_says_what_was_learned_dropped_judged_and_deployed(store: Store, tmp_path: Path) -> None:
    sample_cycle.fill(store)
    text = " ".join(Page(written(store, tmp_path)).text.split())
    assert "4 rules learned from 30 users; 1 of 3 groups of requests now get better answers." in text
    assert "Use the topic card_arrival when a card has not come by post yet." in text
    assert "“" not in text  # quotes are the stylesheet's, so that copying a quote gives the words alone
    assert "too short · dropped · 14 (12%)" in text
    assert "an expert adapter failed its gate: the lower bound 0.19 is not above 0.50." in text
    assert "3 held-out cases, 8 are needed" in text
    assert "All live adapters together are 0.45% of the base model's parameters; 0.50% are allowed." in text
    assert "38 logs of 12 users" in text
    assert "ModelError" in text
    assert "Settings c0ffee" in text


def test_the_page_loads_nothing_runs_nothing_and_is_well_formed(store: Store, tmp_path: Path) -> None:
    sample_cycle.fill(store)
    page = Page(written(store, tmp_path))
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert page.tags.count("h1") == 1


def test_texts_from_logs_are_escaped_and_shortened(store: Store, tmp_path: Path) -> None:
    sample_cycle.fill(store)
    html = written(store, tmp_path)
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "{{ 7*7 }}" in html
    assert "\x1b" not in html
    assert "\u202e" not in html
    assert "long " * 100 not in html


def test_the_same_cycle_gives_the_same_page(store: Store, tmp_path: Path) -> None:
    sample_cycle.fill(store)
    assert written(store, tmp_path) == written(store, tmp_path)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.html"]


def test_every_plot_has_words_for_those_who_cannot_see_it(store: Store, tmp_path: Path) -> None:
    sample_cycle.fill(store)
    plotted = re.findall(r'<svg[^>]* role="img" aria-label="([^"]+)"', written(store, tmp_path))
    assert len(plotted) == 4
    assert any("too short 14 (12%)" in alt for alt in plotted)
    assert any("card_arrival 92% (65% to 98%)" in alt for alt in plotted)


def test_a_cycle_that_found_nothing_still_has_a_page(store: Store, tmp_path: Path) -> None:
    store.open_cycle(CycleRow(id="cyc-empty", config_hash="0", started_at=1.0, ended_at=None, receipt={}))
    text = " ".join(Page(written(store, tmp_path)).text.split())
    assert "There was nothing to learn from" in text
    assert "This cycle has not ended" in text
    assert "The base model serves every request." in text


def test_without_a_cycle_there_is_a_next_step(store: Store, tmp_path: Path, config: Config) -> None:
    with pytest.raises(InputError, match="logtune cycle runs one"):
        written(store, tmp_path)
    sample_cycle.fill(store)
    with pytest.raises(InputError, match="cyc-sample"):
        report.write(store, tmp_path / "r.html", config, "cyc-other")
    assert not (tmp_path / "r.html").exists()


def test_an_earlier_cycle_can_be_named_by_the_beginning_of_its_id(store: Store) -> None:
    sample_cycle.fill(store)
    store.open_cycle(CycleRow(id="cyc-later", config_hash="0", started_at=9e9, ended_at=None, receipt={}))
    assert gather(store).cycle.id == "cyc-later"
    assert gather(store, "cyc-s").cycle.id == "cyc-sample"


def test_findings_count_what_the_records_say(store: Store) -> None:
    sample_cycle.fill(store, naughty=False)
    found = gather(store, base_parameters=sample_cycle.BASE_PARAMETERS)
    assert (found.interactions, found.users, found.feedback, found.dropped) == (117, 29, 71, 46)
    assert [(group.name, group.users, group.pairs) for group in found.groups] == [
        ("card_arrival", 12, 38),
        ("refund_status", 12, 24),
        ("change_pin", 9, 9),
    ]
    assert [len(group.runs) for group in found.groups] == [1, 1, 0]
    assert found.groups[0].runs[0].last.losses == (1.61, 0.72, 0.31)
    assert [(item.logs, item.users) for item in found.serving] == [(38, 12)]
    assert found.share == pytest.approx(610_560 / sample_cycle.BASE_PARAMETERS)


def test_a_share_that_cannot_be_known_is_not_a_number(store: Store, tmp_path: Path) -> None:
    sample_cycle.fill(store)
    assert gather(store).share is None
    page = report.write(store, tmp_path / "r.html", build({"model": {"base": "owner/name"}})).read_text(
        encoding="utf-8"
    )
    assert "All live adapters together" not in page


def test_the_headline_says_plainly_when_nothing_was_learned_or_nothing_passed(store: Store) -> None:
    sample_cycle.fill(store)
    found = gather(store)
    failed = replace(found, groups=found.groups[1:])
    assert (
        report.headline(failed)
        == "4 rules learned from 30 users, but nothing new serves: no candidate passed its gate."
    )
    silent = replace(failed, lessons=(), corrected=0)
    assert report.headline(silent).endswith("from 118 messages of 30 users: nobody said what was wrong.")
    assert "no reaction was clear enough" in report.headline(replace(silent, corrected=3))
    assert "users without a name" in report.headline(replace(silent, users=0))


def test_guards_and_checks_are_told_in_words() -> None:
    assert report.in_words({"passed": False, "reason": "12% are empty"}) == "broken, 12% are empty"
    assert report.in_words({"scored": 32, "lost_unread": {}}) == "scored 32, lost unread none"
    assert report.in_words(0.123456) == "0.1235"


@settings(deadline=None)
@given(st.text(max_size=400))
def test_any_text_becomes_a_short_line_that_a_page_can_hold(text: str) -> None:
    line = report.short(text, 60)
    assert len(line) <= 60
    assert "\n" not in line
    line.encode("utf-8")


@settings(deadline=None, max_examples=20)
@given(st.text(max_size=80))
@example("\\A \\2 \\g<9>")
def test_any_label_can_be_plotted(label: str) -> None:
    drawn = plots.bars("b", label, [plots.Bar(label, 3.0)])
    Page(f"<body>{drawn}</body>")


@pytest.mark.parametrize(
    ("share", "words"),
    [(None, "–"), (0.0, "0%"), (0.0045, "0.45%"), (0.043, "4.3%"), (0.5, "50%"), (1.0, "100%"), (-0.02, "-2.0%")],
)
def test_shares_in_percent(share: float | None, words: str) -> None:
    assert report.percent(share) == words
